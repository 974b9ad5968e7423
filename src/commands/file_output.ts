import { isZero } from "../base/zero_check.ts";
import type { Output } from "./command.ts";

/** Blocks of zeroes of this size and alignment become holes. */
const BLOCK_BYTES = 4096;

/** A new file that grows as it is written, with holes for zeroes. */
export class FileOutput implements Output, Disposable {
  readonly isTerminal = false;
  readonly #file: Deno.FsFile;
  #position = 0;
  #seekTo: number | null = null;

  /** @param file Empty, and owned. */
  constructor(file: Deno.FsFile) {
    this.#file = file;
  }

  async write(data: string | Uint8Array): Promise<void> {
    let rest = typeof data === "string" ? new TextEncoder().encode(data) : data;
    while (rest.length > 0) {
      const zero = isZero(this.#firstBlock(rest));
      let length = 0;
      while (length < rest.length) {
        const block = this.#firstBlock(rest, length);
        if (isZero(block) !== zero) break;
        length += block.length;
      }
      if (zero) this.#seekTo = this.#position + length;
      else await this.#writeData(rest.subarray(0, length));
      this.#position += length;
      rest = rest.subarray(length);
    }
  }

  /** Gives the file its length and makes it durable. */
  async finish(): Promise<void> {
    await this.#file.truncate(this.#position);
    await this.#file.sync();
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }

  /** The block of the file at whose place `bytes.subarray(from)` begins, as far as it is there. */
  #firstBlock(bytes: Uint8Array, from = 0): Uint8Array {
    return bytes.subarray(from, from + BLOCK_BYTES - (this.#position + from) % BLOCK_BYTES);
  }

  async #writeData(data: Uint8Array): Promise<void> {
    if (this.#seekTo !== null) await this.#file.seek(this.#seekTo, Deno.SeekMode.Start);
    this.#seekTo = null;
    while (data.length > 0) data = data.subarray(await this.#file.write(data));
  }
}
