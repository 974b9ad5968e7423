/** Whether all is well with a server, in one line. */
import { counted } from "../base/counted.ts";
import { printable } from "../base/printable.ts";
import type { LinkStatus } from "../remote/link_status.ts";
import type { ProcessStatus } from "./status.ts";

/** `degraded`: it serves, but somebody should look. `failed`: some of what clients ask for cannot be done. */
export type HealthState = "fine" | "degraded" | "failed";

export interface Health {
  readonly state: HealthState;
  /** One line without the state. */
  readonly why: string;
}

const SEVERITY: Readonly<Record<HealthState, number>> = { fine: 0, degraded: 1, failed: 2 };

/** Judges a server by what it says of itself; the worst that is found decides. */
export function judgeHealth(status: ProcessStatus): Health {
  const found = [...findings(status)].sort((a, b) => SEVERITY[b.state] - SEVERITY[a.state]);
  if (found.length === 0) return { state: "fine", why: summary(status) };
  const more = found.length === 1 ? "" : `, and ${found.length - 1} more`;
  return { state: found[0].state, why: `${found[0].why}${more}` };
}

function* findings(status: ProcessStatus): Generator<Health> {
  if (!status.clientsAllowed) yield { state: "degraded", why: "it is stopping and lets nobody in" };
  for (const { name, syncFailure, upstream } of status.exports) {
    const disk = `export "${printable(name)}"`;
    if (syncFailure !== null) {
      yield {
        state: "failed",
        why: `${disk} cannot be written since a sync failed: ${printable(syncFailure)}`,
      };
    }
    if (upstream !== undefined) yield* upstreamFindings(disk, upstream);
  }
  for (const { name, revision, quarantine, badHashBlocks, copy } of status.images) {
    const image = printable(`${name}:${revision}`);
    if (copy?.writeProblem) {
      yield { state: "degraded", why: `nothing is kept of image ${image}: ${printable(copy.writeProblem)}` };
    }
    if (copy?.uplink === null && copy.waiting > 0) {
      yield { state: "degraded", why: `clients of image ${image} wait, and no server is found that has it` };
    }
    if (quarantine !== null) {
      yield { state: "degraded", why: `image ${image} is quarantined: ${printable(quarantine)}` };
    } else if (badHashBlocks.length > 0) {
      yield { state: "degraded", why: `image ${image} has blocks that do not fit their checksums` };
    }
  }
}

function* upstreamFindings(disk: string, { state, peer, trouble, doubt }: LinkStatus): Generator<Health> {
  const why = trouble === null ? "" : `: ${printable(trouble)}`;
  if (state === "failed") yield { state: "failed", why: `${disk} can be used no more${why}` };
  // Whoever asks waits: that is what a proxy is for.
  if (state === "reconnecting") {
    yield { state: "degraded", why: `${disk} has no connection to ${printable(peer)}${why}` };
  }
  if (doubt !== null) {
    yield { state: "degraded", why: `the next flush of ${disk} fails: ${printable(doubt)}` };
  }
}

function summary({ exports, mirror }: ProcessStatus): string {
  const clients = exports.reduce((count, each) => count + each.clients.length, 0);
  const moving = mirror === null ? "" : `, migrating with ${Math.ceil(mirror.secondsLeft)} s left`;
  return `${counted(exports.length, "export")}, ${counted(clients, "client")}${moving}`;
}
