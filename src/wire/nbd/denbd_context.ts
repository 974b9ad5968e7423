/**
 * What one denbd end tells another through metadata contexts of our own.
 *
 * A client that knows of it queries the namespace `x-denbd:` in SET_META_CONTEXT; the server answers with contexts
 * whose names are the facts. Nobody else sees them: they are not listed, and other servers ignore the query.
 *
 * | name | says |
 * | --- | --- |
 * | `x-denbd:instance=UUID` | this run of the server; another one after each start |
 * | `x-denbd:identity=UUID.GENERATION` | the disk, and its generation, which rises with each start that may write |
 * | `x-denbd:arrived=UUID.EPOCH` | the migration by which the disk came here |
 * | `x-denbd:session=1.UUID.GENERATION` | the session that was asked for: what it had before is over |
 * | `x-denbd:reservation=UUID` | nobody else has written since this UUID was first told, and nobody else may |
 * | `x-denbd:lease=MILLISECONDS` | the reservation outlives the client's connections for at least so long, unless the operator ends it |
 * | `x-denbd:writers=others` | this client may not write, but somebody else may |
 * | `x-denbd:window=REQUESTS.BYTES` | while no more of them wait, the server answers a probe at once |
 *
 * A probe is a BLOCK_STATUS with a payload that asks for the context `x-denbd:window=…` alone. It needs no disk, so a
 * server with a slow disk is told from one that is gone.
 *
 * A client that writes names its session by a query of the same form, `x-denbd:session=1.UUID.GENERATION`; `1` is the
 * version. All connections of one session have the same UUID. One with a higher generation takes the place of those
 * with a lower: the server serves it when it has done with what they had asked for.
 *
 * The UUIDs are in lower case, generations are decimal. Facts that a client does not know it ignores, as a server
 * does with queries.
 */
import { isUuid } from "../../base/uuid.ts";
import { WireError } from "../wire_error.ts";

/** The query, and the prefix of every name. */
export const DENBD_NAMESPACE = "x-denbd:";

/** One life of the connections of one writer. */
export interface SessionName {
  /** A UUID. */
  readonly id: string;
  /** From 1. */
  readonly generation: number;
}

/**
 * The first eight digits of a session's UUID: what may be said of it where others read along. Whoever knows all of
 * it can take the place of its connections.
 */
export function sessionLabel(id: string): string {
  return id.slice(0, 8);
}

/** What a server says of itself and of one export. */
export interface DenbdFacts {
  readonly instance?: string;
  readonly identity?: { readonly uuid: string; readonly generation: number };
  readonly session?: SessionName;
  readonly reservation?: string;
  /** How long the reservation outlives the connections, at least; in milliseconds. */
  readonly leaseMs?: number;
  /** By which migration the disk came to this server, and the epoch of the ownership that it led to. */
  readonly arrived?: { readonly id: string; readonly epoch: number };
  /** Whether others may write although this client may not. */
  readonly othersWrite?: true;
  /** How many unanswered requests, and bytes of READ and WRITE among them, leave room for a probe. */
  readonly window?: ProbeWindow;
}

export interface ProbeWindow {
  readonly requests: number;
  readonly bytes: number;
}

const WINDOW_PREFIX = `${DENBD_NAMESPACE}window=`;
const SESSION_VERSION = "1";
/** Of facts that are named otherwise here. */
const FIELDS: Readonly<Record<string, keyof DenbdFacts>> = { lease: "leaseMs", writers: "othersWrite" };

/** The names of the contexts that tell these facts. */
export function encodeFacts(
  { instance, identity, session, reservation, leaseMs, othersWrite, window, arrived }: DenbdFacts,
): string[] {
  const names: string[] = [];
  if (instance !== undefined) names.push(`${DENBD_NAMESPACE}instance=${instance}`);
  if (identity !== undefined) {
    names.push(`${DENBD_NAMESPACE}identity=${identity.uuid}.${identity.generation}`);
  }
  if (session !== undefined) names.push(encodeSession(session));
  if (reservation !== undefined) names.push(`${DENBD_NAMESPACE}reservation=${reservation}`);
  if (leaseMs !== undefined) names.push(`${DENBD_NAMESPACE}lease=${leaseMs}`);
  if (othersWrite === true) names.push(`${DENBD_NAMESPACE}writers=others`);
  if (arrived !== undefined) names.push(`${DENBD_NAMESPACE}arrived=${arrived.id}.${arrived.epoch}`);
  if (window !== undefined) names.push(`${WINDOW_PREFIX}${window.requests}.${window.bytes}`);
  return names;
}

/** The id of the context that a probe asks for, or `null` if the server answers none. */
export function probeContextId(
  contexts: readonly { readonly id: number; readonly name: string }[],
): number | null {
  return contexts.find(({ name }) => name.startsWith(WINDOW_PREFIX))?.id ?? null;
}

/** Whether a BLOCK_STATUS of these contexts is a probe. */
export function isProbe(contexts: readonly { readonly name: string }[]): boolean {
  return contexts.length === 1 && contexts[0].name.startsWith(WINDOW_PREFIX);
}

/** The query that names a session, which is also the fact that it was understood. */
export function encodeSession({ id, generation }: SessionName): string {
  return `${DENBD_NAMESPACE}session=${SESSION_VERSION}.${id}.${generation}`;
}

/** The session that a query names; `null` if it names none, or in a way that we do not know. */
export function decodeSession(query: string): SessionName | null {
  const [, version, numbered] = /^x-denbd:session=(\d+)\.(.*)$/s.exec(query) ?? [];
  const named = version === SESSION_VERSION ? decodeNumbered(numbered) : null;
  return named === null ? null : { id: named.uuid, generation: named.generation };
}

/**
 * The facts among the names of contexts that a server granted; other names are passed over.
 *
 * @throws {WireError} If a fact that we know is malformed or is told twice.
 */
export function decodeFacts(names: readonly string[]): DenbdFacts {
  const facts: { -readonly [Name in keyof DenbdFacts]: DenbdFacts[Name] } = {};
  for (const name of names) {
    const match = /^x-denbd:(instance|identity|session|reservation|lease|writers|arrived|window)=(.*)$/s.exec(
      name,
    );
    if (match === null) continue;
    const [, kind, text] = match;
    const fact = kind === "session"
      ? decodeSession(name)
      : kind === "identity"
      ? decodeNumbered(text)
      : kind === "arrived"
      ? decodeArrived(text)
      : kind === "window"
      ? decodeWindow(text)
      : kind === "lease"
      ? decodeLease(text)
      : kind === "writers"
      ? text === "others" || null
      : isUuid(text)
      ? text
      : null;
    const field = FIELDS[kind] ?? kind;
    if (fact === null || facts[field as keyof DenbdFacts] !== undefined) {
      throw new WireError(kind === "session" ? wrongSession(text) : `${kind} "${text.slice(0, 64)}"`);
    }
    Object.assign(facts, { [field]: fact });
  }
  return facts;
}

/** What is wrong with a session that cannot be decoded. Its id is nobody's business. */
function wrongSession(text: string): string {
  const [, version] = /^(\d{1,9})\./.exec(text) ?? [];
  if (version === undefined || version === SESSION_VERSION) return "session";
  return `session of version ${version}, this program knows version ${SESSION_VERSION}`;
}

function decodeArrived(text: string): DenbdFacts["arrived"] | null {
  const numbered = decodeNumbered(text);
  return numbered === null ? null : { id: numbered.uuid, epoch: numbered.generation };
}

function decodeWindow(text: string): ProbeWindow | null {
  const [, requests, bytes] = /^([1-9]\d{0,8})\.([1-9]\d{0,14})$/.exec(text) ?? [];
  return requests === undefined ? null : { requests: Number(requests), bytes: Number(bytes) };
}

function decodeLease(text: string): number | null {
  return /^[1-9]\d{0,14}$/.test(text) ? Number(text) : null;
}

/** `UUID.NUMBER`. */
function decodeNumbered(text: string): { uuid: string; generation: number } | null {
  const [, uuid = "", digits = ""] = /^(.*)\.([1-9]\d{0,15})$/s.exec(text) ?? [];
  const generation = Number(digits);
  return isUuid(uuid) && Number.isSafeInteger(generation) ? { uuid, generation } : null;
}
