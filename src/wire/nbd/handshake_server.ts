/**
 * The server's side of the handshake, as conversations: oldstyle, newstyle and fixed newstyle.
 *
 * Whatever a client asks for that it cannot have is answered with an error and the reason, and the next option is
 * read; only what cannot be answered ends the conversation with a {@linkcode WireError}, upon which the carrier
 * closes.
 *
 * @see NBD proto.md, "Handshake phase"
 */
import { printable } from "../../base/printable.ts";
import { type Conversation, need, send, wait } from "../conversation.ts";
import { WireError } from "../wire_error.ts";
import {
  ClientFlag,
  HandshakeFlag,
  InfoType,
  MAX_STRING_BYTES,
  META_QUERIES_MAX,
  Option,
  OPTION_DRAIN_BYTES_MAX,
  OPTION_PAYLOAD_BYTES_MAX,
  optionName,
  OptionReply,
  TransmissionFlag,
} from "./constants.ts";
import {
  CLIENT_FLAGS_BYTES,
  decodeClientFlags,
  encodeExportNameReply,
  encodeGreeting,
  encodeHello,
} from "./greeting.ts";
import {
  type BlockSizes,
  decodeInfoRequest,
  decodeMetaRequest,
  decodeOptionHeader,
  decodeString,
  encodeInfo,
  encodeListedName,
  encodeMetaContext,
  encodeOptionReply,
  encodeText,
  type Info,
  type ListedName,
  type MetaContext,
  OPTION_HEADER_BYTES,
} from "./option.ts";

/** An export as it is offered to one client. */
export interface ExportOffer {
  /** The canonical name. */
  readonly name: string;
  /** For people; may be empty. */
  readonly description: string;
  readonly sizeBytes: number;
  /** {@linkcode TransmissionFlag}s of all that the export can do; what a client has no right to is left out here. */
  readonly transmissionFlags: number;
  readonly blockSizes: BlockSizes;
  /** Names of the metadata contexts. */
  readonly contexts: readonly string[];
  /**
   * Answers a SET_META_CONTEXT query that is not the name of a context: the names selected by it, if any.
   * This is where queries of the vendor namespace that carry a value are understood.
   */
  contextsFor?(query: string): readonly string[] | Promise<readonly string[]>;
}

/** Why a client does not get what it asked for. */
export interface Refusal {
  readonly refused: "unknown" | "policy" | "tls-required" | "shutdown";
  /** Told to the client: no paths of ours. */
  readonly reason: string;
  /** Told to the log in its place: what the client is not to know. */
  readonly inTruth?: string;
  /** What SET_META_CONTEXT grants nevertheless, for a query; where this is absent it is refused as well. */
  contextsFor?(query: string): readonly string[] | Promise<readonly string[]>;
}

/** What the server has for this client. */
export interface ServerHall {
  /** The exports that this client may see. */
  list(): readonly ListedName[] | Refusal;
  /** The export of this name; "" is the default export. */
  find(exportName: string): ExportOffer | Refusal;
  /** Once it gives a reason, every option but ABORT is answered with ERR_SHUTDOWN. */
  shuttingDown?(): string | null;
  /** Hears of every refusal, for the log. The name is the peer's: escape it. "" where the option has none. */
  refused?(optionName: string, exportName: string, reason: string): void;
  /**
   * What STARTTLS does. `off`: it is answered with ERR_POLICY. `required`: until it has been granted, every other
   * option but ABORT is answered with ERR_TLS_REQD.
   */
  readonly tls: "off" | "offered" | "required";
  /** Whether clients may do without 124 zeroes behind EXPORT_NAME. Default `true`. */
  readonly noZeroes?: boolean;
}

/** How transmission begins. */
export interface Agreement {
  readonly offer: ExportOffer;
  /** As told to this client: of the offer's, those that hold for what was negotiated. */
  readonly transmissionFlags: number;
  readonly style: "oldstyle" | "newstyle" | "fixed-newstyle";
  /** Replies are chunks; always with `extended`. */
  readonly structured: boolean;
  /** Requests and chunks have 32-byte headers. */
  readonly extended: boolean;
  /** The metadata contexts selected for this export. */
  readonly contexts: readonly MetaContext[];
}

/** The client was granted STARTTLS: nothing that it said before counts, and what it says next is inside TLS. */
export interface StartTls {
  readonly startTls: true;
  /** To go on with. */
  readonly clientFlags: number;
}

/** Greets in oldstyle, which leaves a client nothing to choose. */
export function* greetOldstyle(offer: ExportOffer): Conversation<Agreement> {
  const transmissionFlags = flagsFor(offer, { structured: false, extended: false, contexts: [] });
  yield* send(encodeHello({ sizeBytes: offer.sizeBytes, transmissionFlags }));
  return { offer, transmissionFlags, style: "oldstyle", structured: false, extended: false, contexts: [] };
}

/**
 * Greets in fixed newstyle and answers options until transmission begins.
 *
 * @param hall One where TLS is off; for the others there is {@linkcode greetNewstyle}.
 * @returns How transmission begins, or `null` if the client left by ABORT.
 * @throws {WireError} If the client broke the protocol, or was refused in a way that has no answer: close.
 */
export function* negotiateNewstyle(hall: ServerHall): Conversation<Agreement | null> {
  const outcome = yield* greetNewstyle(hall);
  if (outcome !== null && "startTls" in outcome) throw new RangeError("nobody is here to start TLS");
  return outcome;
}

/**
 * As {@linkcode negotiateNewstyle}, until transmission or TLS begins.
 *
 * Where it ends with {@linkcode StartTls}, bytes that have already arrived behind it were sent by somebody who
 * wants them to be taken for protected ones: the carrier closes. Otherwise it goes on inside TLS with
 * {@linkcode resumeNewstyle}.
 */
export function* greetNewstyle(hall: ServerHall): Conversation<Agreement | StartTls | null> {
  const noZeroes = hall.noZeroes ?? true;
  const offered = HandshakeFlag.FIXED_NEWSTYLE | (noZeroes ? HandshakeFlag.NO_ZEROES : 0);
  yield* send(encodeGreeting(offered));
  const flags = decodeClientFlags(yield* need(CLIENT_FLAGS_BYTES), offered);
  return yield* answerOptions(hall, flags, hall.tls);
}

/** Goes on inside TLS, as if nothing had been said but the flags. Otherwise as {@linkcode negotiateNewstyle}. */
export function* resumeNewstyle(hall: ServerHall, { clientFlags }: StartTls): Conversation<Agreement | null> {
  return (yield* answerOptions(hall, clientFlags, "on")) as Agreement | null;
}

function* answerOptions(
  hall: ServerHall,
  flags: number,
  tls: ServerHall["tls"] | "on",
): Conversation<Agreement | StartTls | null> {
  const fixed = (flags & ClientFlag.FIXED_NEWSTYLE) !== 0;
  const haggled: Haggled = { structured: false, extended: false, selection: null };
  while (true) {
    const { option, payloadBytes } = decodeOptionHeader(yield* need(OPTION_HEADER_BYTES));
    if (option === Option.EXPORT_NAME) {
      if (tls === "required") throw new WireError("EXPORT_NAME from a client without TLS, which is required");
      const padded = (flags & ClientFlag.NO_ZEROES) === 0;
      return yield* answerExportName(hall, haggled, payloadBytes, padded, fixed);
    }
    if (!fixed) {
      throw new WireError(`${optionName(option)} from a client that did not agree to fixed newstyle`);
    }
    const payload = yield* receivePayload(option, payloadBytes);
    if (option === Option.ABORT) {
      yield* reply(option, OptionReply.ACK);
      return null;
    }
    try {
      if (option === Option.STARTTLS) {
        yield* answerStartTls(hall, tls, payload);
        return { startTls: true, clientFlags: flags };
      }
      if (tls === "required") throw new OptionRefused(OptionReply.ERR_TLS_REQD, "TLS is required");
      const agreement = yield* answerOption(hall, haggled, option, payload);
      if (agreement !== null) return agreement;
    } catch (error) {
      if (!(error instanceof OptionRefused)) throw error;
      hall.refused?.(optionName(option), error.exportName, error.inTruth);
      yield* reply(option, error.reply, encodeText(error.message));
    }
  }
}

/** What the options so far have led to. */
interface Haggled {
  structured: boolean;
  extended: boolean;
  /** Holds only for the export of this name. */
  selection: { readonly exportName: string; readonly contexts: readonly MetaContext[] } | null;
}

/** An option is not granted; `reply` is the type of error that the client is told, the message its text. */
class OptionRefused extends Error {
  constructor(
    readonly reply: number,
    reason: string,
    readonly exportName = "",
    readonly inTruth = reason,
  ) {
    super(reason);
  }
}

const replyFor = {
  "unknown": OptionReply.ERR_UNKNOWN,
  "policy": OptionReply.ERR_POLICY,
  "tls-required": OptionReply.ERR_TLS_REQD,
  "shutdown": OptionReply.ERR_SHUTDOWN,
} as const;

/**
 * Receives an option's payload.
 *
 * @returns `null` if it is too long to be held: it was read past, so that the next option can be read.
 */
function* receivePayload(option: number, payloadBytes: number): Conversation<Uint8Array | null> {
  if (payloadBytes === 0) return new Uint8Array(0);
  if (payloadBytes <= OPTION_PAYLOAD_BYTES_MAX) return yield* need(payloadBytes);
  if (payloadBytes > OPTION_DRAIN_BYTES_MAX) {
    throw new WireError(`${optionName(option)} with ${payloadBytes} bytes of data`);
  }
  for (let left = payloadBytes; left > 0;) {
    left -= (yield* need(Math.min(left, OPTION_PAYLOAD_BYTES_MAX))).length;
  }
  return null;
}

function* reply(option: number, type: number, payload?: Uint8Array): Conversation<void> {
  yield* send(encodeOptionReply(option, type, payload));
}

function* answerStartTls(
  hall: ServerHall,
  tls: ServerHall["tls"] | "on",
  payload: Uint8Array | null,
): Conversation<void> {
  const closing = hall.shuttingDown?.() ?? null;
  if (closing !== null) throw new OptionRefused(OptionReply.ERR_SHUTDOWN, closing);
  expectNoData(payload);
  if (tls === "on") throw new OptionRefused(OptionReply.ERR_INVALID, "TLS is on already");
  if (tls === "off") throw new OptionRefused(OptionReply.ERR_POLICY, "TLS is off");
  yield* reply(Option.STARTTLS, OptionReply.ACK);
}

/** Answers one option of fixed newstyle; the result is an agreement where it starts transmission. */
function* answerOption(
  hall: ServerHall,
  haggled: Haggled,
  option: number,
  payload: Uint8Array | null,
): Conversation<Agreement | null> {
  const closing = hall.shuttingDown?.() ?? null;
  if (closing !== null) throw new OptionRefused(OptionReply.ERR_SHUTDOWN, closing);
  switch (option) {
    case Option.LIST:
      expectNoData(payload);
      yield* answerList(hall);
      return null;
    case Option.INFO:
    case Option.GO:
      return yield* answerInfo(hall, haggled, option, payload);
    case Option.STRUCTURED_REPLY:
      expectNoData(payload);
      if (haggled.extended) {
        throw new OptionRefused(OptionReply.ERR_EXT_HEADER_REQD, "extended headers are already agreed");
      }
      if (haggled.structured) {
        throw new OptionRefused(OptionReply.ERR_INVALID, "structured replies are already agreed");
      }
      haggled.structured = true;
      yield* reply(option, OptionReply.ACK);
      return null;
    case Option.EXTENDED_HEADERS:
      expectNoData(payload);
      if (haggled.extended) {
        throw new OptionRefused(OptionReply.ERR_INVALID, "extended headers are already agreed");
      }
      haggled.structured = haggled.extended = true;
      yield* reply(option, OptionReply.ACK);
      return null;
    case Option.LIST_META_CONTEXT:
      yield* answerListMeta(hall, payload);
      return null;
    case Option.SET_META_CONTEXT:
      yield* answerSetMeta(hall, haggled, payload);
      return null;
    default:
      throw new OptionRefused(OptionReply.ERR_UNSUP, `${optionName(option)} is not known here`);
  }
}

function expectNoData(payload: Uint8Array | null): void {
  if (payload?.length !== 0) throw new OptionRefused(OptionReply.ERR_INVALID, "the option takes no data");
}

/** Decodes a payload: what is wrong with it is the client's to hear. */
function understand<T>(payload: Uint8Array | null, decode: (payload: Uint8Array) => T): T {
  if (payload === null) {
    throw new OptionRefused(
      OptionReply.ERR_TOO_BIG,
      `more than ${OPTION_PAYLOAD_BYTES_MAX} bytes of data`,
    );
  }
  try {
    return decode(payload);
  } catch (error) {
    if (error instanceof WireError) throw new OptionRefused(OptionReply.ERR_INVALID, error.message);
    throw error;
  }
}

function find(hall: ServerHall, exportName: string): ExportOffer {
  const found = hall.find(exportName);
  if ("refused" in found) {
    throw new OptionRefused(replyFor[found.refused], found.reason, exportName, found.inTruth);
  }
  return found;
}

/** There is no way to refuse EXPORT_NAME but to close. */
function* answerExportName(
  hall: ServerHall,
  haggled: Haggled,
  payloadBytes: number,
  padded: boolean,
  fixed: boolean,
): Conversation<Agreement> {
  if (payloadBytes > MAX_STRING_BYTES) throw new WireError(`EXPORT_NAME with ${payloadBytes} bytes of data`);
  const payload = payloadBytes === 0 ? new Uint8Array(0) : yield* need(payloadBytes);
  const exportName = decodeString(payload, "export name");
  if (haggled.extended) throw new WireError("EXPORT_NAME after EXTENDED_HEADERS");
  try {
    const closing = hall.shuttingDown?.() ?? null;
    if (closing !== null) throw new OptionRefused(OptionReply.ERR_SHUTDOWN, closing, exportName);
    const agreement = agree(haggled, exportName, find(hall, exportName), fixed);
    const { transmissionFlags, offer: { sizeBytes } } = agreement;
    yield* send(encodeExportNameReply({ sizeBytes, transmissionFlags }, padded));
    return agreement;
  } catch (error) {
    if (!(error instanceof OptionRefused)) throw error;
    hall.refused?.("EXPORT_NAME", exportName, error.inTruth);
    throw new WireError(`EXPORT_NAME of "${printable(exportName)}" is refused: ${error.message}`);
  }
}

function* answerList(hall: ServerHall): Conversation<void> {
  const listed = hall.list();
  if ("refused" in listed) throw new OptionRefused(replyFor[listed.refused], listed.reason);
  for (const each of listed) yield* reply(Option.LIST, OptionReply.SERVER, encodeListedName(each));
  yield* reply(Option.LIST, OptionReply.ACK);
}

function* answerInfo(
  hall: ServerHall,
  haggled: Haggled,
  option: typeof Option.INFO | typeof Option.GO,
  payload: Uint8Array | null,
): Conversation<Agreement | null> {
  const { exportName, types } = understand(payload, decodeInfoRequest);
  if (option === Option.GO && haggled.selection?.exportName !== exportName) haggled.selection = null;
  const offer = find(hall, exportName);
  const agreement = agree(haggled, exportName, offer, true);
  const { sizeBytes, name, description, blockSizes } = offer;
  // EXPORT comes first: QEMU holds a size against the block sizes only if it has heard of these before.
  const infos: Info[] = [
    { type: InfoType.EXPORT, sizeBytes, transmissionFlags: agreement.transmissionFlags },
  ];
  if (types.includes(InfoType.NAME) || name !== exportName) infos.push({ type: InfoType.NAME, name });
  if (types.includes(InfoType.DESCRIPTION) && description !== "") {
    infos.push({ type: InfoType.DESCRIPTION, description });
  }
  infos.push({ type: InfoType.BLOCK_SIZE, blockSizes });
  for (const info of infos) yield* reply(option, OptionReply.INFO, encodeInfo(info));
  yield* reply(option, OptionReply.ACK);
  return option === Option.GO ? agreement : null;
}

function* answerListMeta(hall: ServerHall, payload: Uint8Array | null): Conversation<void> {
  const { exportName, queries } = understand(payload, decodeMetaRequest);
  const { contexts } = find(hall, exportName);
  expectFewQueries(queries, exportName);
  const listed = contexts.filter((name) =>
    queries.length === 0 ||
    queries.some((query) => query === name || query.endsWith(":") && name.startsWith(query))
  );
  const option = Option.LIST_META_CONTEXT;
  for (const name of listed) {
    yield* reply(option, OptionReply.META_CONTEXT, encodeMetaContext({ id: 0, name }));
  }
  yield* reply(option, OptionReply.ACK);
}

function* answerSetMeta(hall: ServerHall, haggled: Haggled, payload: Uint8Array | null): Conversation<void> {
  haggled.selection = null;
  if (!haggled.structured) {
    throw new OptionRefused(OptionReply.ERR_INVALID, "STRUCTURED_REPLY or EXTENDED_HEADERS comes first");
  }
  const { exportName, queries } = understand(payload, decodeMetaRequest);
  const found = hall.find(exportName);
  const offer: Pick<ExportOffer, "contexts" | "contextsFor"> =
    "refused" in found && found.contextsFor !== undefined
      ? { contexts: [], contextsFor: found.contextsFor }
      : find(hall, exportName);
  expectFewQueries(queries, exportName);
  const names = new Set<string>();
  for (const query of queries) {
    const selected = offer.contexts.includes(query) ? [query] : offer.contextsFor?.(query) ?? [];
    for (const name of selected instanceof Promise ? yield* wait(selected) : selected) names.add(name);
  }
  const contexts = Array.from(names, (name, i) => ({ id: i + 1, name }));
  haggled.selection = { exportName, contexts };
  const option = Option.SET_META_CONTEXT;
  for (const context of contexts) {
    yield* reply(option, OptionReply.META_CONTEXT, encodeMetaContext(context));
  }
  yield* reply(option, OptionReply.ACK);
}

function expectFewQueries(queries: readonly string[], exportName: string): void {
  if (queries.length > META_QUERIES_MAX) {
    throw new OptionRefused(OptionReply.ERR_TOO_BIG, `more than ${META_QUERIES_MAX} queries`, exportName);
  }
}

function agree(haggled: Haggled, exportName: string, offer: ExportOffer, fixed: boolean): Agreement {
  const { structured, extended, selection } = haggled;
  const contexts = selection?.exportName === exportName ? selection.contexts : [];
  return {
    offer,
    transmissionFlags: flagsFor(offer, { structured, extended, contexts }),
    style: fixed ? "fixed-newstyle" : "newstyle",
    structured,
    extended,
    contexts,
  };
}

/** The offer's transmission flags without those that what was negotiated does not allow. */
function flagsFor(
  offer: ExportOffer,
  agreed: { structured: boolean; extended: boolean; contexts: readonly MetaContext[] },
): number {
  let flags = offer.transmissionFlags | TransmissionFlag.HAS_FLAGS;
  if (!agreed.structured) flags &= ~TransmissionFlag.SEND_DF;
  if (!agreed.extended || agreed.contexts.length === 0) flags &= ~TransmissionFlag.BLOCK_STATUS_PAYLOAD;
  if ((flags & TransmissionFlag.SEND_WRITE_ZEROES) === 0) flags &= ~TransmissionFlag.SEND_FAST_ZERO;
  return flags;
}
