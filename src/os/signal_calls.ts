/** What the runtime does not let a program do with signals. */
import { libc } from "./libc.ts";

/** Linux numbers. */
const NUMBERS = { SIGHUP: 1, SIGUSR1: 10 } as const;
const SIG_IGN = 1n;

/** Has the system drop a signal. Where libc is missing, nothing happens. */
export function ignoreSignal(signal: keyof typeof NUMBERS): void {
  libc()?.signal(NUMBERS[signal], SIG_IGN);
}

/** Whether the system drops a signal because who started the program wants it so, as `nohup` does with SIGHUP. */
export function isSignalIgnored(signal: keyof typeof NUMBERS): boolean {
  const lib = libc();
  if (lib === null) return false;
  const before = BigInt(lib.signal(NUMBERS[signal], SIG_IGN));
  if (before !== SIG_IGN) lib.signal(NUMBERS[signal], before);
  return before === SIG_IGN;
}
