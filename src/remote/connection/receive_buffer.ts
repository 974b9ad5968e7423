/**
 * The bytes that a server has sent and nobody has used up yet.
 *
 * It is as small as a quiet connection needs until the first time it is full.
 */

/** Room for many small replies; a longer payload is received where it belongs. */
export const RECEIVE_BYTES = 256 * 1024;
const RECEIVE_BYTES_FIRST = 16 * 1024;

export class ReceiveBuffer {
  #bytes: Uint8Array<ArrayBuffer> = new Uint8Array(RECEIVE_BYTES_FIRST);
  #view = new DataView(this.#bytes.buffer);
  /** The unused bytes are those from start to end. */
  #start = 0;
  #end: number;

  /** @param rest What came together with the handshake, which reads less at a time than fits in here. */
  constructor(rest: Uint8Array) {
    this.#bytes.set(rest);
    this.#end = rest.length;
  }

  /** Unused bytes. */
  get available(): number {
    return this.#end - this.#start;
  }

  /** On all of it; to be had anew when something has been received. */
  get view(): DataView<ArrayBuffer> {
    return this.#view;
  }

  /** Where the unused bytes begin in the {@linkcode view}. */
  get start(): number {
    return this.#start;
  }

  /** Uses up so many bytes, of those that are there. */
  skip(count: number): void {
    this.#start += count;
  }

  /** Uses up so many bytes, of those that are there. @returns Them, until more is received. */
  take(count: number): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(this.#start, this.#start += count);
  }

  /** Uses up the bytes that are there, as many as fit into `place`. @returns How many. */
  moveInto(place: Uint8Array, at: number): number {
    const count = Math.min(this.#end - this.#start, place.length - at);
    if (count > 0) place.set(this.take(count), at);
    return count;
  }

  /**
   * The free end of the buffer: never empty, for what is left in it is the beginning of a message that fits.
   *
   * @param messageBytes The length of that message, if it is known and to be had whole; else 0.
   * @param limitBytes Of unused bytes no more are wanted in the buffer.
   */
  room(messageBytes: number, limitBytes: number): Uint8Array<ArrayBuffer> {
    if (messageBytes === 0 || this.#start + messageBytes > this.#bytes.length) this.#makeRoom();
    return this.#bytes.subarray(this.#end, this.#start + limitBytes);
  }

  /** So many bytes were read into the {@linkcode room}. */
  received(count: number): void {
    this.#end += count;
  }

  #makeRoom(): void {
    const old = this.#bytes;
    // Whoever fills the buffer has more to say.
    if (this.#end === old.length && old.length < RECEIVE_BYTES) {
      this.#bytes = new Uint8Array(old.length * 4);
      this.#view = new DataView(this.#bytes.buffer);
      this.#bytes.set(old.subarray(this.#start, this.#end));
    } else {
      old.copyWithin(0, this.#start, this.#end);
    }
    this.#end -= this.#start;
    this.#start = 0;
  }
}
