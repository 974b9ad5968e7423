/**
 * What has changed between two looks at a server, for those who follow it over the control socket.
 *
 * Counts are no state: a change is that somebody came or went, that something broke or recovered, that a limit or a
 * migration began or ended.
 */
import { judgeHealth } from "./health.ts";
import type { ClientStatus, ExportStatus, ImageStatus, MirrorStatus, ProcessStatus } from "./status.ts";

/** One line of JSON. */
export interface StateChange {
  readonly event: string;
  readonly [fact: string]: unknown;
}

/** The changes in the order in which they make sense: exports come before their clients, and go after them. */
export function stateChanges(before: ProcessStatus, after: ProcessStatus): StateChange[] {
  const changes: StateChange[] = [];
  const old = new Map(before.exports.map((each) => [each.name, each]));
  const now = new Map(after.exports.map((each) => [each.name, each]));
  for (const [name, exported] of now) {
    const was = old.get(name);
    if (was === undefined) {
      const { source, sizeBytes, readOnly } = exported;
      changes.push({ event: "export_added", export: name, source, sizeBytes, readOnly });
    }
    changes.push(...exportChanges(was, exported));
  }
  for (const [name, exported] of old) {
    if (now.has(name)) continue;
    changes.push(...clientChanges(exported, { ...exported, clients: [] }));
    changes.push({ event: "export_removed", export: name });
  }
  changes.push(...imageChanges(before.images, after.images));
  if (before.clientsAllowed !== after.clientsAllowed) {
    changes.push({ event: "clients_allowed", allowed: after.clientsAllowed });
  }
  if (before.hasControl !== after.hasControl) {
    changes.push({ event: "control", hasControl: after.hasControl });
  }
  if (JSON.stringify(before.access) !== JSON.stringify(after.access)) {
    changes.push({ event: "access_replaced", ...after.access });
  }
  changes.push(...migrationChanges(before.mirror, after.mirror));
  const [was, is] = [judgeHealth(before), judgeHealth(after)];
  if (was.state !== is.state) changes.push({ event: "health", state: is.state, why: is.why });
  return changes;
}

function* exportChanges(before: ExportStatus | undefined, after: ExportStatus): Generator<StateChange> {
  yield* clientChanges(before, after);
  if (before?.syncFailure == null && after.syncFailure !== null) {
    yield { event: "sync_failed", export: after.name, why: after.syncFailure };
  }
}

function* imageChanges(
  before: readonly ImageStatus[],
  after: readonly ImageStatus[],
): Generator<StateChange> {
  const key = ({ name, revision }: ImageStatus) => `${name}:${revision}`;
  const old = new Map(before.map((each) => [key(each), each]));
  for (const image of after) {
    const was = old.get(key(image));
    if (image.quarantine !== null && was?.quarantine == null) {
      yield { event: "image_quarantined", image: key(image), why: image.quarantine };
    }
    const bad = JSON.stringify(image.badHashBlocks);
    if (bad !== JSON.stringify(was?.badHashBlocks ?? [])) {
      yield { event: "image_blocks", image: key(image), badHashBlocks: image.badHashBlocks };
    }
    if (was !== undefined && was.completePercent < 100 && image.completePercent === 100) {
      yield { event: "image_complete", image: key(image) };
    }
  }
}

function* clientChanges(before: ExportStatus | undefined, after: ExportStatus): Generator<StateChange> {
  const old = new Map(before?.clients.map((each) => [each.id, each]) ?? []);
  const now = new Map(after.clients.map((each) => [each.id, each]));
  const facts = ({ id, address, identity, rights }: ClientStatus) => ({
    export: after.name,
    client: id,
    address,
    identity,
    rights,
  });
  for (const [id, client] of now) {
    const was = old.get(id);
    if (was === undefined) yield { event: "client_opened", ...facts(client) };
    else if (was.rights !== client.rights) yield { event: "client_rights", ...facts(client) };
  }
  for (const [id, client] of old) {
    if (!now.has(id)) yield { event: "client_left", ...facts(client) };
  }
}

function* migrationChanges(before: MirrorStatus | null, after: MirrorStatus | null): Generator<StateChange> {
  if (before === null && after !== null) yield { event: "migration_began", bytesLeft: after.bytesLeft };
  if (before !== null && after === null) yield { event: "migration_ended" };
  if (before !== null && after !== null && before.speedLimit !== after.speedLimit) {
    yield { event: "migration_limit", bytesPerSecond: after.speedLimit };
  }
}
