/** Looks at a server again and again while somebody follows it, and tells what has changed. */
import type { Clock } from "../os/clock.ts";
import { type StateChange, stateChanges } from "./state_changes.ts";
import type { ProcessStatus } from "./status.ts";

/** How often it looks by itself. */
const LOOK_MS = 500;
/** Changes that wait for one follower; one that falls behind further is told how many it missed. */
const WAITING_MAX = 1000;

export class StateWatch {
  readonly #status: () => ProcessStatus;
  readonly #clock: Clock;
  readonly #followers = new Set<Follower>();
  #last: ProcessStatus | null = null;
  #timer: Disposable | null = null;

  constructor(status: () => ProcessStatus, clock: Clock) {
    this.#status = status;
    this.#clock = clock;
  }

  /** Something may have changed that another look could miss. Costs nothing while nobody follows. */
  readonly look = (): void => {
    if (this.#last === null) return;
    const status = this.#status();
    for (const change of stateChanges(this.#last, status)) {
      for (const follower of this.#followers) follower.push(change);
    }
    this.#last = status;
  };

  /** Every change from now on, until the signal. */
  async *follow(signal: AbortSignal): AsyncGenerator<StateChange, void> {
    const follower = new Follower();
    const stop = () => follower.end();
    signal.addEventListener("abort", stop);
    this.#followers.add(follower);
    if (this.#last === null) {
      this.#last = this.#status();
      this.#wait();
    }
    try {
      for (let change; !signal.aborted && (change = await follower.next()) !== null;) yield change;
    } finally {
      signal.removeEventListener("abort", stop);
      this.#followers.delete(follower);
      if (this.#followers.size === 0) {
        this.#last = null;
        this.#timer?.[Symbol.dispose]();
      }
    }
  }

  #wait(): void {
    this.#timer = this.#clock.timer(LOOK_MS, () => {
      this.look();
      this.#wait();
    }, { background: true });
  }
}

/** What waits for one follower. */
class Follower {
  readonly #waiting: StateChange[] = [];
  #missed = 0;
  #ended = false;
  #wake: (() => void) | null = null;

  push(change: StateChange): void {
    if (this.#waiting.length < WAITING_MAX) this.#waiting.push(change);
    else this.#missed++;
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** The next change, or `null` at the end. */
  async next(): Promise<StateChange | null> {
    while (!this.#ended) {
      const change = this.#waiting.shift();
      if (change !== undefined) return change;
      if (this.#missed > 0) {
        const count = this.#missed;
        this.#missed = 0;
        return { event: "missed", count };
      }
      await new Promise<void>((resolve) => this.#wake = resolve);
      this.#wake = null;
    }
    return null;
  }
}
