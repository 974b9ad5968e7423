import type { Connection } from "../../src/net/connection.ts";
import type { Random } from "./fuzzer.ts";
import { turns } from "./turns.ts";

export interface ConnectionMoods {
  /** Probability per read or write that it takes a while. */
  readonly slow: number;
  /** Bytes written after which it breaks; `Infinity` for never. */
  readonly breaksAfterBytes: number;
}

/** One end of a connection that answers now or later, and may break in the middle of a write. */
export class MoodyConnection implements Connection {
  readonly #next: Connection;
  readonly #random: Random;
  readonly #moods: ConnectionMoods;
  #writing: Promise<void> = Promise.resolve();
  #slowWrites = 0;
  #writtenBytes = 0;
  #closed = false;

  constructor(next: Connection, random: Random, moods: ConnectionMoods) {
    this.#next = next;
    this.#random = random;
    this.#moods = moods;
  }

  get peer() {
    return this.#next.peer;
  }

  read(into: Uint8Array): number | null | Promise<number | null> {
    const part = into.subarray(0, 1 + this.#random.below(into.length));
    return this.#random.chance(this.#moods.slow) ? this.#readLater(part) : this.#next.read(part);
  }

  async #readLater(into: Uint8Array): Promise<number | null> {
    await turns(this.#random.below(20));
    return await this.#next.read(into);
  }

  write(bytes: Uint8Array): void | Promise<void> {
    if (this.#slowWrites === 0 && !this.#random.chance(this.#moods.slow)) return this.#write(bytes);
    this.#slowWrites++;
    const wait = this.#random.below(20);
    const written = this.#writing.then(() => turns(wait)).then(() => this.#write(bytes));
    this.#writing = written.catch(() => {}).then(() => {
      this.#slowWrites--;
    });
    return written;
  }

  #write(bytes: Uint8Array): void {
    if (this.#closed) throw new Error("the connection is closed");
    const room = this.#moods.breaksAfterBytes - this.#writtenBytes;
    this.#writtenBytes += bytes.length;
    if (bytes.length <= room) {
      this.#next.write(bytes);
      return;
    }
    this.#next.write(bytes.subarray(0, Math.max(0, room)));
    this.close();
    throw new Error("the connection broke");
  }

  close(): void {
    this.#closed = true;
    this.#next.close();
  }
}
