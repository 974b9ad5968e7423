const INTERRUPTING = ["SIGINT", "SIGTERM"] as const;

/** Turns SIGINT and SIGTERM into an abort, for work that has something to tidy up. */
export class Interruption implements Disposable {
  readonly #controller = new AbortController();
  readonly #handlers = INTERRUPTING.map((name) => {
    const handler = () => this.#controller.abort(new Error(`interrupted by ${name}`));
    Deno.addSignalListener(name, handler);
    return { name, handler };
  });

  /** Fires with an error that names what arrived. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  [Symbol.dispose](): void {
    for (const { name, handler } of this.#handlers) Deno.removeSignalListener(name, handler);
  }
}
