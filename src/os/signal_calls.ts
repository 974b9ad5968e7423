/** What the runtime does not let a program do with signals. */
import { libc } from "./libc.ts";

/** Linux numbers. */
const NUMBERS = { SIGUSR1: 10 } as const;
const SIG_IGN = 1n;

/** Has the system drop a signal. Where libc is missing, nothing happens. */
export function ignoreSignal(signal: keyof typeof NUMBERS): void {
  libc()?.signal(NUMBERS[signal], SIG_IGN);
}
