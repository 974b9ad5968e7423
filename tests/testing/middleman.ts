/** Somebody between a client and a server, who sees every byte and may alter it. */
import { concat } from "@std/bytes";
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

/** So much of a sentence is recognised. */
const RECOGNISED_BYTES = 8;

/** Somebody in between who only listens. */
export class Eavesdropper extends Middleman {
  readonly #heard: Uint8Array[];

  constructor(target: number) {
    const heard: Uint8Array[] = [];
    super(target, (_from, bytes) => {
      heard.push(bytes);
      return bytes;
    });
    this.#heard = heard;
  }

  /** Bytes heard so far, in both directions. */
  get byteCount(): number {
    return this.#heard.reduce((count, { length }) => count + length, 0);
  }

  /** How many places of what was heard hold eight bytes of a text in which this sentence, in ASCII, is repeated. */
  recognised(sentence: string): number {
    const text = new TextEncoder().encode(sentence.repeat(2));
    const runs = new Set<string>();
    for (let at = 0; at < sentence.length; at++) runs.add(text.subarray(at, at + RECOGNISED_BYTES).toHex());
    const heard = concat(this.#heard);
    let found = 0;
    for (let at = 0; at + RECOGNISED_BYTES <= heard.length; at++) {
      if (runs.has(heard.subarray(at, at + RECOGNISED_BYTES).toHex())) found++;
    }
    return found;
  }
}
