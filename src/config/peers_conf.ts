/**
 * `peers.conf`: who may do what with which export of a configuration directory.
 *
 * A section for each peer. What makes it the peer: `address` (`192.0.2.7`, `10.0.0.0/8`, `unix`, `unix:1000`), `key`
 * (the line of its public key in the channel) and `certificate` (the name in its certificate for TLS). Each may be
 * repeated, and one of the values must hold; where several of the three are given, each of them must. What it may do:
 * `read`, `write` and `none`, with the name of an export; a `*` stands for any characters.
 *
 * The first line, from the top of the file, that speaks of the peer and of the export decides. Where there is none,
 * the answer is no.
 *
 * ```ini
 * [backup]
 * key = denbd-x25519 VgX9o4cSmoNcjbR+fHGvVYeJEcDBNGRu3J1BTk+JgVw= backup@vault
 * read = *
 * [office]
 * address = 10.0.0.0/8
 * none = secret
 * write = scratch
 * read = *
 * ```
 */
import { type AddressPattern, parseAddressPattern } from "../base/address_pattern.ts";
import { decodeKey, parsePublicKey, type PublicKey } from "../base/channel_key.ts";
import { printable } from "../base/printable.ts";
import { ConfigError } from "./config_error.ts";
import { parse } from "./ini.ts";
import { parseText, readSection, type SectionKeys } from "./strict_section.ts";

/** What a peer may do with the exports of some name. */
export interface PeerRight {
  readonly rights: "none" | "read" | "write";
  /** A name, in which `*` stands for any characters. */
  readonly exports: string;
  readonly line: number;
}

/** A section. */
export interface PeerSettings {
  readonly name: string;
  readonly line: number;
  /** One of them, unless there are none. */
  readonly addresses: readonly AddressPattern[];
  /** One of them, unless there are none. */
  readonly keys: readonly PublicKey[];
  /** One of them, unless there are none. */
  readonly certificateNames: readonly string[];
  /** In order. */
  readonly rights: readonly PeerRight[];
}

const KEYS = {
  address: { parse: (text: string) => parseAddressPattern(text).pattern, many: true },
  key: { parse: parseKey, many: true },
  certificate: { parse: parseText, many: true },
  none: { parse: parseText, many: true },
  read: { parse: parseText, many: true },
  write: { parse: parseText, many: true },
} satisfies SectionKeys;

/**
 * Parses the file.
 *
 * @throws {ConfigError} About the first thing that is wrong.
 */
export function parsePeersConf(text: string, file: string): PeerSettings[] {
  const peers: PeerSettings[] = [];
  for (const section of parse(text, { file })) {
    const { name, line } = section;
    const bad = (line: number, reason: string) => new ConfigError(file, line, reason);
    if (line === 0) throw bad(section.entries[0].line, "a key in front of the first [peer]");
    if (name === "") throw bad(line, "a peer needs a name, for people");
    const before = peers.find((each) => each.name === name);
    if (before !== undefined) throw bad(line, `peer "${printable(name)}" is in line ${before.line} already`);
    const { address, key, certificate, ...byRights } = readSection(section, KEYS, file);
    if (address.length + key.length + certificate.length === 0) {
      throw bad(line, `peer "${printable(name)}" has no address, key or certificate to know it by`);
    }
    const rights = (["none", "read", "write"] as const)
      .flatMap((rights) => byRights[rights].map(({ value, line }) => ({ rights, exports: value, line })))
      .sort((one, other) => one.line - other.line);
    if (rights.length === 0) throw bad(line, `peer "${printable(name)}" has no none, read or write`);
    peers.push({
      name,
      line,
      addresses: address.map(({ value }) => value),
      keys: key.map(({ value }) => value),
      certificateNames: certificate.map(({ value }) => value),
      rights,
    });
  }
  return peers;
}

/** The line of a public key, or the key alone. */
function parseKey(text: string): PublicKey {
  if (/\s/.test(text)) return parsePublicKey(text);
  return { key: decodeKey(text).toBase64(), comment: "" };
}
