/**
 * Every number of the NBD protocol, with a phrase each. The protocol's own numbers come first, the limits that
 * denbd chose last.
 *
 * @see NBD proto.md, "Values"
 */

/** "NBDMAGIC": the first eight bytes of every server. */
export const INIT_PASSWD = 0x4e42444d41474943n;
/** Follows {@linkcode INIT_PASSWD} in the oldstyle hello. */
export const OLDSTYLE_MAGIC = 0x0000420281861253n;
/** "IHAVEOPT": follows {@linkcode INIT_PASSWD} in the newstyle greeting, and opens every option. */
export const OPTION_MAGIC = 0x49484156454f5054n;
/** Opens every reply to an option. */
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;

/** Opens a request of 28 bytes. */
export const REQUEST_MAGIC = 0x25609513;
/** Opens a request of 32 bytes, after EXTENDED_HEADERS. */
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
/** Opens a reply of 16 bytes. */
export const SIMPLE_REPLY_MAGIC = 0x67446698;
/** Opens a chunk with a header of 20 bytes, after STRUCTURED_REPLY. */
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
/** Opens a chunk with a header of 32 bytes, after EXTENDED_HEADERS. */
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

/** The port of NBD. */
export const DEFAULT_PORT = 10809;

/** What a newstyle server can do in the handshake; 16 bits, never protected, so never extended. */
export const HandshakeFlag = {
  /** Options other than EXPORT_NAME work. */
  FIXED_NEWSTYLE: 1 << 0,
  /** The 124 zero bytes after EXPORT_NAME may be left out. */
  NO_ZEROES: 1 << 1,
} as const;

/** The client's echo of {@linkcode HandshakeFlag}; 32 bits. */
export const ClientFlag = {
  FIXED_NEWSTYLE: 1 << 0,
  NO_ZEROES: 1 << 1,
} as const;

/** What an export can do; 16 bits. Clients ignore unknown ones. */
export const TransmissionFlag = {
  /** Always set. */
  HAS_FLAGS: 1 << 0,
  /** Commands that write fail with EPERM. */
  READ_ONLY: 1 << 1,
  /** FLUSH works. */
  SEND_FLUSH: 1 << 2,
  /** The FUA flag works. */
  SEND_FUA: 1 << 3,
  /** The medium spins: a hint. */
  ROTATIONAL: 1 << 4,
  /** TRIM works. */
  SEND_TRIM: 1 << 5,
  /** WRITE_ZEROES and its NO_HOLE flag work. */
  SEND_WRITE_ZEROES: 1 << 6,
  /** The DF flag on READ works; only after STRUCTURED_REPLY or EXTENDED_HEADERS. */
  SEND_DF: 1 << 7,
  /** A flush on one connection covers what was answered on all, and all see the same. */
  CAN_MULTI_CONN: 1 << 8,
  /** RESIZE works (experimental). */
  SEND_RESIZE: 1 << 9,
  /** CACHE works. */
  SEND_CACHE: 1 << 10,
  /** The FAST_ZERO flag is understood; only beside SEND_WRITE_ZEROES. */
  SEND_FAST_ZERO: 1 << 11,
  /** BLOCK_STATUS may name contexts in a payload; only after EXTENDED_HEADERS. */
  BLOCK_STATUS_PAYLOAD: 1 << 12,
} as const;

/** Modifiers of a command; 16 bits. */
export const CommandFlag = {
  /** Durable before the answer. */
  FUA: 1 << 0,
  /** WRITE_ZEROES must keep the range allocated. */
  NO_HOLE: 1 << 1,
  /** READ is answered in one chunk. */
  DF: 1 << 2,
  /** BLOCK_STATUS answers one extent per context. */
  REQ_ONE: 1 << 3,
  /** WRITE_ZEROES is refused with ENOTSUP where it is not faster than writing. */
  FAST_ZERO: 1 << 4,
  /** The length is that of the payload which follows; only with extended headers. */
  PAYLOAD_LEN: 1 << 5,
} as const;

/** Modifiers of a reply chunk; 16 bits. Others are ignored. */
export const ReplyFlag = {
  /** The last chunk for this cookie. */
  DONE: 1 << 0,
} as const;

/** What a client may ask for during the handshake. */
export const Option = {
  /** Starts transmission; knows no errors. For old clients. */
  EXPORT_NAME: 1,
  /** The client leaves. */
  ABORT: 2,
  /** Names of all exports. */
  LIST: 3,
  /** Withdrawn from the protocol. */
  PEEK_EXPORT: 4,
  /** Everything after the ACK is encrypted. */
  STARTTLS: 5,
  /** What {@linkcode GO} would tell. */
  INFO: 6,
  /** Starts transmission. */
  GO: 7,
  /** Reads are answered in chunks. */
  STRUCTURED_REPLY: 8,
  /** Names of the metadata contexts of an export. */
  LIST_META_CONTEXT: 9,
  /** Selects metadata contexts for BLOCK_STATUS. */
  SET_META_CONTEXT: 10,
  /** 64-bit lengths in requests and replies. */
  EXTENDED_HEADERS: 11,
} as const;

/** Set in the type of every {@linkcode OptionReply} that is an error. */
export const OPTION_ERROR_BIT = 0x80000000;

/** Answers to an option; errors may carry a text for people. */
export const OptionReply = {
  /** Done; the last answer to this option. */
  ACK: 1,
  /** One export of LIST. */
  SERVER: 2,
  /** One {@linkcode InfoType} about an export. */
  INFO: 3,
  /** One metadata context: its id and name. */
  META_CONTEXT: 4,
  /** The option is not known. */
  ERR_UNSUP: 0x80000001,
  /** Refused by the server's rules. */
  ERR_POLICY: 0x80000002,
  /** The option is malformed or out of place. */
  ERR_INVALID: 0x80000003,
  /** Not possible on the server's platform. */
  ERR_PLATFORM: 0x80000004,
  /** Only after STARTTLS. */
  ERR_TLS_REQD: 0x80000005,
  /** No such export. */
  ERR_UNKNOWN: 0x80000006,
  /** The server is going down. */
  ERR_SHUTDOWN: 0x80000007,
  /** The client must ask for block sizes and keep them. */
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  /** The option is too much work. */
  ERR_TOO_BIG: 0x80000009,
  /** Extended headers were agreed, so this is out of place; or they are demanded. */
  ERR_EXT_HEADER_REQD: 0x8000000a,
} as const;

/** Kinds of information about an export in INFO and GO. */
export const InfoType = {
  /** Size u64, transmission flags u16. Always sent. */
  EXPORT: 0,
  /** The canonical name. */
  NAME: 1,
  /** A text for people. */
  DESCRIPTION: 2,
  /** Minimum u32, preferred u32, maximum payload u32, in bytes. */
  BLOCK_SIZE: 3,
} as const;

/** What a client may ask for in transmission. */
export const Command = {
  READ: 0,
  WRITE: 1,
  /** The client leaves; has no reply. */
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  /** Prefetch. */
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  /** Experimental: the new size is in the offset field. */
  RESIZE: 8,
} as const;

/** Kinds of reply chunk; 16 bits. */
export const ChunkType = {
  /** No payload: only an end. */
  NONE: 0,
  /** Offset u64, data. */
  OFFSET_DATA: 1,
  /** Offset u64, length u32 of zeroes. */
  OFFSET_HOLE: 2,
  /** Context id u32, then length u32 and status u32 per extent; only without extended headers. */
  BLOCK_STATUS: 5,
  /** Context id u32, count u32, then length u64 and status u64 per extent; only with extended headers. */
  BLOCK_STATUS_EXT: 6,
  /** Error u32, text length u16, text. */
  ERROR: 0x8001,
  /** Error u32, text length u16, text, offset u64. */
  ERROR_OFFSET: 0x8002,
} as const;

/** Set in every {@linkcode ChunkType} that tells of an error, known or not. */
export const CHUNK_ERROR_BIT = 0x8000;

/** The only error codes on the wire. */
export const WireErrno = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** Bits of the status of an extent in the context {@linkcode BASE_ALLOCATION}. */
export const AllocationStatus = {
  /** Not allocated: a write may run out of space. */
  HOLE: 1 << 0,
  /** Reads as zeroes. */
  ZERO: 1 << 1,
} as const;

/** The metadata context every server has that knows about holes. */
export const BASE_ALLOCATION = "base:allocation";

// Limits of the protocol, in bytes unless named otherwise.

/** The longest string: names, descriptions, queries, error texts. */
export const MAX_STRING_BYTES = 4096;
/** The largest payload that everybody takes without being told: 2^25. */
export const PAYLOAD_BYTES_ADVERTISED = 33554432;
/** Extents in one status chunk. */
export const STATUS_EXTENTS_MAX = 1 << 20;
/** The largest minimum block size. */
export const MINIMUM_BLOCK_BYTES_MAX = 65536;
/** Sizes above 2^63 - 1 are an error of the server; what a number holds exactly is less, and enough. */
export const EXPORT_BYTES_MAX = Number.MAX_SAFE_INTEGER;

// Limits of our own.

/** The longest option payload that is held in memory; the longest legal INFO has some 4 KiB. */
export const OPTION_PAYLOAD_BYTES_MAX = 64 * 1024;
/** A longer option payload is read past up to this length and answered; beyond it the connection ends. */
export const OPTION_DRAIN_BYTES_MAX = 16 * 1024 * 1024;
/** Queries in one LIST_META_CONTEXT or SET_META_CONTEXT; more are answered TOO_BIG. */
export const META_QUERIES_MAX = 64;
/** The largest payload still served; a longer one ends the session. */
export const PAYLOAD_BYTES_MAX = 67108864;
/** Bytes of text in an error that we send. */
export const ERROR_TEXT_BYTES_MAX = 256;

const commandNames = new Map<number, string>(Object.entries(Command).map(([name, type]) => [type, name]));
const optionNames = new Map<number, string>(Object.entries(Option).map(([name, option]) => [option, name]));
const replyNames = new Map<number, string>(Object.entries(OptionReply).map(([name, type]) => [type, name]));

/** The protocol's name of a command for logs and errors; `command 42` where it has none. */
export function commandName(type: number): string {
  return commandNames.get(type) ?? `command ${type}`;
}

/** The protocol's name of an option for logs and errors; `option 42` where it has none. */
export function optionName(option: number): string {
  return optionNames.get(option) ?? `option ${option}`;
}

/** The protocol's name of a reply to an option for logs and errors; `reply 42` where it has none. */
export function optionReplyName(type: number): string {
  return replyNames.get(type) ?? `reply ${type}`;
}
