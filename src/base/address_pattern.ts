/**
 * Which addresses are meant: `192.0.2.7`, `10.0.0.0/8`, `2001:db8::/32`, `unix`, `unix:1000`.
 *
 * Bits behind the prefix do not count; `/0` is everybody. All addresses are compared as 128 bits, IPv4 in its mapped
 * form (`::ffff:a.b.c.d`), so an IPv4 pattern and a mapped one are the same, however the listener shows its peers;
 * `::/0` is therefore IPv4 too. Peers on a Unix socket have no address: `unix` means all of them, `unix:1000` those
 * of that uid.
 */
import { formatIpAddress, parseAddressOption, parseIpAddress, unmapIpAddress } from "./ip_address.ts";

export type AddressPattern =
  | {
    readonly kind: "ip";
    /** 16 bytes. */
    readonly address: Uint8Array;
    /** How many bits of it count. */
    readonly bits: number;
  }
  | {
    readonly kind: "unix";
    /** `null`: any. */
    readonly uid: number | null;
  };

/** The address of a peer, as it is compared. */
export type PeerAddress =
  | { readonly kind: "ip"; readonly address: Uint8Array }
  | { readonly kind: "unix"; readonly uid: number | null };

/**
 * Parses a pattern.
 *
 * @returns It, and its text in the usual form.
 * @throws {SyntaxError} If it is none; the message says why and does not quote it.
 */
export function parseAddressPattern(text: string): { pattern: AddressPattern; text: string } {
  const match = /^([^=/]+)(?:\/(\d{1,3}))?$/.exec(text);
  if (match === null) throw new SyntaxError("an address is ADDRESS[/BITS]");
  const [, subject, bitsText] = match;
  const unix = /^unix(?::(\d{1,10}))?$/.exec(subject);
  if (unix !== null) {
    if (bitsText !== undefined) throw new SyntaxError("a Unix peer has no prefix");
    const uid = unix[1] === undefined ? null : Number(unix[1]);
    return { pattern: { kind: "unix", uid }, text: uid === null ? "unix" : `unix:${uid}` };
  }
  const canonical = parseAddressOption(subject);
  if (canonical === null) throw new SyntaxError("this is no IP address");
  const address = parseIpAddress(canonical)!;
  const width = address.length * 8;
  const bits = bitsText === undefined ? width : Number(bitsText);
  if (bits > width) throw new SyntaxError(`its prefix has at most ${width} bits`);
  return {
    pattern: { kind: "ip", address: mapped(address), bits: bits + 128 - width },
    text: `${formatIpAddress(address)}${bits === width ? "" : `/${bits}`}`,
  };
}

/**
 * Makes the address of a peer comparable.
 *
 * @param text An IP address without port, or a Unix peer: `unix`, `unix:uid=1000`.
 * @returns It, or `null` if it is neither.
 */
export function parsePeerAddress(text: string): PeerAddress | null {
  const unix = /^unix(?::uid=(\d+))?$/.exec(text);
  if (unix !== null) return { kind: "unix", uid: unix[1] === undefined ? null : Number(unix[1]) };
  const address = parseIpAddress(text);
  return address === null ? null : { kind: "ip", address: mapped(address) };
}

/** For messages: IPv4 without its mapping. */
export function formatPeerAddress(peer: PeerAddress): string {
  if (peer.kind === "ip") return formatIpAddress(unmapIpAddress(peer.address));
  return peer.uid === null ? "unix" : `unix:uid=${peer.uid}`;
}

/** Whether the peer is among those that are meant. */
export function matchesAddress(pattern: AddressPattern, peer: PeerAddress): boolean {
  if (pattern.kind === "unix") {
    return peer.kind === "unix" && (pattern.uid === null || pattern.uid === peer.uid);
  }
  return peer.kind === "ip" && sharesPrefix(pattern.address, peer.address, pattern.bits);
}

/** The address as 16 bytes. */
function mapped(address: Uint8Array): Uint8Array {
  if (address.length === 16) return address;
  const bytes = new Uint8Array(16);
  bytes.fill(0xff, 10, 12);
  bytes.set(address, 12);
  return bytes;
}

function sharesPrefix(a: Uint8Array, b: Uint8Array, bits: number): boolean {
  const whole = bits >> 3;
  for (let index = 0; index < whole; index++) if (a[index] !== b[index]) return false;
  const rest = bits & 7;
  return rest === 0 || (a[whole] ^ b[whole]) >> (8 - rest) === 0;
}
