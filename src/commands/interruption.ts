import { ignoreSignal, isSignalIgnored } from "../os/signal_calls.ts";

const INTERRUPTING = ["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP"] as const;

/** Turns the signals that end a program into an abort, for work that has something to tidy up. */
export class Interruption implements Disposable {
  readonly #controller = new AbortController();
  readonly #handlers: { readonly name: Deno.Signal; readonly handler: () => void }[] = [];

  constructor() {
    // Who started the program with nohup wants it to go on.
    const stays = isSignalIgnored("SIGHUP");
    for (const name of INTERRUPTING) {
      if (name === "SIGHUP" && stays) continue;
      const handler = () => this.#controller.abort(new Error(`interrupted by ${name}`));
      Deno.addSignalListener(name, handler);
      this.#handlers.push({ name, handler });
    }
    // With the first listener the runtime takes over all of them.
    if (stays) ignoreSignal("SIGHUP");
  }

  /** Fires with an error that names what arrived. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  [Symbol.dispose](): void {
    for (const { name, handler } of this.#handlers) Deno.removeSignalListener(name, handler);
  }
}
