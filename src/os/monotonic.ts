/** The machine's own monotonic clock, which all its programs share; the runtime's starts with the program. */

import { libc } from "./libc.ts";

const CLOCK_MONOTONIC = 1;

/** Nanoseconds since some moment before the machine started, or `null` where libc cannot be asked. */
export function monotonicNs(): bigint | null {
  const time = new BigInt64Array(2);
  const lib = libc();
  if (lib === null || lib.clockGettime(CLOCK_MONOTONIC, time) !== 0) return null;
  return time[0] * 1_000_000_000n + time[1];
}
