/** Takes big-endian fields off the front of a message. Asking beyond its end throws what `short` makes. */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #short: (wantedBytes: number, leftBytes: number) => Error;
  #at = 0;

  /** @param short Makes the error for a message that ends too early. */
  constructor(bytes: Uint8Array, short: (wantedBytes: number, leftBytes: number) => Error) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#short = short;
  }

  /** Bytes that have not been taken. */
  get leftBytes(): number {
    return this.#bytes.length - this.#at;
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2));
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4));
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8));
  }

  /** The next `byteCount` bytes: a view, not a copy. */
  bytes(byteCount: number): Uint8Array {
    const at = this.#take(byteCount);
    return this.#bytes.subarray(at, at + byteCount);
  }

  #take(byteCount: number): number {
    if (byteCount > this.leftBytes) throw this.#short(byteCount, this.leftBytes);
    const at = this.#at;
    this.#at += byteCount;
    return at;
  }
}
