/**
 * How clients are made to prefer another server for an image that this one can serve only with trouble: by answering
 * them late, or most of them not at all.
 */

/** What stands in the way of serving an image that is not all here. */
export interface ImageTrouble {
  /** Nothing more can be kept of it. */
  readonly write: boolean;
  /** Too much is asked for already. */
  readonly queue: boolean;
  /** No other server has been reached that has the rest. */
  readonly uplink: boolean;
}

/** One in so many is let in when things are bad. */
const LET_IN_ONE_OF = 4;
const WRITE_MS = 100;
/** For each percent that is missing. */
const UPLINK_PERCENT_MS = 0.1;

/**
 * @param percent How much is here, from 0 to 100.
 * @param random A number from 0 to below 1.
 * @returns How long to wait with the answer to a selection, in ms, or null for not answering.
 */
export function reluctanceMs(trouble: ImageTrouble, percent: number, random: number): number | null {
  if ((trouble.write || trouble.queue) && random >= 1 / LET_IN_ONE_OF) return null;
  return (trouble.write ? WRITE_MS : 0) + (trouble.uplink ? (100 - percent) * UPLINK_PERCENT_MS : 0);
}
