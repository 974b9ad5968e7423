/** How fast something has gone over the last seconds. */

/** Measurements that are closer to each other say little. */
const APART_MS_MIN = 200;
/** What is older does not count. */
const RECENT_MS = 3000;
/** Over less time nothing can be said. */
const MEASURABLE_MS = 100;

export class RecentSpeed {
  readonly #samples: { readonly atMs: number; readonly bytes: number }[] = [];

  /** So many bytes had gone by a time. */
  note(atMs: number, bytes: number): void {
    const last = this.#samples.at(-1);
    if (last !== undefined && atMs - last.atMs < APART_MS_MIN) return;
    this.#samples.push({ atMs, bytes });
    while (this.#samples.length > 1 && atMs - this.#samples[0].atMs > RECENT_MS) this.#samples.shift();
  }

  /** In bytes per second, when so many bytes have gone by now; `null` before that can be told. */
  at(nowMs: number, bytes: number): number | null {
    const [first] = this.#samples;
    if (first === undefined || nowMs - first.atMs < MEASURABLE_MS) return null;
    return 1000 * (bytes - first.bytes) / (nowMs - first.atMs);
  }
}
