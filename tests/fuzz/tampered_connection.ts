import type { Connection } from "../../src/net/connection.ts";
import type { Random } from "./fuzzer.ts";

export interface Tampering {
  /** Probability that a byte read is another than was written. */
  readonly damagePerByte: number;
  /** So many bytes at the start are left alone. */
  readonly quietBytes: number;
  /** Bytes after which nothing more is read, as if the peer had gone. */
  readonly endsAfterBytes: number;
}

/** One end of a connection whose other end is not heard well. */
export class TamperedConnection implements Connection {
  readonly #next: Connection;
  readonly #random: Random;
  readonly #tampering: Tampering;
  #readBytes = 0;

  constructor(next: Connection, random: Random, tampering: Tampering) {
    this.#next = next;
    this.#random = random;
    this.#tampering = tampering;
  }

  get peer() {
    return this.#next.peer;
  }

  async read(into: Uint8Array): Promise<number | null> {
    const count = await this.#next.read(into.subarray(0, 1 + this.#random.below(into.length)));
    if (count === null || this.#readBytes >= this.#tampering.endsAfterBytes) return null;
    for (let at = 0; at < count; at++) {
      if (this.#readBytes++ < this.#tampering.quietBytes) continue;
      if (this.#random.chance(this.#tampering.damagePerByte)) into[at] ^= 1 << this.#random.below(8);
    }
    return count;
  }

  write(bytes: Uint8Array): void | Promise<void> {
    return this.#next.write(bytes);
  }

  close(): void {
    this.#next.close();
  }
}
