/** Which images other servers were asked for lately. Until it has been forgotten, what is here is the answer. */
import type { Clock } from "../../os/clock.ts";

const REMEMBERED_MS = 120_000;
const ENTRIES_MAX = 20;

export class LookupMemory {
  readonly #clock: Clock;
  /** When, in the order of that. */
  readonly #askedMs = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The servers were asked. */
  remember(name: string, revision: number): void {
    const key = keyOf(name, revision);
    this.#askedMs.delete(key);
    this.#askedMs.set(key, this.#clock.now());
    if (this.#askedMs.size > ENTRIES_MAX) this.#askedMs.delete(this.#askedMs.keys().next().value!);
  }

  has(name: string, revision: number): boolean {
    const askedMs = this.#askedMs.get(keyOf(name, revision));
    return askedMs !== undefined && this.#clock.now() - askedMs < REMEMBERED_MS;
  }

  forget(name: string, revision: number): void {
    this.#askedMs.delete(keyOf(name, revision));
  }
}

function keyOf(name: string, revision: number): string {
  return `${revision}/${name}`;
}
