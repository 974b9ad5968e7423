/**
 * The sections of `server.conf` that are ours: how NBD is served from a configuration directory. The others are
 * dnbd3's.
 *
 * ```ini
 * [nbd]
 * listen = 192.0.2.10               ; ADDRESS, ADDRESS:PORT, [IPv6]:PORT or unix:PATH; repeated; else 127.0.0.1
 * maxConnections = 4096
 * handshakeTimeout = 10s
 * requestTimeout = 0                ; a client whose request takes longer is disconnected; 0: never
 * drainTimeout = 10s
 * diskThreads = 24                  ; calls of disks that wait at the same time
 * [tls]
 * mode = require                    ; off, prefer or require
 * certificates = /etc/denbd/tls     ; server-cert.pem and server-key.pem
 * verifyPeer = true                 ; only clients whose certificate ca-cert.pem there has signed
 * [channel]
 * listen = 192.0.2.10               ; port 10811 unless another is given
 * key = key                         ; our private key
 * psk = psk                         ; a key that clients must have in addition
 * encryption = require              ; require, prefer or off
 * [http]
 * listen = 9809                     ; /metrics and /healthz: a port of loopback, or unix:PATH
 * ```
 */
import { parseDuration } from "../base/duration_text.ts";
import type { Endpoint, TcpEndpoint } from "../base/endpoint.ts";
import { parseAddressOption } from "../base/ip_address.ts";
import { printable } from "../base/printable.ts";
import { parseStatusPlace } from "../base/status_place.ts";
import { CHANNEL_PORT, NBD_PORT } from "../base/uri.ts";
import { ConfigError } from "./config_error.ts";
import { type IniSection, parse } from "./ini.ts";
import {
  integerWithin,
  oneOf,
  parseText,
  parseYesNo,
  pathFrom,
  readSection,
  type SectionKeys,
} from "./strict_section.ts";

/** What is served to whom how; times in milliseconds. */
export interface ServingConf {
  readonly nbd: {
    /** Where to listen; none: this machine alone, on the usual port. */
    readonly listen: readonly Endpoint[];
    readonly maxConnections?: number;
    readonly handshakeTimeout?: number;
    /** 0: never. */
    readonly requestTimeout?: number;
    readonly drainTimeout?: number;
    readonly diskThreads?: number;
  };
  readonly tls: {
    readonly mode: "off" | "prefer" | "require";
    /** Directory of the certificate; always there unless the mode is `off`. */
    readonly certificates?: string;
    /** TLS only for clients with a certificate that `ca-cert.pem` among them has signed. */
    readonly verifyPeer: boolean;
  };
  /** `null`: there is none. */
  readonly channel: {
    readonly listen: TcpEndpoint;
    /** Files. */
    readonly key?: string;
    readonly psk?: string;
    readonly encryption: "require" | "prefer" | "off";
  } | null;
  readonly http: {
    /** As the command line has it. */
    readonly listen?: string;
  };
}

/** The sections that dnbd3 reads. */
const DNBD3_SECTIONS: readonly string[] = ["", "dnbd3", "limits", "logging"];
const OWN_SECTIONS: readonly string[] = ["nbd", "tls", "channel", "http"];

/**
 * Parses the text of a `server.conf` into its sections. What is malformed in dnbd3's is reported and skipped.
 *
 * @throws {ConfigError} If there is a section that nobody knows, a malformed line in one of ours, or one of ours that is
 *   indented: it would be taken for a value of the key before it, and what it protects would not be protected.
 */
export function parseServerConf(
  text: string,
  { file, warn }: { readonly file: string; readonly warn: (problem: ConfigError) => void },
): IniSection[] {
  const malformed: ConfigError[] = [];
  const sections = parse(text, { file, onMalformed: (error) => malformed.push(error) });
  for (const { name, line, entries } of sections) {
    const hidden = entries.find(({ continued, value }) =>
      continued && OWN_SECTIONS.some((own) => value === `[${own}]`)
    );
    if (hidden !== undefined) {
      throw new ConfigError(file, hidden.line, `${hidden.value} is indented, and so no section`);
    }
    if (DNBD3_SECTIONS.includes(name) || OWN_SECTIONS.includes(name)) continue;
    const known = [...OWN_SECTIONS, ...DNBD3_SECTIONS.slice(1)].join(", ");
    throw new ConfigError(file, line, `unknown section [${printable(name)}]: there are ${known}`);
  }
  for (const error of malformed) {
    const section = sections.findLast(({ line }) => line < error.line);
    // A header that is none would put the keys below it elsewhere.
    const isHeader = error.reason.startsWith("section");
    if (isHeader || section !== undefined && OWN_SECTIONS.includes(section.name)) throw error;
    warn(error);
  }
  return sections;
}

/**
 * Reads our sections.
 *
 * @param options `directory`: where relative paths begin.
 * @throws {ConfigError} About the first thing that is wrong.
 */
export function readServingConf(
  sections: readonly IniSection[],
  { file, directory }: { readonly file: string; readonly directory: string },
): ServingConf {
  const one = (name: string): IniSection => {
    const [first, second] = sections.filter((section) => section.name === name);
    if (second !== undefined) {
      throw new ConfigError(file, second.line, `[${name}] is in line ${first.line} already`);
    }
    return first ?? { name, line: 0, entries: [] };
  };
  const path = pathFrom(directory);

  const nbd = readSection(one("nbd"), NBD_KEYS, file);
  const tlsSection = one("tls");
  const tls = readSection(tlsSection, {
    mode: { parse: oneOf("off", "prefer", "require") },
    certificates: { parse: path },
    verifyPeer: { parse: parseYesNo },
  }, file);
  const mode = tls.mode?.value ?? "off";
  if (tlsSection.line > 0 && tls.mode === undefined) {
    throw new ConfigError(file, tlsSection.line, "[tls] has no mode: off, prefer or require");
  }
  if (mode !== "off" && tls.certificates === undefined) {
    throw new ConfigError(file, tls.mode!.line, `mode = ${mode} needs certificates`);
  }
  if (mode === "off" && tls.verifyPeer?.value === true) {
    throw new ConfigError(file, tls.verifyPeer.line, "verifyPeer belongs to mode = prefer or require");
  }
  return {
    nbd: {
      listen: nbd.listen.map(({ value }) => value),
      maxConnections: nbd.maxConnections?.value,
      handshakeTimeout: nbd.handshakeTimeout?.value,
      requestTimeout: nbd.requestTimeout?.value,
      drainTimeout: nbd.drainTimeout?.value,
      diskThreads: nbd.diskThreads?.value,
    },
    tls: { mode, certificates: tls.certificates?.value, verifyPeer: tls.verifyPeer?.value ?? false },
    channel: readChannel(one("channel")),
    http: { listen: readSection(one("http"), { listen: { parse: parsePlace } }, file).listen?.value },
  };

  function readChannel(section: IniSection): ServingConf["channel"] {
    if (section.line === 0) return null;
    const { listen, key, psk, encryption } = readSection(section, {
      listen: { parse: parseChannelListen },
      key: { parse: path },
      psk: { parse: path },
      encryption: { parse: oneOf("require", "prefer", "off") },
    }, file);
    const channel = {
      listen: listen?.value ?? { transport: "tcp" as const, host: "127.0.0.1", port: CHANNEL_PORT },
      key: key?.value,
      psk: psk?.value,
      encryption: encryption?.value ?? "require" as const,
    };
    const unused = key ?? psk;
    if (channel.encryption === "off" && unused !== undefined) {
      throw new ConfigError(file, unused.line, "encryption = off has no use for key and psk");
    }
    if (channel.encryption !== "off" && key === undefined) {
      throw new ConfigError(file, section.line, "[channel] needs key: the file of the server's private key");
    }
    return channel;
  }
}

const NBD_KEYS = {
  listen: { parse: parseListen, many: true },
  maxConnections: { parse: integerWithin(1, 100_000) },
  handshakeTimeout: { parse: parseDuration },
  requestTimeout: { parse: parseDuration },
  drainTimeout: { parse: parseDuration },
  // As many as `device/disk_threads.ts` allows.
  diskThreads: { parse: integerWithin(1, 24) },
} satisfies SectionKeys;

function parsePlace(text: string): string {
  parseStatusPlace(text);
  return text;
}

/** `ADDRESS`, `ADDRESS:PORT`, `[IPv6]`, `[IPv6]:PORT`, `unix:PATH`; `0` are all IPv4 addresses, port 0 is any. */
function parseListen(text: string): Endpoint {
  if (text.startsWith("unix:")) {
    const path = parseText(text.slice("unix:".length));
    if (!path.startsWith("/")) throw new SyntaxError("the path of a Unix socket is to be absolute");
    return { transport: "unix", path };
  }
  return parseTcpListen(text, NBD_PORT);
}

function parseChannelListen(text: string): TcpEndpoint {
  return parseTcpListen(text, CHANNEL_PORT);
}

function parseTcpListen(text: string, defaultPort: number): TcpEndpoint {
  const alone = parseAddressOption(text);
  if (alone !== null) return { transport: "tcp", host: alone, port: defaultPort };
  const match = /^(\[[^\]]+\]|[^:]+):(\d{1,5})$/.exec(text);
  const host = match === null ? null : parseAddressOption(match[1]);
  const port = Number(match?.[2]);
  if (host === null || port > 65535) {
    throw new SyntaxError(`"${printable(text, 60)}" is not ADDRESS, ADDRESS:PORT or [IPv6]:PORT`);
  }
  return { transport: "tcp", host, port };
}
