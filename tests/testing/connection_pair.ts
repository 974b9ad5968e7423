/** Two connections, each the other's peer, over memory. */
import type { Connection, Peer } from "../../src/net/connection.ts";

const PEER: Peer = { transport: "memory", address: "memory", text: "memory" };

/** One direction of bytes, unbounded: what is written is there for the reader. */
class Pipe {
  #chunks: Uint8Array[] = [];
  #ended = false;
  #wake: (() => void) | undefined;

  write(bytes: Uint8Array): void {
    if (bytes.length > 0) this.#chunks.push(bytes);
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  take(into: Uint8Array): number | null | undefined {
    const chunk = this.#chunks[0];
    if (chunk === undefined) return this.#ended ? null : undefined;
    const count = Math.min(chunk.length, into.length);
    into.set(chunk.subarray(0, count));
    if (count === chunk.length) this.#chunks.shift();
    else this.#chunks[0] = chunk.subarray(count);
    return count;
  }

  async read(into: Uint8Array): Promise<number | null> {
    while (true) {
      const count = this.take(into);
      if (count !== undefined) return count;
      await new Promise<void>((resolve) => this.#wake = resolve);
      this.#wake = undefined;
    }
  }
}

class MemoryConnection implements Connection {
  readonly peer = PEER;
  #closed = false;
  readonly #incoming: Pipe;
  readonly #outgoing: Pipe;
  readonly #bytesPerRead: number;

  constructor(incoming: Pipe, outgoing: Pipe, bytesPerRead: number) {
    this.#incoming = incoming;
    this.#outgoing = outgoing;
    this.#bytesPerRead = bytesPerRead;
  }

  read(into: Uint8Array): number | null | Promise<number | null> {
    if (this.#closed) return null;
    const part = into.subarray(0, this.#bytesPerRead);
    const count = this.#incoming.take(part);
    return count === undefined ? this.#incoming.read(part) : count;
  }

  write(bytes: Uint8Array): void {
    if (this.#closed) throw new Error("the connection is closed");
    // The writer may reuse the bytes as soon as this returns.
    this.#outgoing.write(bytes.slice());
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#incoming.end();
    this.#outgoing.end();
  }
}

/**
 * Makes a connected pair. Closing one end lets the other read what was written, then `null`.
 *
 * @param bytesPerRead The most a single read delivers: 1 cuts the stream at every byte.
 */
export function connectionPair(bytesPerRead = Infinity): [Connection, Connection] {
  const there = new Pipe();
  const back = new Pipe();
  return [new MemoryConnection(back, there, bytesPerRead), new MemoryConnection(there, back, bytesPerRead)];
}
