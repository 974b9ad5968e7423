/**
 * The client's side of the handshake, as conversations: all three styles, whichever the server speaks.
 *
 * What we can do without is asked for and may be refused; what we cannot ends in a {@linkcode RefusedError}. What
 * the protocol does not allow is a {@linkcode WireError}.
 *
 * @see NBD proto.md, "Handshake phase"
 */
import { type Conversation, need, send } from "../conversation.ts";
import { WireError } from "../wire_error.ts";
import {
  HandshakeFlag,
  InfoType,
  MAX_STRING_BYTES,
  Option,
  OPTION_ERROR_BIT,
  optionName,
  OptionReply,
  optionReplyName,
} from "./constants.ts";
import {
  decodeExportNameReply,
  decodeHandshakeFlags,
  decodeHelloRest,
  decodeStyle,
  encodeClientFlags,
  EXPORT_NAME_REPLY_BYTES,
  type ExportSummary,
  HANDSHAKE_FLAGS_BYTES,
  HELLO_REST_BYTES,
  PADDING_BYTES,
  STYLE_BYTES,
} from "./greeting.ts";
import {
  type BlockSizes,
  decodeInfo,
  decodeListedName,
  decodeMetaContext,
  decodeOptionReplyHeader,
  encodeInfoRequest,
  encodeMetaRequest,
  encodeOption,
  type MetaContext,
  OPTION_REPLY_HEADER_BYTES,
} from "./option.ts";
import { decodeFacts } from "./denbd_context.ts";
import { decodeMoved } from "./migration_message.ts";
import { MovedError } from "./moved_error.ts";
import { RefusedError } from "./refused_error.ts";

/** The longest payload of a reply to an option; the longest legal one has some 8 KiB. */
const REPLY_PAYLOAD_BYTES_MAX = 64 * 1024;
/** All replies to options together; a server that sends more is stalling. A listed export takes some 250 bytes. */
export const REPLIES_BYTES_MAX = 16 * 1024 * 1024;

/** The reply to STARTTLS, which nobody has proven: at most a refusal in words. */
const TLS_REPLY_BYTES_MAX = OPTION_REPLY_HEADER_BYTES + MAX_STRING_BYTES;

/** What a client would like. */
export interface ClientWishes {
  /** "" is the server's default export. */
  readonly exportName: string;
  /** Ask for replies in chunks. Default `true`. */
  readonly structured?: boolean;
  /** Ask for 32-byte headers. Default `true`. */
  readonly extended?: boolean;
  /** Queries for metadata contexts: names, or of a vendor's own syntax. */
  readonly contexts: readonly string[];
}

/** How transmission begins. */
export interface ClientAgreement extends ExportSummary {
  readonly style: "oldstyle" | "newstyle" | "fixed-newstyle";
  /** As the server told them; without, keep to multiples of 512 and payloads of 2^25. */
  readonly blockSizes?: BlockSizes;
  /** Replies are chunks; always with `extended`. */
  readonly structured: boolean;
  /** Requests and chunks have 32-byte headers. */
  readonly extended: boolean;
  /** Those that the server granted. */
  readonly contexts: readonly MetaContext[];
  /** Only if the server told it. */
  readonly canonicalName?: string;
  /** For people; only if the server told it. */
  readonly description?: string;
}

/** One export of a server, with whatever the server tells about it. */
export interface ListedExport extends Partial<ExportSummary> {
  readonly name: string;
  /** For people; may be empty. */
  readonly description: string;
  readonly blockSizes?: BlockSizes;
  /** Names of its metadata contexts, if the server lists them. */
  readonly contexts?: readonly string[];
  /** Why the server tells no more about it. */
  readonly refused?: RefusedError;
}

/** The exports of a server. */
export interface Listing {
  readonly style: ClientAgreement["style"];
  readonly structured: boolean;
  readonly extended: boolean;
  readonly exports: readonly ListedExport[];
}

/** All that is kept of what was said in clear before TLS. */
export interface GreetedForTls {
  readonly style: "fixed-newstyle";
  readonly noZeroes: boolean;
}

/**
 * Asks for TLS. Behind this the handshake of TLS begins, and inside it the other conversations go on with what this
 * returns. Bytes that arrived beyond its end were sent in clear: whoever gets any must close the connection.
 *
 * Nothing that a server, or whoever claims to be it, says here leads to a connection in clear.
 *
 * @throws {RefusedError} If the server does not start TLS.
 * @throws {WireError} If it cannot, or breaks the protocol.
 */
export function* startTls(): Conversation<GreetedForTls> {
  const server = yield* greet();
  if (server.style !== "fixed-newstyle") {
    throw new WireError(`the server speaks ${server.style}, which has no TLS`);
  }
  const refused = yield* ask(new Budget(TLS_REPLY_BYTES_MAX), Option.STARTTLS, undefined, (type) => {
    expectType(Option.STARTTLS, type, OptionReply.ACK);
  });
  if (refused !== null) {
    yield* leave();
    throw refused;
  }
  return { style: server.style, noZeroes: server.noZeroes };
}

/**
 * Negotiates one export, and leaves the connection ready for transmission.
 *
 * @param greeted Inside TLS: what {@linkcode startTls} returned.
 * @throws {RefusedError} If the server does not give the export; {@linkcode MovedError} if it says where it is.
 * @throws {WireError} If the server breaks the protocol.
 * @throws {RangeError} If the name of the export or of a context is longer than 4096 bytes.
 */
export function* negotiateClient(
  wishes: ClientWishes,
  greeted?: GreetedForTls,
): Conversation<ClientAgreement> {
  for (const text of [wishes.exportName, ...wishes.contexts]) checkString(text);
  const server = greeted ?? (yield* greet());
  const plain = { structured: false, extended: false, contexts: [] };
  if (server.style === "oldstyle") return { style: server.style, ...server.summary, ...plain };
  const { style, noZeroes } = server;
  if (style === "newstyle") return { style, ...plain, ...yield* exportName(wishes.exportName, noZeroes) };
  const budget = new Budget();
  let contexts: MetaContext[] = [];
  try {
    const forms = yield* askForms(budget, wishes);
    if (forms.structured) contexts = yield* setContexts(budget, wishes);
    const told = yield* go(budget, wishes.exportName);
    if (told !== null) return { style, ...forms, contexts, ...told };
    if (forms.extended) {
      throw new RefusedError(Option.GO, OptionReply.ERR_UNSUP, "unusable after EXTENDED_HEADERS");
    }
    return { style, ...forms, contexts, ...yield* exportName(wishes.exportName, noZeroes) };
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error;
    const names = contexts.map(({ name }) => name);
    const moved = decodeMoved(names);
    yield* leave();
    throw moved === null ? error : new MovedError(error, moved, decodeFacts(names).instance);
  }
}

/**
 * Lists the exports of a server and leaves it. An oldstyle server has one export, without a name.
 *
 * @param options `details`: ask for size, flags, block sizes and contexts of each export. Default `true`. `greeted`:
 *   inside TLS what {@linkcode startTls} returned.
 * @throws {RefusedError} If the server does not list, or knows no options.
 * @throws {WireError} If the server breaks the protocol.
 */
export function* listExports(
  options: { details?: boolean; greeted?: GreetedForTls } = {},
): Conversation<Listing> {
  const server = options.greeted ?? (yield* greet());
  if (server.style === "oldstyle") {
    const exports = [{ name: "", description: "", ...server.summary }];
    return { style: server.style, structured: false, extended: false, exports };
  }
  if (server.style === "newstyle") {
    throw new RefusedError(Option.LIST, OptionReply.ERR_UNSUP, "it speaks plain newstyle");
  }
  const budget = new Budget();
  try {
    const details = options.details ?? true;
    const forms = details ? yield* askForms(budget, {}) : { structured: false, extended: false };
    const exports: ListedExport[] = [];
    const refused = yield* ask(budget, Option.LIST, undefined, (type, payload) => {
      expectType(Option.LIST, type, OptionReply.SERVER);
      exports.push(decodeListedName(payload));
    });
    if (refused !== null) throw refused;
    if (details) {
      for (let i = 0; i < exports.length; i++) exports[i] = yield* describe(budget, exports[i]);
    }
    yield* leave();
    return { style: server.style, ...forms, exports };
  } catch (error) {
    if (error instanceof RefusedError) yield* leave();
    throw error;
  }
}

/**
 * Lists the metadata contexts of an export and leaves the server.
 *
 * @param greeted Inside TLS: what {@linkcode startTls} returned.
 * @returns `null` if the server does not tell.
 * @throws {WireError} If the server breaks the protocol.
 */
export function* listContexts(
  exportName: string,
  greeted?: GreetedForTls,
): Conversation<string[] | null> {
  checkString(exportName);
  const server = greeted ?? (yield* greet());
  if (server.style !== "fixed-newstyle") return null;
  const budget = new Budget();
  const { structured } = yield* askForms(budget, {});
  const contexts = structured ? yield* contextNames(budget, exportName) : null;
  yield* leave();
  return contexts;
}

/**
 * Asks for metadata contexts of an export and leaves the server: a question to a server of the same vendor.
 *
 * @param greeted Inside TLS: what {@linkcode startTls} returned.
 * @returns The names of those that the server grants; `null` if it grants no contexts at all.
 * @throws {WireError} If the server breaks the protocol.
 * @throws {RangeError} If the name of the export or a query is longer than 4096 bytes.
 */
export function* askContexts(
  exportName: string,
  queries: readonly string[],
  greeted?: GreetedForTls,
): Conversation<string[] | null> {
  for (const text of [exportName, ...queries]) checkString(text);
  const server = greeted ?? (yield* greet());
  if (server.style !== "fixed-newstyle") return null;
  const budget = new Budget();
  const { structured } = yield* askForms(budget, {});
  const contexts = structured ? yield* setContexts(budget, { exportName, contexts: queries }) : null;
  yield* leave();
  return contexts?.map(({ name }) => name) ?? null;
}

// --- Greeting ---

type Greeted =
  | { readonly style: "oldstyle"; readonly summary: ExportSummary }
  | { readonly style: "newstyle" | "fixed-newstyle"; readonly noZeroes: boolean };

function* greet(): Conversation<Greeted> {
  if (decodeStyle(yield* need(STYLE_BYTES)) === "oldstyle") {
    return { style: "oldstyle", summary: decodeHelloRest(yield* need(HELLO_REST_BYTES)) };
  }
  const offered = decodeHandshakeFlags(yield* need(HANDSHAKE_FLAGS_BYTES));
  // The client's flags have the bits of the server's; what we do not know we do not echo.
  const echoed = offered & (HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES);
  yield* send(encodeClientFlags(echoed));
  return {
    style: (echoed & HandshakeFlag.FIXED_NEWSTYLE) !== 0 ? "fixed-newstyle" : "newstyle",
    noZeroes: (echoed & HandshakeFlag.NO_ZEROES) !== 0,
  };
}

/** A server that does not know the export, or does not give it to us, closes the connection here. */
function* exportName(name: string, noZeroes: boolean): Conversation<ExportSummary> {
  yield* send(encodeOption(Option.EXPORT_NAME, new TextEncoder().encode(name)));
  const summary = decodeExportNameReply(yield* need(EXPORT_NAME_REPLY_BYTES));
  if (!noZeroes) yield* need(PADDING_BYTES);
  return summary;
}

// --- Options ---

/** What the server may still say before transmission. */
class Budget {
  leftBytes: number;

  constructor(readonly bytes = REPLIES_BYTES_MAX) {
    this.leftBytes = bytes;
  }
}

/**
 * Sends one option and receives the replies to it.
 *
 * @param each Is given every reply before the last.
 * @returns `null` after an ACK, or the server's error.
 * @throws {RefusedError} If the server is going down, which ends all haggling.
 * @throws {WireError} If a reply answers another option, is too long, or is beyond the budget.
 */
function* ask(
  budget: Budget,
  option: number,
  payload: Uint8Array | undefined,
  each: (type: number, payload: Uint8Array) => void,
  exportName?: string,
): Conversation<RefusedError | null> {
  yield* send(encodeOption(option, payload));
  while (true) {
    const header = decodeOptionReplyHeader(yield* need(OPTION_REPLY_HEADER_BYTES));
    const { type, payloadBytes } = header;
    if (header.option !== option) {
      throw new WireError(`reply to ${optionName(header.option)} when ${optionName(option)} was asked`);
    }
    if (payloadBytes > REPLY_PAYLOAD_BYTES_MAX) {
      throw new WireError(`${optionReplyName(type)} reply with ${payloadBytes} bytes of data`);
    }
    budget.leftBytes -= OPTION_REPLY_HEADER_BYTES + payloadBytes;
    if (budget.leftBytes < 0) {
      throw new WireError(`more than ${budget.bytes} bytes of replies to options`);
    }
    const data = payloadBytes === 0 ? new Uint8Array(0) : yield* need(payloadBytes);
    if (type === OptionReply.ACK) {
      if (payloadBytes > 0) {
        throw new WireError(`ACK of ${optionName(option)} with ${payloadBytes} bytes of data`);
      }
      return null;
    }
    if (type >= OPTION_ERROR_BIT) {
      const error = new RefusedError(option, type, new TextDecoder().decode(data), exportName);
      if (type === OptionReply.ERR_SHUTDOWN) throw error;
      return error;
    }
    each(type, data);
  }
}

function expectType(option: number, type: number, expected: number): void {
  if (type !== expected) throw new WireError(`${optionReplyName(type)} in reply to ${optionName(option)}`);
}

/** Asks for something that is granted by an ACK alone. */
function* askFor(budget: Budget, option: number): Conversation<boolean> {
  const refused = yield* ask(budget, option, undefined, (type) => expectType(option, type, OptionReply.ACK));
  return refused === null;
}

/** Asks for the best form of replies that is wished for and granted. */
function* askForms(
  budget: Budget,
  wishes: Pick<ClientWishes, "structured" | "extended">,
): Conversation<{ structured: boolean; extended: boolean }> {
  if ((wishes.extended ?? true) && (yield* askFor(budget, Option.EXTENDED_HEADERS))) {
    return { structured: true, extended: true };
  }
  return {
    structured: (wishes.structured ?? true) && (yield* askFor(budget, Option.STRUCTURED_REPLY)),
    extended: false,
  };
}

function* setContexts(budget: Budget, wishes: ClientWishes): Conversation<MetaContext[]> {
  if (wishes.contexts.length === 0) return [];
  const { exportName, contexts: queries } = wishes;
  const contexts = new Map<number, MetaContext>();
  const option = Option.SET_META_CONTEXT;
  const refused = yield* ask(budget, option, encodeMetaRequest({ exportName, queries }), (type, payload) => {
    expectType(option, type, OptionReply.META_CONTEXT);
    const context = decodeMetaContext(payload);
    const known = contexts.get(context.id);
    // A query asked twice may be answered twice; one id for two contexts would be a riddle.
    if (known !== undefined && known.name !== context.name) {
      throw new WireError(`metadata context id ${context.id} is given twice`);
    }
    contexts.set(context.id, context);
  });
  return refused === null ? [...contexts.values()] : [];
}

/** What INFO and GO tell about an export. */
type Told = ExportSummary & Pick<ClientAgreement, "blockSizes" | "canonicalName" | "description">;

/** @returns `null` if the server does not know GO. */
function* go(budget: Budget, exportName: string): Conversation<Told | null> {
  const told = yield* askInfo(budget, Option.GO, exportName);
  if (!(told instanceof RefusedError)) return told;
  if (told.reply === OptionReply.ERR_UNSUP) return null;
  throw told;
}

function* askInfo(
  budget: Budget,
  option: typeof Option.INFO | typeof Option.GO,
  exportName: string,
): Conversation<Told | RefusedError> {
  const types = [InfoType.NAME, InfoType.DESCRIPTION, InfoType.BLOCK_SIZE];
  let summary: ExportSummary | undefined;
  let rest: Omit<Told, keyof ExportSummary> = {};
  const refused = yield* ask(
    budget,
    option,
    encodeInfoRequest({ exportName, types }),
    (type, payload) => {
      expectType(option, type, OptionReply.INFO);
      const info = decodeInfo(payload);
      switch (info?.type) {
        case InfoType.EXPORT:
          summary = { sizeBytes: info.sizeBytes, transmissionFlags: info.transmissionFlags };
          break;
        case InfoType.NAME:
          rest = { ...rest, canonicalName: info.name };
          break;
        case InfoType.DESCRIPTION:
          rest = { ...rest, description: info.description };
          break;
        case InfoType.BLOCK_SIZE:
          rest = { ...rest, blockSizes: info.blockSizes };
          break;
      }
    },
    exportName,
  );
  if (refused !== null) return refused;
  if (summary === undefined) throw new WireError(`ACK of ${optionName(option)} without size and flags`);
  return { ...summary as ExportSummary, ...rest };
}

/** Adds to a listed export what INFO and LIST_META_CONTEXT tell. */
function* describe(budget: Budget, { name, description }: ListedExport): Conversation<ListedExport> {
  const told = yield* askInfo(budget, Option.INFO, name);
  if (told instanceof RefusedError) return { name, description, refused: told };
  const { canonicalName: _, description: longer, ...facts } = told;
  const contexts = yield* contextNames(budget, name);
  return {
    name,
    description: description || longer || "",
    ...facts,
    ...(contexts === null ? {} : { contexts }),
  };
}

/** @returns `null` if the server does not list them. */
function* contextNames(budget: Budget, exportName: string): Conversation<string[] | null> {
  const names: string[] = [];
  const option = Option.LIST_META_CONTEXT;
  const request = encodeMetaRequest({ exportName, queries: [] });
  const refused = yield* ask(budget, option, request, (type, payload) => {
    expectType(option, type, OptionReply.META_CONTEXT);
    names.push(decodeMetaContext(payload).name);
  });
  return refused === null ? names : null;
}

/** Leaves politely. Some servers close without an answer, so none is missed. */
function* leave(): Conversation<void> {
  try {
    yield* send(encodeOption(Option.ABORT));
    yield* need(OPTION_REPLY_HEADER_BYTES);
  } catch {
    // The connection is over, which is what we came for.
  }
}

function checkString(text: string): void {
  const byteCount = new TextEncoder().encode(text).length;
  if (byteCount > MAX_STRING_BYTES) {
    throw new RangeError(`a name of ${byteCount} bytes is longer than NBD allows`);
  }
}
