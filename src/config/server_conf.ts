/**
 * `server.conf` of dnbd3: the keys, their defaults and units, and what follows from them.
 *
 * The file is read as dnbd3-server reads it, so that an existing directory works unchanged: a value that cannot be
 * used is reported and the default, or on a reload the value in force, stays. One key is ours, which dnbd3-server
 * passes over. The file may hold further sections, which belong to others.
 */
import { ConfigError } from "./config_error.ts";
import { type IniEntry, type IniSection, stringify } from "./ini.ts";

/** How much of an image a proxy copies on its own: nothing, what clients began, all. */
export type BackgroundReplication = "off" | "hashblock" | "full";

export interface ServerConf {
  // [dnbd3]
  readonly listenPort: number;
  /** Where the images are: absolute, without a slash at the end. */
  readonly basePath: string;
  /** Files without `.rN` are images of revision 1. */
  readonly vmdkLegacyMode: boolean;
  readonly isProxy: boolean;
  /** Copy only from servers marked `for=replication`. */
  readonly proxyPrivateOnly: boolean;
  readonly backgroundReplication: BackgroundReplication;
  /** Copy in the background only images with this many users. */
  readonly bgrMinClients: number;
  /** Background requests in flight. */
  readonly bgrWindowSize: number;
  /** Ask other servers for an image we do not have when a proxy wants it. */
  readonly lookupMissingForProxy: boolean;
  readonly sparseFiles: boolean;
  readonly ignoreAllocErrors: boolean;
  readonly removeMissingImages: boolean;
  /** In ms. */
  readonly uplinkTimeout: number;
  /** In ms; a silent client is dropped after four of these. */
  readonly clientTimeout: number;
  readonly closeUnusedFd: boolean;
  /** Microseconds between the answer to a proxy's selection and its first block. */
  readonly serverPenalty: number;
  /** The same for other clients. */
  readonly clientPenalty: number;
  /** Do not tell other servers that we are one. */
  readonly pretendClient: boolean;
  /** Seconds after the start before images may be deleted for want of space; -1: never. */
  readonly autoFreeDiskSpaceDelay: number;
  readonly iScsiServer: boolean;
  /** Ours: give clients nothing of a hash block before all of it is here and fits its checksum. */
  readonly verifyBeforeRelay: boolean;
  // [limits]
  readonly maxClients: number;
  readonly maxImages: number;
  /** Bytes of the largest block asked of another server. */
  readonly maxPayload: number;
  /** Bytes of the largest image to copy. */
  readonly maxReplicationSize: number;
  readonly maxPrefetch: number;
  readonly minRequestSize: number;
  readonly logging: LoggingConf;
}

export type LogMask = "ERROR" | "WARNING" | "MINOR" | "INFO" | "DEBUG1" | "DEBUG2";

export interface LoggingConf {
  readonly file?: string;
  readonly fileMask: readonly LogMask[];
  readonly consoleMask: readonly LogMask[];
  readonly consoleTimestamps: boolean;
}

const LOG_MASKS: readonly LogMask[] = ["ERROR", "WARNING", "MINOR", "INFO", "DEBUG1", "DEBUG2"];
const CLIENTS_MAX = 4000;
const IMAGES_MAX = 5000;
const BGR_WINDOW_MAX = 490;
const PROXY_PAYLOAD_MIN = 256 * 1024;
const INT32_MAX = 2 ** 31 - 1;

type Kind = "boolean" | "int" | "unsigned" | "unsigned64" | "replication" | "path" | "text" | "masks";

/** Section, kind, default; `atStart`: not changed by a reload. The order is that of dnbd3's own listing. */
const KEYS: Readonly<Record<string, { section: string; kind: Kind; initial: unknown; atStart?: true }>> = {
  listenPort: { section: "dnbd3", kind: "int", initial: 5003, atStart: true },
  basePath: { section: "dnbd3", kind: "path", initial: "", atStart: true },
  serverPenalty: { section: "dnbd3", kind: "int", initial: 0 },
  clientPenalty: { section: "dnbd3", kind: "int", initial: 0 },
  isProxy: { section: "dnbd3", kind: "boolean", initial: false },
  backgroundReplication: { section: "dnbd3", kind: "replication", initial: "full" },
  bgrMinClients: { section: "dnbd3", kind: "int", initial: 0 },
  bgrWindowSize: { section: "dnbd3", kind: "int", initial: 1 },
  lookupMissingForProxy: { section: "dnbd3", kind: "boolean", initial: true },
  sparseFiles: { section: "dnbd3", kind: "boolean", initial: false },
  ignoreAllocErrors: { section: "dnbd3", kind: "boolean", initial: false },
  removeMissingImages: { section: "dnbd3", kind: "boolean", initial: true },
  uplinkTimeout: { section: "dnbd3", kind: "unsigned", initial: 5000 },
  clientTimeout: { section: "dnbd3", kind: "unsigned", initial: 15000 },
  closeUnusedFd: { section: "dnbd3", kind: "boolean", initial: false },
  vmdkLegacyMode: { section: "dnbd3", kind: "boolean", initial: false, atStart: true },
  proxyPrivateOnly: { section: "dnbd3", kind: "boolean", initial: false },
  pretendClient: { section: "dnbd3", kind: "boolean", initial: false },
  autoFreeDiskSpaceDelay: { section: "dnbd3", kind: "int", initial: 36000 },
  iScsiServer: { section: "dnbd3", kind: "boolean", initial: true },
  verifyBeforeRelay: { section: "dnbd3", kind: "boolean", initial: false },
  maxClients: { section: "limits", kind: "int", initial: CLIENTS_MAX, atStart: true },
  maxImages: { section: "limits", kind: "int", initial: IMAGES_MAX, atStart: true },
  maxPayload: { section: "limits", kind: "unsigned", initial: 9000000 },
  maxReplicationSize: { section: "limits", kind: "unsigned64", initial: 100000000000 },
  maxPrefetch: { section: "limits", kind: "unsigned", initial: 262144 },
  minRequestSize: { section: "limits", kind: "unsigned", initial: 0 },
  file: { section: "logging", kind: "text", initial: undefined },
  fileMask: { section: "logging", kind: "masks", initial: LOG_MASKS.filter((mask) => mask !== "DEBUG2") },
  consoleMask: { section: "logging", kind: "masks", initial: LOG_MASKS.slice(0, 4) },
  consoleTimestamps: { section: "logging", kind: "boolean", initial: false },
};

export interface ReadOptions {
  file: string;
  /** Told of every value that is not used as it stands. */
  warn: (problem: ConfigError) => void;
  /** The settings in force, on a reload. */
  previous?: ServerConf;
}

/** Whether the sections speak of dnbd3 at all: a configuration directory may be about other things. */
export function wantsDnbd3(sections: readonly IniSection[]): boolean {
  return sections.some((section) => section.name === "dnbd3");
}

/**
 * Makes settings of the sections of a `server.conf`.
 *
 * @throws {ConfigError} If there is no usable `basePath` or the port is none.
 */
export function readServerConf(sections: readonly IniSection[], options: ReadOptions): ServerConf {
  const { file, previous } = options;
  const values: Record<string, unknown> = {};
  for (const [key, { initial }] of Object.entries(KEYS)) values[key] = inForce(previous, key) ?? initial;
  const lines = new Map<string, number>();
  const warn = (line: number, reason: string) => options.warn(new ConfigError(file, line, reason));

  for (const section of sections) {
    if (!["dnbd3", "limits", "logging"].includes(section.name)) continue;
    for (const entry of section.entries) {
      const key = Object.hasOwn(KEYS, entry.key) ? KEYS[entry.key] : undefined;
      if (entry.continued && /[=:]/.test(entry.value)) {
        warn(entry.line, `indented, and so read as another value of ${entry.key}`);
      }
      if (key?.section !== section.name) {
        warn(entry.line, `unknown key ${entry.key} in [${section.name}]`);
        continue;
      }
      const value = readValue(key.kind, entry, warn);
      if (value === undefined) continue;
      if (previous && key.atStart && value !== values[entry.key]) {
        warn(entry.line, `${entry.key} cannot change while running`);
        continue;
      }
      // Of several base paths the first counts, of everything else the last.
      if (entry.key === "basePath" && lines.has("basePath")) continue;
      values[entry.key] = value;
      lines.set(entry.key, entry.line);
    }
  }
  const lineOf = (key: string) => lines.get(key) ?? 0;
  const path = values.basePath as string;
  if (path === "") throw new ConfigError(file, lineOf("basePath"), "no basePath in [dnbd3]");
  if (!path.startsWith("/")) {
    throw new ConfigError(file, lineOf("basePath"), `basePath must be absolute, not ${path}`);
  }
  const port = values.listenPort as number;
  if (port < 1 || port > 65535) {
    throw new ConfigError(file, lineOf("listenPort"), `listenPort must be from 1 to 65535, not ${port}`);
  }
  const conf = { ...values } as Record<string, unknown>;
  const { file: logFile, fileMask, consoleMask, consoleTimestamps } = values;
  for (const key of ["file", "fileMask", "consoleMask", "consoleTimestamps"]) delete conf[key];
  conf.logging = {
    ...(logFile === undefined ? {} : { file: logFile }),
    fileMask,
    consoleMask,
    consoleTimestamps,
  };
  return settle(conf as unknown as ServerConf, (key, reason) => warn(lineOf(key), reason));
}

/** The effective settings as the text of a `server.conf`, without logging: dnbd3 tells it to whoever may ask. */
export function formatServerConf(conf: ServerConf): string {
  const sections = new Map<string, Record<string, string>>();
  for (const [key, { section, kind }] of Object.entries(KEYS)) {
    if (section === "logging") continue;
    const entries = sections.get(section) ?? {};
    sections.set(section, entries);
    const value = conf[key as keyof ServerConf];
    const replication = { off: "false", hashblock: "hashblock", full: "true" };
    entries[key] = kind === "replication" ? replication[value as BackgroundReplication] : String(value);
  }
  return stringify(sections);
}

/**
 * Reads a number as dnbd3 writes it: decimal, then perhaps `m`, `h` or `d` (60, 3600, 86400), or one of
 * `K M G T P E Z Y` (any case but `m`): powers of 1024, or of 1000 with a `B` behind.
 *
 * @returns The number, or null if the text is none.
 */
export function parseNumber(text: string): number | null {
  const match = /^([+-]?\d+) *(?:([mhd])|([KMGTPEZYkgtpezy])([Bb]?))?$/.exec(text);
  if (match === null) return null;
  const [, digits, time, unit, b] = match;
  if (time) return Number(digits) * { m: 60, h: 3600, d: 86400 }[time]!;
  const power = unit === undefined ? 0 : "KMGTPEZY".indexOf(unit.toUpperCase()) + 1;
  return Number(digits) * (b ? 1000 : 1024) ** power;
}

/** What dnbd3 takes for true: a number other than 0, or `true` in three spellings. */
export function parseBoolean(text: string): boolean {
  return ["true", "True", "TRUE"].includes(text) || /^\s*[+-]?0*[1-9]/.test(text);
}

/** A value, or undefined where the entry is of no use. */
function readValue(kind: Kind, entry: IniEntry, warn: (line: number, reason: string) => void): unknown {
  const { key, value, line } = entry;
  switch (kind) {
    case "text":
      return value;
    case "path":
      return value.replace(/\/+$/, "") || value.slice(0, 1);
    case "masks":
      return LOG_MASKS.filter((mask) => value.includes(mask));
    case "replication":
      if (value === "hashblock") return "hashblock";
      return readBoolean() ? "full" : "off";
    case "boolean":
      return readBoolean();
  }
  const number = parseNumber(value);
  const [least, most] = kind === "int"
    ? [-INT32_MAX - 1, INT32_MAX]
    : [0, kind === "unsigned" ? INT32_MAX : Number.MAX_SAFE_INTEGER];
  if (number === null) warn(line, `${key}=${value} is not a number and is not used`);
  else if (number < least || number > most) {
    warn(line, `${key}=${value} is not from ${least} to ${most} and is not used`);
  } else return number;
  return undefined;

  function readBoolean(): boolean {
    if (!/^([+-]?\d+|[tT]rue|TRUE|[fF]alse|FALSE)$/.test(value)) {
      warn(line, `${key}=${value} is neither true nor a number: taken as ${parseBoolean(value)}`);
    }
    return parseBoolean(value);
  }
}

/** Brings values into the limits that others of them set. */
function settle(conf: ServerConf, warn: (key: string, reason: string) => void): ServerConf {
  const settled: { -readonly [key in keyof ServerConf]: ServerConf[key] } = {
    ...conf,
    maxClients: Math.min(conf.maxClients, CLIENTS_MAX),
    maxImages: Math.min(conf.maxImages, IMAGES_MAX),
  };
  if (!conf.isProxy) return settled;
  if (conf.backgroundReplication === "full" && conf.sparseFiles && conf.bgrMinClients < 5) {
    warn("sparseFiles", "sparseFiles is not used, as whole images are copied for fewer than 5 clients");
    settled.sparseFiles = false;
  }
  settled.bgrWindowSize = Math.min(Math.max(conf.bgrWindowSize, 1), BGR_WINDOW_MAX);
  if (settled.bgrWindowSize !== conf.bgrWindowSize) {
    warn("bgrWindowSize", `bgrWindowSize=${conf.bgrWindowSize} is brought to ${settled.bgrWindowSize}`);
  }
  if (conf.maxPayload < PROXY_PAYLOAD_MIN) {
    warn("maxPayload", `maxPayload=${conf.maxPayload} is raised to ${PROXY_PAYLOAD_MIN}`);
    settled.maxPayload = PROXY_PAYLOAD_MIN;
  }
  for (const key of ["maxPrefetch", "minRequestSize"] as const) {
    if (conf[key] <= settled.maxPayload) continue;
    warn(key, `${key}=${conf[key]} is lowered to maxPayload, ${settled.maxPayload}`);
    settled[key] = settled.maxPayload;
  }
  return settled;
}

function inForce(previous: ServerConf | undefined, key: string): unknown {
  if (previous === undefined) return undefined;
  if (KEYS[key].section === "logging") return previous.logging[key as keyof LoggingConf];
  return previous[key as keyof ServerConf];
}
