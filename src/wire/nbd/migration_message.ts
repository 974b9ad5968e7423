/**
 * What two denbd ends say to each other about a disk that moves from one to the other.
 *
 * A message is a query for a metadata context of our namespace, and its answer is the name of the context that is
 * granted: the source connects, asks by SET_META_CONTEXT, and leaves, or goes on to transmission. A server of others
 * ignores the query, and a client of others never asks it.
 *
 * | query | the source says | answers |
 * | --- | --- | --- |
 * | hello | this disk wants to move to you, over this connection | `fresh`, `resume`, `owner`, `refused` |
 * | prepare | all is there: make it durable | `prepared` |
 * | commit | it is yours, I have stopped | `owner`; `receiving` if it was released |
 * | acknowledge | I know that it is yours | `owner` |
 * | release | nothing comes of it | `receiving`; `owner` if it was committed |
 * | ask | what do you know of it? | `receiving`, `prepared`, `owner`, `unknown` |
 *
 * Any of them but hello may be answered `unknown`, all may be `refused`. All may be repeated. The text is
 * `x-denbd:migration/1?verb=hello&id=UUID&…` and `x-denbd:migration/1?is=fresh&…`, encoded as in a URI's query.
 */
import { isUuid } from "../../base/uuid.ts";
import { WireError } from "../wire_error.ts";
import { MAX_STRING_BYTES } from "./constants.ts";
import { DENBD_NAMESPACE } from "./denbd_context.ts";

/** The beginning of every query of this kind, whatever its version. */
export const MIGRATION_QUERY = `${DENBD_NAMESPACE}migration/`;
/** The context whose BLOCK_STATUS, with REQ_ONE, is one extent with the CRC-32 of the range as its status. */
export const CRC32_CONTEXT = `${DENBD_NAMESPACE}crc32`;
/** The longest range that a checksum is made of at once, in bytes. */
export const CRC32_BYTES_MAX = 16 * 1024 * 1024;

/** The beginning of the context that says where a disk has gone. */
const MOVED_PREFIX = `${DENBD_NAMESPACE}moved=`;

const VERSION = 1;
const PREFIX = `${MIGRATION_QUERY}${VERSION}?`;
/** Leaves room for its encoding, in which a character may take nine bytes. */
const REASON_LENGTH_MAX = 300;

/** The disk that wants to move. */
export interface MigrationHello {
  readonly verb: "hello";
  /** Of the migration: a UUID. */
  readonly id: string;
  readonly uuid: string;
  readonly generation: number;
  /** That the destination's ownership will have. */
  readonly epoch: number;
  readonly sizeBytes: number;
}

export type MigrationRequest =
  | MigrationHello
  | {
    readonly verb: "prepare" | "commit" | "acknowledge" | "release" | "ask";
    readonly id: string;
  };

export type MigrationAnswer =
  | { readonly is: "fresh" | "resume" | "receiving" | "prepared" | "owner" | "unknown" }
  /** `size`: the sizes differ. */
  | { readonly is: "refused"; readonly why: "size" | "busy" | "policy"; readonly reason: string };

/** Where a disk has gone, as its former owner tells who comes back to it. */
export interface Moved {
  /** The disk's. */
  readonly uuid: string;
  /** Of the migration. */
  readonly id: string;
  /** Of the ownership that it led to. */
  readonly epoch: number;
  /** A URI. */
  readonly to: string;
}

const VERBS: readonly string[] = ["prepare", "commit", "acknowledge", "release", "ask"];
const STATES: readonly string[] = ["fresh", "resume", "receiving", "prepared", "owner", "unknown"];
const REASONS: readonly string[] = ["size", "busy", "policy"];

/** The query that asks this. */
export function encodeMigrationRequest(request: MigrationRequest): string {
  return encode(request);
}

/**
 * The request in a query that begins with {@linkcode MIGRATION_QUERY}.
 *
 * @throws {WireError} If it has another version, or is malformed.
 */
export function decodeMigrationRequest(query: string): MigrationRequest {
  const fields = decode(query);
  const verb = fields.get("verb") ?? "";
  const id = uuid(fields, "id");
  if (VERBS.includes(verb)) return { verb, id } as MigrationRequest;
  if (verb !== "hello") throw new WireError(`migration message "${verb.slice(0, 64)}"`);
  return {
    verb,
    id,
    uuid: uuid(fields, "uuid"),
    generation: count(fields, "generation"),
    epoch: count(fields, "epoch"),
    sizeBytes: count(fields, "sizeBytes"),
  };
}

/** The name of the context that answers this. A reason that is too long is cut. */
export function encodeMigrationAnswer(answer: MigrationAnswer): string {
  if (answer.is !== "refused") return encode(answer);
  return encode({ ...answer, reason: answer.reason.slice(0, REASON_LENGTH_MAX).toWellFormed() });
}

/**
 * The answer among the names of contexts that were granted; `null` if there is none: the server does not know of
 * migrations, or has none for this export.
 *
 * @throws {WireError} If it has another version, is malformed, or there are two.
 */
export function decodeMigrationAnswer(names: readonly string[]): MigrationAnswer | null {
  const answers = names.filter((name) => name.startsWith(MIGRATION_QUERY));
  if (answers.length === 0) return null;
  if (answers.length > 1) throw new WireError(`${answers.length} answers to one migration message`);
  const fields = decode(answers[0]);
  const is = fields.get("is") ?? "";
  if (STATES.includes(is)) return { is } as MigrationAnswer;
  const why = fields.get("why") ?? "";
  if (is !== "refused" || !REASONS.includes(why)) {
    throw new WireError(`migration answer "${is.slice(0, 64)}"`);
  }
  return { is, why: why as "size", reason: fields.get("reason") ?? "" };
}

/** The name of the context that tells it; `null` if it is too long to be told. */
export function encodeMoved({ uuid, id, epoch, to }: Moved): string | null {
  const fields = new URLSearchParams([["uuid", uuid], ["id", id], ["epoch", String(epoch)], ["to", to]]);
  const name = `${MOVED_PREFIX}${VERSION}?${fields}`;
  return name.length > MAX_STRING_BYTES ? null : name;
}

/**
 * Where the disk has gone, by the names of contexts that were granted; `null` if they do not say, or in a way that we
 * do not know.
 *
 * @throws {WireError} If it is malformed.
 */
export function decodeMoved(names: readonly string[]): Moved | null {
  const name = names.find((name) => name.startsWith(`${MOVED_PREFIX}${VERSION}?`));
  if (name === undefined) return null;
  const fields = new URLSearchParams(name.slice(name.indexOf("?") + 1));
  const to = fields.get("to");
  if (to === null) throw new WireError("a disk has moved nowhere");
  return { uuid: uuid(fields, "uuid"), id: uuid(fields, "id"), epoch: count(fields, "epoch"), to };
}

function encode(fields: object): string {
  const text = Object.entries(fields).map(([key, value]) => [key, String(value)]);
  return PREFIX + new URLSearchParams(text);
}

function decode(text: string): URLSearchParams {
  if (text.length > MAX_STRING_BYTES || !text.startsWith(PREFIX)) {
    throw new WireError(
      `migration message of another version: "${text.slice(0, 64)}", this program knows version ${VERSION}`,
    );
  }
  return new URLSearchParams(text.slice(PREFIX.length));
}

function uuid(fields: URLSearchParams, key: string): string {
  const text = fields.get(key) ?? "";
  if (!isUuid(text)) throw new WireError(`${key} "${text.slice(0, 64)}" of a migration`);
  return text;
}

function count(fields: URLSearchParams, key: string): number {
  const text = fields.get(key) ?? "";
  const value = Number(text);
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(value) || value === 0) {
    throw new WireError(`${key} "${text.slice(0, 64)}" of a migration`);
  }
  return value;
}
