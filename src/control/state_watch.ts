/** Looks at a server again and again while somebody follows it, and tells what has changed. */
import { Broadcast, type Missed } from "../base/broadcast.ts";
import type { Clock } from "../os/clock.ts";
import { type StateChange, stateChanges } from "./state_changes.ts";
import type { ProcessStatus } from "./status.ts";

/** How often it looks by itself. */
const LOOK_MS = 500;

export class StateWatch {
  readonly #status: () => ProcessStatus;
  readonly #clock: Clock;
  readonly #broadcast = new Broadcast<StateChange>((wanted) => wanted ? this.#begin() : this.#end());
  /** While somebody follows. */
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
    for (const change of stateChanges(this.#last, status)) this.#broadcast.push(change);
    this.#last = status;
  };

  /** Every change from now on, until the signal. */
  follow(signal: AbortSignal): AsyncGenerator<StateChange | Missed, void> {
    return this.#broadcast.follow(signal);
  }

  #begin(): void {
    this.#last = this.#status();
    this.#wait();
  }

  #end(): void {
    this.#last = null;
    this.#timer?.[Symbol.dispose]();
  }

  #wait(): void {
    this.#timer = this.#clock.timer(LOOK_MS, () => {
      this.look();
      this.#wait();
    }, { background: true });
  }
}
