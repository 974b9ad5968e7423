/**
 * IP addresses as bytes.
 *
 * Text forms accepted: dotted quad (four decimal numbers without leading zeroes) and RFC 4291 text including
 * `::` and an embedded dotted quad. No scope ids, no names.
 */

/** 4 or 16 bytes, big endian. */
export type IpAddress = Uint8Array;

/**
 * Parses an address.
 *
 * @returns 4 bytes for IPv4, 16 for IPv6, `null` if the text is neither.
 */
export function parseIpAddress(text: string): IpAddress | null {
  return text.includes(":") ? parseV6(text) : parseV4(text);
}

function parseV4(text: string): IpAddress | null {
  const parts = text.split(".");
  if (parts.length !== 4) return null;
  const bytes = new Uint8Array(4);
  for (const [index, part] of parts.entries()) {
    if (!/^(0|[1-9]\d{0,2})$/.test(part)) return null;
    const value = Number(part);
    if (value > 255) return null;
    bytes[index] = value;
  }
  return bytes;
}

function parseV6(text: string): IpAddress | null {
  if (text.length > 45) return null;
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const head = parseGroups(halves[0], halves.length === 1);
  const tail = halves.length === 2 ? parseGroups(halves[1], true) : [];
  if (head === null || tail === null) return null;
  const given = head.length + tail.length;
  // `::` stands for at least one group of zeroes.
  if (halves.length === 1 ? given !== 16 : given > 14) return null;
  const bytes = new Uint8Array(16);
  bytes.set(head, 0);
  bytes.set(tail, 16 - tail.length);
  return bytes;
}

/** The bytes of `a:b:c`; the last group may be a dotted quad where `atEnd`. */
function parseGroups(text: string, atEnd: boolean): number[] | null {
  if (text === "") return [];
  const bytes: number[] = [];
  const groups = text.split(":");
  for (const [index, group] of groups.entries()) {
    if (atEnd && index === groups.length - 1 && group.includes(".")) {
      const quad = parseV4(group);
      if (quad === null) return null;
      bytes.push(...quad);
    } else {
      if (!/^[0-9a-f]{1,4}$/i.test(group)) return null;
      const value = parseInt(group, 16);
      bytes.push(value >> 8, value & 0xff);
    }
  }
  return bytes;
}

/** Formats an address: dotted quad, or lower-case IPv6 with the longest run of zero groups as `::` (RFC 5952). */
export function formatIpAddress(address: IpAddress): string {
  if (address.length === 4) return address.join(".");
  const groups = Array.from({ length: 8 }, (_, index) => address[2 * index] * 256 + address[2 * index + 1]);
  let [bestStart, bestLength] = [-1, 1];
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (start + length < 8 && groups[start + length] === 0) length++;
    if (length > bestLength) [bestStart, bestLength] = [start, length];
  }
  const hex = groups.map((group) => group.toString(16));
  if (bestStart < 0) return hex.join(":");
  return `${hex.slice(0, bestStart).join(":")}::${hex.slice(bestStart + bestLength).join(":")}`;
}

/**
 * The IPv4 address inside an IPv4-mapped one (`::ffff:a.b.c.d`), or the address itself.
 */
export function unmapIpAddress(address: IpAddress): IpAddress {
  if (address.length !== 16) return address;
  for (let index = 0; index < 10; index++) if (address[index] !== 0) return address;
  if (address[10] !== 0xff || address[11] !== 0xff) return address;
  return address.subarray(12);
}

/**
 * An address in its usual text, without a scope; one that is IPv4-mapped as the IPv4 address. What is no address
 * stays as it is.
 */
export function canonicalIpAddress(text: string): string {
  const address = parseIpAddress(text.split("%", 1)[0]);
  return address === null ? text : formatIpAddress(unmapIpAddress(address));
}

/**
 * What somebody has who has an address: an IPv4 address alone, of IPv6 the 64 bits in front with all behind them.
 *
 * @returns `10.0.0.1`, `2001:db8:0:1::/64`; what is no address as it is.
 */
export function networkOf(text: string): string {
  const address = text.includes(":") ? parseIpAddress(text) : null;
  if (address === null) return text;
  return `${formatIpAddress(address.fill(0, 8))}/64`;
}

/** Whether an address means the machine itself. */
export function isLoopback(text: string): boolean {
  const address = canonicalIpAddress(text);
  return address === "::1" || address.startsWith("127.");
}

/**
 * Parses the address of a command line option, as flexnbd spells it: `0` is the IPv4 any-address, and an IPv6
 * address may stand in brackets.
 *
 * @returns The address in its usual text, or `null` if the text is none.
 */
export function parseAddressOption(text: string): string | null {
  if (text === "0") return "0.0.0.0";
  const bracketed = /^\[([^\]]*:[^\]]*)\]$/.exec(text);
  const address = parseIpAddress(bracketed === null ? text : bracketed[1]);
  return address === null ? null : formatIpAddress(address);
}
