/** The signals that end a server, and those that must not harm it. */
import { ignoreSignal } from "../os/signal_calls.ts";

const STOPPING = ["SIGTERM", "SIGINT", "SIGQUIT"] as const;

/**
 * Takes over the signals of a server while it runs.
 *
 * SIGTERM, SIGINT and SIGQUIT ask it to stop, and when they come again, to stop at once. SIGHUP and SIGUSR2 are
 * passed on.
 * SIGUSR1 would have the runtime open a debugger port to every local user: it does nothing instead.
 */
export class StopSignals implements Disposable {
  readonly #handlers: [Deno.Signal, () => void][] = [];
  readonly #stop = Promise.withResolvers<string>();
  readonly #stopAtOnce = Promise.withResolvers<string>();
  #stopping = false;

  /** What SIGHUP does, and what SIGUSR2. */
  constructor({ hangup, reopenLog }: { hangup: () => void; reopenLog: () => void }) {
    for (const signal of STOPPING) this.#listen(signal, () => this.#ask(signal));
    this.#listen("SIGHUP", hangup);
    this.#listen("SIGUSR2", reopenLog);
    // The listener takes the signal away from the runtime; from then on the system drops it.
    this.#listen("SIGUSR1", () => {});
    ignoreSignal("SIGUSR1");
  }

  /** Resolves with the name of the first signal that asks the server to stop. */
  get stop(): Promise<string> {
    return this.#stop.promise;
  }

  /** Resolves with the name of the second one. */
  get stopAtOnce(): Promise<string> {
    return this.#stopAtOnce.promise;
  }

  #listen(signal: Deno.Signal, handler: () => void): void {
    Deno.addSignalListener(signal, handler);
    this.#handlers.push([signal, handler]);
  }

  #ask(signal: string): void {
    if (this.#stopping) this.#stopAtOnce.resolve(signal);
    this.#stopping = true;
    this.#stop.resolve(signal);
  }

  [Symbol.dispose](): void {
    for (const [signal, handler] of this.#handlers) Deno.removeSignalListener(signal, handler);
  }
}
