/** Many lives: the worlds in turn, each with the next seed. */
import { live } from "./life.ts";
import type { Tampering } from "./machines.ts";
import type { World } from "./world.ts";

/** A life that broke a promise, and how to see it again. */
export interface Finding {
  readonly world: string;
  readonly seed: number;
  readonly broken: string;
}

/** Sums over lives. */
export interface Summary {
  lives: number;
  events: number;
  requests: number;
  failures: number;
  reconnects: number;
  rivals: number;
  /** Follows from all that happened in all of them. */
  hash: number;
  findings: Finding[];
}

export function emptySummary(): Summary {
  return { lives: 0, events: 0, requests: 0, failures: 0, reconnects: 0, rivals: 0, hash: 0, findings: [] };
}

export interface Batch {
  /** Of the first life. */
  readonly seed: number;
  readonly count: number;
}

/** @param stopAt Ends after so many findings. */
export async function liveMany(
  worlds: readonly World[],
  { seed: first, count }: Batch,
  tampering: Tampering = {},
  stopAt = Infinity,
): Promise<Summary> {
  const summary = emptySummary();
  for (let seed = first; seed < first + count && summary.findings.length < stopAt; seed++) {
    const world = worlds[seed % worlds.length];
    const { broken, ...counts } = await live(world, seed, { tampering });
    const findings = broken === null ? [] : [{ world: world.name, seed, broken }];
    add(summary, { lives: 1, ...counts, findings });
  }
  return summary;
}

/** Adds one sum to another; the order does not matter. */
export function add(to: Summary, more: Summary): void {
  to.lives += more.lives;
  to.events += more.events;
  to.requests += more.requests;
  to.failures += more.failures;
  to.reconnects += more.reconnects;
  to.rivals += more.rivals;
  to.hash = (to.hash + more.hash) >>> 0;
  to.findings.push(...more.findings);
}
