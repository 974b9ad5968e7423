/** Somebody between a client and a server, who sees every byte and may alter it. */
import { dial } from "../../src/net/dial.ts";
import type { Connection } from "../../src/net/connection.ts";
import { listenTcp } from "../../src/net/listener.ts";

/** Sees every chunk: who sent it, where in its direction of the connection it starts, and which connection it is. */
export type Meddle = (from: "client" | "server", bytes: Uint8Array, at: number, number: number) => Uint8Array;

/** Passes connections on to another port, through a hook. */
export class Middleman implements Disposable {
  readonly listener = listenTcp("127.0.0.1", 0);
  readonly #connections = new Set<Connection>();
  /** Connections taken so far. */
  count = 0;
  /** Ends that were seen so far: each connection has two. */
  ended = 0;

  constructor(readonly target: number, readonly meddle: Meddle) {
    void this.#run();
  }

  async #run(): Promise<void> {
    for (let near; (near = await this.listener.accept()) !== null;) {
      let far: Connection;
      try {
        far = await dial({ transport: "tcp", host: "127.0.0.1", port: this.target });
      } catch {
        near.close();
        continue;
      }
      const number = this.count++;
      void this.#pass("client", near, far, number);
      void this.#pass("server", far, near, number);
    }
  }

  async #pass(
    from: "client" | "server",
    source: Connection,
    target: Connection,
    number: number,
  ): Promise<void> {
    this.#connections.add(source);
    const chunk = new Uint8Array(64 * 1024);
    try {
      let at = 0;
      for (let count; (count = await source.read(chunk)) !== null;) {
        await target.write(this.meddle(from, chunk.slice(0, count), at, number));
        at += count;
      }
    } catch {
      // The other side has gone.
    }
    this.ended++;
    target.close();
  }

  /** Ends all connections; later ones are passed on again. */
  cut(): void {
    for (const connection of this.#connections) connection.close();
    this.#connections.clear();
  }

  [Symbol.dispose]() {
    this.listener.close();
    this.cut();
  }
}
