/** How long requests took, kept as counts of durations that are alike within an eighth. */

/** Durations below this many microseconds are told apart exactly. */
const EXACT_US = 8;
/** Steps that each doubling of the duration is divided into. */
const STEPS = 8;
/** Durations above 2^31 microseconds (36 minutes) count as that. */
const DOUBLINGS = 28;

/** What is said of many durations, in microseconds. */
export interface LatencySummary {
  readonly count: number;
  /** Of all of them together. */
  readonly sumUs: number;
  readonly p50Us: number;
  readonly p90Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  readonly maxUs: number;
}

export class LatencyHistogram {
  readonly #counts = new Float64Array(EXACT_US + STEPS * DOUBLINGS);
  #count = 0;
  #sumUs = 0;
  #maxUs = 0;

  get count(): number {
    return this.#count;
  }

  /** Adds `times` requests that each took `durationUs` microseconds. */
  add(durationUs: number, times = 1): void {
    this.#counts[bucketOf(durationUs)] += times;
    this.#count += times;
    this.#sumUs += durationUs * times;
    if (durationUs > this.#maxUs) this.#maxUs = durationUs;
  }

  summary(): LatencySummary {
    return {
      count: this.#count,
      sumUs: Math.round(this.#sumUs),
      p50Us: this.#percentile(0.5),
      p90Us: this.#percentile(0.9),
      p99Us: this.#percentile(0.99),
      p999Us: this.#percentile(0.999),
      maxUs: Math.round(this.#maxUs),
    };
  }

  /** The duration that a share of all requests did not exceed, rounded up to the end of its bucket. */
  #percentile(share: number): number {
    let left = Math.ceil(this.#count * share);
    if (left === 0) return 0;
    for (let bucket = 0; bucket < this.#counts.length; bucket++) {
      left -= this.#counts[bucket];
      if (left <= 0) return Math.min(bucketEndUs(bucket), Math.round(this.#maxUs));
    }
    return Math.round(this.#maxUs);
  }
}

function bucketOf(durationUs: number): number {
  const whole = Math.max(0, Math.floor(durationUs));
  if (whole < EXACT_US) return whole;
  const log2 = Math.min(31 - Math.clz32(Math.min(whole, 0x7fffffff)), DOUBLINGS + 2);
  const step = Math.min(STEPS - 1, Math.floor((whole / 2 ** log2 - 1) * STEPS));
  return EXACT_US + (log2 - 3) * STEPS + step;
}

function bucketEndUs(bucket: number): number {
  if (bucket < EXACT_US) return bucket;
  const log2 = 3 + Math.floor((bucket - EXACT_US) / STEPS);
  const step = (bucket - EXACT_US) % STEPS;
  return Math.ceil(2 ** log2 * (1 + (step + 1) / STEPS)) - 1;
}
