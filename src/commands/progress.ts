import { formatSize } from "../base/size_text.ts";
import { type Clock, systemClock } from "../os/clock.ts";
import type { Output } from "./command.ts";

/** Nothing is shown of work that is done sooner. */
const FIRST_MS = 1000;
const EACH_MS = 500;

export interface ProgressOptions {
  readonly clock?: Clock;
  /** Default: shown if the output is a terminal. */
  readonly show?: boolean;
}

/** Whether there is somebody to watch work whose data come from, or go to, a stream that is no terminal itself. */
export function isWatched(stderr: Output, data: { readonly isTerminal: boolean }): boolean {
  return stderr.isTerminal && !data.isTerminal;
}

/** A line on stderr that tells how far a copy has come; it is wiped out at the end. */
export class Progress implements Disposable {
  readonly #output: Output;
  readonly #totalBytes: number | null;
  readonly #clock: Clock;
  readonly #startMs: number;
  #timer: Disposable | null = null;
  #doneBytes = 0;
  #shownLength = 0;

  /** @param totalBytes `null` if nobody knows. */
  constructor(output: Output, totalBytes: number | null, options: ProgressOptions = {}) {
    const { clock = systemClock, show = output.isTerminal } = options;
    this.#output = output;
    this.#totalBytes = totalBytes;
    this.#clock = clock;
    this.#startMs = clock.now();
    if (show) this.#show(FIRST_MS);
  }

  /** So many more bytes are done. */
  readonly add = (byteCount: number): void => {
    this.#doneBytes += byteCount;
  };

  #show(delayMs: number): void {
    this.#timer = this.#clock.timer(delayMs, () => {
      const seconds = (this.#clock.now() - this.#startMs) / 1000;
      this.#write(progressText(this.#doneBytes, this.#totalBytes, seconds));
      this.#show(EACH_MS);
    }, { background: true });
  }

  /** A terminal that is gone is no reason to stop. */
  #write(text: string): void {
    this.#output.write(`\r${text.padEnd(this.#shownLength)}`).catch(() => {});
    this.#shownLength = text.length;
  }

  /** Makes room for something else to be said, until it is shown again. */
  hide(): void {
    if (this.#shownLength === 0) return;
    this.#write("");
    this.#output.write("\r").catch(() => {});
  }

  [Symbol.dispose](): void {
    this.#timer?.[Symbol.dispose]();
    this.hide();
  }
}

/**
 * `42 %  1.2 GiB of 2.9 GiB  350 MiB/s  0:05 left`; without a total `1.2 GiB  350 MiB/s`.
 *
 * @param seconds Since the beginning, above zero.
 */
export function progressText(doneBytes: number, totalBytes: number | null, seconds: number): string {
  const bytesPerSecond = Math.floor(doneBytes / seconds);
  const speed = `${formatSize(bytesPerSecond)}/s`;
  if (totalBytes === null) return `${formatSize(doneBytes)}  ${speed}`;
  const percent = Math.floor(100 * doneBytes / totalBytes);
  const amount = `${percent} %  ${formatSize(doneBytes)} of ${formatSize(totalBytes)}`;
  if (bytesPerSecond === 0) return amount;
  return `${amount}  ${speed}  ${durationText((totalBytes - doneBytes) / bytesPerSecond)} left`;
}

/** `0:05`, `12:34`, `1:02:03`. */
function durationText(seconds: number): string {
  const whole = Math.ceil(seconds);
  const two = (value: number) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours === 0 ? `${minutes}:${two(whole % 60)}` : `${hours}:${two(minutes)}:${two(whole % 60)}`;
}
