import { assert } from "@std/assert";

/** A plain array that knows what a disk must hold, and where it may hold anything because an operation failed. */
export class DiskModel {
  readonly #bytes: Uint8Array;
  /** 1 where the content is not known. */
  readonly #unknown: Uint8Array;

  constructor(sizeBytes: number) {
    this.#bytes = new Uint8Array(sizeBytes);
    this.#unknown = new Uint8Array(sizeBytes);
  }

  write(offset: number, data: Uint8Array): void {
    this.#bytes.set(data, offset);
    this.#unknown.fill(0, offset, offset + data.length);
  }

  zero(offset: number, length: number): void {
    this.write(offset, new Uint8Array(length));
  }

  /** The range may hold anything from now on. */
  forget(offset: number, length: number): void {
    this.#unknown.fill(1, offset, offset + length);
  }

  /** What the range holds now, to be held against what is read later. */
  expect(offset: number, length: number): Expectation {
    const bytes = this.#bytes.slice(offset, offset + length);
    const unknown = this.#unknown.slice(offset, offset + length);
    return {
      checkData(data) {
        assert(data.length === length, `${data.length} bytes are read instead of ${length}`);
        const wrong = bytes.findIndex((byte, at) => unknown[at] === 0 && data[at] !== byte);
        assert(wrong < 0, `byte ${offset + wrong} reads as ${data[wrong]}, not ${bytes[wrong]}`);
      },
      checkZero(from, count) {
        const wrong = bytes.subarray(from, from + count).findIndex((byte, at) =>
          unknown[from + at] === 0 && byte !== 0
        );
        assert(wrong < 0, `byte ${offset + from + wrong} is told to be zero`);
      },
    };
  }
}

export interface Expectation {
  checkData(data: Uint8Array): void;
  /** A part of the range, counted from its start, is said to read as zeroes. */
  checkZero(from: number, count: number): void;
}
