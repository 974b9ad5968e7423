/**
 * What the state directory keeps of a disk, as text: JSON with a name of the format and a version.
 *
 * Version 1 knew identities only; a disk of which it tells is owned.
 */
import { isUuid } from "../base/uuid.ts";
import { type DiskRecord, FIRST_OWNERSHIP, type Migration, type Ownership } from "./ownership.ts";

const FORMAT = "denbd disk identity";
const VERSION = 2;
const STATES: readonly string[] = ["owner", "receiving", "prepared", "in-doubt", "moved"];
const ROLES: readonly string[] = ["cameBy", "leaving"];
const TEXT_LENGTH_MAX = 4096;

/** A disk's record, and which file it is about. */
export interface FileRecord extends DiskRecord {
  /** For whoever looks into the directory. */
  readonly path: string;
  /** `FileStatus.createdNs` of a file; `0` for a device. */
  readonly createdNs: string;
}

/** The text of a record. */
export function formatRecord({ uuid, generation, path, createdNs, ownership }: FileRecord): string {
  const record = { format: FORMAT, version: VERSION, uuid, generation, path, createdNs, ownership };
  return JSON.stringify(record, null, 2) + "\n";
}

/**
 * The record in a text.
 *
 * @throws {SyntaxError} If it is none, is damaged, or is of a version that is not known.
 */
export function parseRecord(text: string): FileRecord {
  let json: Record<string, unknown> | null = null;
  try {
    json = JSON.parse(text);
  } catch {
    // Told below.
  }
  if (json?.format !== FORMAT) throw new SyntaxError("it does not hold a disk's identity");
  const { version } = json;
  if (version !== 1 && version !== VERSION) {
    throw new SyntaxError(`it has version ${version}, this program knows versions 1 and ${VERSION}`);
  }
  const { uuid, generation, path, createdNs } = json;
  const ownership = version === 1 ? FIRST_OWNERSHIP : json.ownership;
  const valid = isUuid(uuid) && isCount(generation) && typeof createdNs === "string" &&
    isOwnership(ownership);
  if (!valid) throw new SyntaxError("it is damaged");
  return { uuid, generation, path: String(path), createdNs, ownership };
}

function isOwnership(value: unknown): value is Ownership {
  if (typeof value !== "object" || value === null) return false;
  const { state, epoch, migration, role } = value as Record<string, unknown>;
  if (!STATES.includes(state as string) || !isCount(epoch)) return false;
  if (migration === undefined) return state === "owner" && role === undefined;
  return isMigration(migration) && (state === "owner" ? ROLES.includes(role as string) : role === undefined);
}

function isMigration(value: unknown): value is Migration {
  if (typeof value !== "object" || value === null) return false;
  const { id, uuid, generation, epoch, peer, at } = value as Record<string, unknown>;
  return isUuid(id) && isUuid(uuid) && isCount(generation) && isCount(epoch) && isText(peer) && isText(at);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && value as number > 0;
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value.length <= TEXT_LENGTH_MAX;
}
