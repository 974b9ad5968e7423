/** From what somebody asked for to the place that a disk is to move to. */
import type { AdjustableLog } from "../base/log.ts";
import { formatEndpoint } from "../base/endpoint.ts";
import { formatDiskLocator } from "../base/uri.ts";
import type { MigrationRequest } from "../control/migrations.ts";
import type { Destination } from "../migrate/handover.ts";
import { NbdDestination } from "../migrate/nbd_destination.ts";
import { SourceOwnership } from "../migrate/source_ownership.ts";
import { dialOf } from "../open_disk.ts";
import { systemClock } from "../os/clock.ts";
import type { Export } from "../server/export_table.ts";

/** flexnbd's name for it: seconds, with a fraction if need be; 0 is no limit. */
const SILENCE_VARIABLE = "FLEXNBD_MS_REQUEST_LIMIT_SECS";

interface Surroundings {
  readonly log: AdjustableLog;
  env(name: string): string | undefined;
}

/** @param isOurs Whether a server with this instance is this program. */
export function openDestination(
  { to, bind }: MigrationRequest,
  exported: Export,
  isOurs: (instance: string) => boolean,
  { log, env }: Surroundings,
): Destination {
  const name = to.exportName === "" ? "" : `/${to.exportName}`;
  const place = {
    dial: dialOf(to, { bind, log, env }),
    exportName: to.exportName,
    sizeBytes: exported.sizeBytes,
    clock: systemClock,
  };
  const { ownership: store } = exported;
  return new NbdDestination({
    ...place,
    text: `${formatEndpoint(to.server)}${name}`,
    identity: exported.device.identity,
    isOurs,
    ownership: store && new SourceOwnership({ ...place, store, peer: formatDiskLocator(to), log }),
  });
}

/** How long a destination may be silent, in milliseconds; `undefined` for the usual time. */
export function silenceLimit(env: (name: string) => string | undefined): number | undefined {
  const text = env(SILENCE_VARIABLE);
  if (text === undefined) return undefined;
  const seconds = Number.parseFloat(text);
  return Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : 0;
}
