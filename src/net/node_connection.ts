/** A {@linkcode Connection} over a socket of `node:net`, for what the runtime's own connections cannot do. */
import type { Socket } from "node:net";
import type { Connection, Peer } from "./connection.ts";
import { tcpPeer } from "./peer.ts";

export class NodeConnection implements Connection {
  readonly #socket: Socket;
  /** What the socket gave beyond the last read. */
  #surplus: Uint8Array = new Uint8Array(0);
  #ended = false;
  /** Wakes the read that waits. */
  #wake: () => void = () => {};

  /**
   * @param socket Connected, paused, with nobody listening to it.
   * @param peer Default: the other end of a TCP connection.
   */
  constructor(
    socket: Socket,
    readonly peer: Peer = tcpPeer(socket.remoteAddress ?? "", socket.remotePort ?? 0),
  ) {
    this.#socket = socket;
    socket.on("readable", () => this.#wake());
    for (const event of ["end", "error", "close"]) {
      socket.on(event, () => {
        this.#ended = true;
        this.#wake();
      });
    }
  }

  async read(into: Uint8Array): Promise<number | null> {
    while (this.#surplus.length === 0) {
      const chunk = this.#socket.read() as Uint8Array | null;
      if (chunk !== null) this.#surplus = chunk;
      else if (this.#ended) return null;
      else await new Promise<void>((resolve) => this.#wake = resolve);
    }
    const count = Math.min(into.length, this.#surplus.length);
    into.set(this.#surplus.subarray(0, count));
    this.#surplus = this.#surplus.subarray(count);
    return count;
  }

  write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.write(bytes, (error) => error ? reject(error) : resolve());
    });
  }

  close(): void {
    this.#ended = true;
    this.#surplus = new Uint8Array(0);
    this.#socket.destroy();
    this.#wake();
  }
}
