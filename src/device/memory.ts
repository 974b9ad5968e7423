import type { BlockDevice, Extent, ZeroOptions } from "./device.ts";

/** Memory is taken, and given back, in pieces of this many bytes; holes are multiples of it. */
const PAGE_BYTES = 64 * 1024;

/** A sparse disk in memory: for tests and demonstrations. Answers everything at once; keeps nothing. */
export class MemoryDisk implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes = { minimum: 1, preferred: 4096, maximumPayload: 32 * 1024 * 1024 };
  readonly can = {
    write: true,
    flush: true,
    fua: true,
    trim: true,
    zero: true,
    fastZero: true,
    cache: true,
    multiConn: true,
    extents: true,
    rotational: false,
  };
  readonly #pages = new Map<number, Uint8Array>();

  /** @param sizeBytes Size in bytes; takes no memory until written. */
  constructor(sizeBytes: number) {
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) {
      throw new RangeError(`cannot make a disk of ${sizeBytes} bytes`);
    }
    this.sizeBytes = sizeBytes;
  }

  read(offset: number, into: Uint8Array): void {
    for (const { page, from, length, at } of pieces(offset, into.length)) {
      const bytes = this.#pages.get(page);
      if (bytes === undefined) into.fill(0, at, at + length);
      else into.set(bytes.subarray(from, from + length), at);
    }
  }

  write(offset: number, data: Uint8Array): void {
    for (const { page, from, length, at } of pieces(offset, data.length)) {
      this.#allocate(page).set(data.subarray(at, at + length), from);
    }
  }

  flush(): void {}

  trim(offset: number, length: number): void {
    this.zero(offset, length);
  }

  zero(offset: number, length: number, { mayPunch = true }: ZeroOptions = {}): void {
    const first = Math.floor(offset / PAGE_BYTES);
    const last = Math.floor((offset + length - 1) / PAGE_BYTES);
    // Looks at the pages that exist where they are fewer than those of the range, which may be far longer.
    const sparse = mayPunch && this.#pages.size < last - first;
    const pages = sparse
      ? [...this.#pages.keys()].filter((page) => page >= first && page <= last)
      : numbers(first, last);
    for (const page of pages) {
      const bytes = mayPunch ? this.#pages.get(page) : this.#allocate(page);
      if (bytes === undefined) continue;
      const from = Math.max(0, offset - page * PAGE_BYTES);
      const to = Math.min(bytes.length, offset + length - page * PAGE_BYTES);
      if (mayPunch && from === 0 && to === bytes.length) this.#pages.delete(page);
      else bytes.fill(0, from, to);
    }
  }

  /** Answers for at most 1,024 pages. */
  extents(offset: number, length: number): Extent[] {
    const found: { kind: Extent["kind"]; length: number }[] = [];
    let seen = 0;
    for (const piece of pieces(offset, length)) {
      if (++seen > 1024) break;
      const kind = this.#pages.has(piece.page) ? "data" : "hole";
      const last = found.at(-1);
      if (last?.kind === kind) last.length += piece.length;
      else found.push({ kind, length: piece.length });
    }
    return found;
  }

  cache(): void {}

  close(): Promise<void> {
    return Promise.resolve();
  }

  #allocate(page: number): Uint8Array {
    let bytes = this.#pages.get(page);
    if (bytes === undefined) {
      bytes = new Uint8Array(Math.min(PAGE_BYTES, this.sizeBytes - page * PAGE_BYTES));
      this.#pages.set(page, bytes);
    }
    return bytes;
  }
}

function* numbers(first: number, last: number) {
  for (let number = first; number <= last; number++) yield number;
}

/** The range cut at page boundaries: which page, from where in it, how long, and how far into the range. */
function* pieces(offset: number, length: number) {
  for (let at = 0; at < length;) {
    const page = Math.floor((offset + at) / PAGE_BYTES);
    const from = (offset + at) % PAGE_BYTES;
    const piece = { page, from, length: Math.min(PAGE_BYTES - from, length - at), at };
    yield piece;
    at += piece.length;
  }
}
