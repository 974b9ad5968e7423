/**
 * Finds out who reads in sequence, and says what to fetch before it is asked for.
 *
 * Several readers may be in sequence at once, each at its own place. A reader counts as sequential from its second
 * read that begins where it left off, or close behind. What is fetched ahead grows from twice what it reads to the
 * window, and is asked for in large pieces: when half of what was fetched is used up.
 */

/** A range in bytes. */
export interface PrefetchRange {
  readonly offset: number;
  readonly length: number;
}

/** Readers that are told apart; the one that was quiet longest gives way to a new one. */
const STREAMS_MAX = 16;
/** A gap that a reader may leave: several requests under way arrive in changed order. */
const GAP_BYTES_MAX = 128 * 1024;

interface Stream {
  /** Where the next read is expected. */
  next: number;
  /** Where what was asked for ends. */
  fetchedTo: number;
  /** How much to have ahead. */
  ahead: number;
  sequential: boolean;
}

export class SequenceDetector {
  readonly #sizeBytes: number;
  readonly #windowBytes: number;
  /** The one that read last is the last. */
  readonly #streams: Stream[] = [];

  /**
   * @param sizeBytes Nothing is fetched beyond.
   * @param windowBytes The most to have ahead of one reader; 0 fetches nothing.
   */
  constructor(sizeBytes: number, windowBytes: number) {
    this.#sizeBytes = sizeBytes;
    this.#windowBytes = windowBytes;
  }

  /** Notes a read. @returns What to fetch now, `null` if nothing. */
  read(offset: number, length: number): PrefetchRange | null {
    if (this.#windowBytes === 0 || length === 0) return null;
    const end = offset + length;
    const at = this.#streams.findLastIndex(({ next }) => offset >= next && offset - next <= GAP_BYTES_MAX);
    if (at < 0) {
      if (this.#streams.length === STREAMS_MAX) this.#streams.shift();
      this.#streams.push({ next: end, fetchedTo: end, ahead: 0, sequential: false });
      return null;
    }
    const [stream] = this.#streams.splice(at, 1);
    this.#streams.push(stream);
    // Only what follows at once makes a sequence; later a gap is forgiven.
    if (offset !== stream.next && !stream.sequential) {
      stream.next = stream.fetchedTo = end;
      return null;
    }
    stream.sequential = true;
    stream.next = end;
    stream.ahead = Math.min(this.#windowBytes, Math.max(2 * length, 2 * stream.ahead));
    const from = Math.max(end, stream.fetchedTo);
    if (from - end > stream.ahead / 2) return null;
    const to = Math.min(this.#sizeBytes, end + stream.ahead);
    if (to <= from) return null;
    stream.fetchedTo = to;
    return { offset: from, length: to - from };
  }
}
