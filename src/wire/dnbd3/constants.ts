/** The numbers of the dnbd3 protocol, version 3. All integers on the wire are little-endian. */

/** TCP port of a server, shared with its HTTP answers. */
export const DEFAULT_PORT = 5003;

/** What we speak. Version 2 differs in one point: the hop byte is the highest byte of the offset, so it must be 0. */
export const PROTOCOL_VERSION = 3;
/** The oldest version that clients and servers accept of each other. */
export const PROTOCOL_VERSION_MIN = 2;

/** The first two bytes of every message: `73 72`. */
export const MAGIC = 0x7273;

export const REQUEST_HEADER_BYTES = 24;
export const REPLY_HEADER_BYTES = 16;

/** Payload limit of everything but blocks and checksum lists, in both directions. */
export const PAYLOAD_BYTES_MAX = 1000;

/** Images are served, mapped and cached in blocks of this size. */
export const BLOCK_BYTES = 4096;
/** One checksum covers this much. */
export const HASH_BLOCK_BYTES = 16 * 1024 * 1024;

/** Offsets on the wire have 56 bits; a `number` is exact below this. */
export const IMAGE_BYTES_MAX = Number.MAX_SAFE_INTEGER;
export const REVISION_MAX = 0xffff;

/** A GET_SERVERS answer holds at most this many entries. */
export const SERVER_ENTRIES_MAX = 8;
export const SERVER_ENTRY_BYTES = 20;

export const Command = {
  /** `size` bytes from `offset`; answered by the bytes, or by ERROR. */
  GetBlock: 1,
  /** Name and revision of the image of this connection; the first message, once. */
  SelectImage: 2,
  /** Which other servers have this image? */
  GetServers: 3,
  /** Server to client only: the block with this handle cannot be had. */
  Error: 4,
  /** Answered at once; clients give up a server that does not. */
  Keepalive: 5,
  /** Legacy, server to client only: the newest revision, u16. */
  LatestRevision: 6,
  /** This connection is a client's after all, not a proxy's. Not answered. */
  SetClientMode: 7,
  /** The checksum list of the image, empty if there is none. */
  GetChecksums: 8,
} as const;

/** Flags of SELECT_IMAGE. */
export const SelectFlag = {
  /** The client is a server: a proxy that relays what it reads. */
  Server: 1,
  /** That proxy copies the whole image in the background. */
  Replication: 2,
} as const;

/** The hop byte of GET_BLOCK: a count of proxies passed, and why the block is wanted. */
export const Hops = {
  CountMask: 0x3f,
  /** Nobody waits for it yet; wanted ahead of time. */
  Prefetch: 0x40,
  /** Nobody waits for it; a proxy completes its copy. */
  Replication: 0x80,
  /** A request that passed more proxies than this runs in a circle. */
  CountMax: 60,
} as const;

/** Address families of a server entry. */
export const AddressFamily = { None: 0, Ipv4: 2, Ipv6: 10 } as const;
