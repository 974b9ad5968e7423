/**
 * The requests of one client that wait for the disk: how many, how large, and when there is room for more.
 *
 * What a client can have waiting is bounded; beyond that nothing is read from it.
 */

const REQUESTS_MAX = 128;
const BYTES_MAX = 64 * 1024 * 1024;
/** Where all clients together have too much waiting. */
const BYTES_MAX_CROWDED = 256 * 1024;

/** What a client may have waiting so that the next request is still read. */
export const READABLE_BACKLOG = { requests: REQUESTS_MAX - 1, bytes: BYTES_MAX - 1 } as const;

export class Backlog {
  #requests = 0;
  #bytes = 0;
  #progress: PromiseWithResolvers<void> | null = null;
  readonly #onEmpty: () => void;

  /** @param onEmpty Called whenever the last request that waited has ended. */
  constructor(onEmpty: () => void) {
    this.#onEmpty = onEmpty;
  }

  get requests(): number {
    return this.#requests;
  }

  /** @param crowded Whether all clients together have too much waiting. */
  isFull(crowded: boolean): boolean {
    return this.#requests >= REQUESTS_MAX || this.#bytes >= (crowded ? BYTES_MAX_CROWDED : BYTES_MAX);
  }

  /** A request waits, and with it this many bytes. */
  begin(byteCount: number): void {
    this.#requests++;
    this.#bytes += byteCount;
  }

  /** It has been answered. */
  end(byteCount: number): void {
    this.#requests--;
    this.#bytes -= byteCount;
    this.#progressed();
    if (this.#requests === 0) this.#onEmpty();
  }

  /** A piece of a request that waits already. */
  beginBytes(byteCount: number): void {
    this.#bytes += byteCount;
  }

  endBytes(byteCount: number): void {
    this.#bytes -= byteCount;
    this.#progressed();
  }

  /** Resolves when something has ended. Something must be waiting. */
  wait(): Promise<void> {
    this.#progress ??= Promise.withResolvers<void>();
    return this.#progress.promise;
  }

  #progressed(): void {
    this.#progress?.resolve();
    this.#progress = null;
  }
}
