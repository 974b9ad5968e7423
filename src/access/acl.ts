/**
 * Who may come in, by address: an ordered list of which the first matching entry decides.
 *
 * An entry is an address or a prefix, with what it gives after an equals sign: `192.0.2.7`, `10.0.0.0/8=read`,
 * `2001:db8::/32`, `10.0.0.66=none`. Without one it gives `write`, which is what an entry meant in flexnbd. `/0`
 * is everybody. Bits behind the prefix do not count.
 *
 * All addresses are compared as 128 bits, IPv4 in its mapped form (`::ffff:a.b.c.d`), so an IPv4 entry and a
 * mapped one are the same entry, however the listener shows its peers; `::/0` is therefore IPv4 too.
 *
 * Who is in no entry is refused. The empty list lets everybody write, unless it is *default-deny*: then nobody.
 *
 * Peers on a Unix socket have no address. The mode of the socket file guards it, so they may write, unless the
 * list is default-deny or speaks of them: `unix` (all of them) and `unix:1000` (that uid) are entries too, and
 * once one of these is in the list, they are treated like everybody.
 *
 * @see spec: flexnbd section 9
 */
import { formatIpAddress, parseAddressOption, parseIpAddress, unmapIpAddress } from "../base/ip_address.ts";
import { printable } from "../base/printable.ts";

export type Rights = "none" | "read" | "write";

export interface Decision {
  readonly rights: Rights;
  /** Why, for the log and the refused: `10.0.0.66=none matches`. */
  readonly reason: string;
}

/** One entry, parsed. */
export interface AclEntry {
  /** The entry in its usual form, as status shows it. */
  readonly text: string;
  readonly rights: Rights;
  /** IP: 16 bytes and the number of bits that count. Unix: the uid, or `null` for all. */
  readonly subject:
    | { readonly kind: "ip"; readonly address: Uint8Array; readonly bits: number }
    | { readonly kind: "unix"; readonly uid: number | null };
}

/**
 * Parses an entry.
 *
 * @throws {SyntaxError} If it is none; the message quotes it.
 */
export function parseAclEntry(text: string): AclEntry {
  const bad = (why: string) => new SyntaxError(`bad spec: ${printable(text)} (${why})`);
  const match = /^([^=/]+)(?:\/(\d{1,3}))?(?:=(none|read|write))?$/.exec(text);
  if (match === null) throw bad("an entry is ADDRESS[/BITS][=none|read|write]");
  const [, subject, bitsText] = match;
  const rights = (match[3] ?? "write") as Rights;
  const suffix = rights === "write" ? "" : `=${rights}`;

  const unix = /^unix(?::(\d{1,10}))?$/.exec(subject);
  if (unix !== null) {
    if (bitsText !== undefined) throw bad("a Unix peer has no prefix");
    const uid = unix[1] === undefined ? null : Number(unix[1]);
    return {
      text: `unix${uid === null ? "" : `:${uid}`}${suffix}`,
      rights,
      subject: { kind: "unix", uid },
    };
  }
  const canonical = parseAddressOption(subject);
  if (canonical === null) throw bad("this is no IP address");
  const address = parseIpAddress(canonical)!;
  const width = address.length * 8;
  const bits = bitsText === undefined ? width : Number(bitsText);
  if (bits > width) throw bad(`its prefix has at most ${width} bits`);
  return {
    text: `${formatIpAddress(address)}${bits === width ? "" : `/${bits}`}${suffix}`,
    rights,
    subject: { kind: "ip", address: mapped(address), bits: bits + 128 - width },
  };
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

export class AccessList {
  readonly defaultDeny: boolean;
  #entries: readonly AclEntry[] = [];

  /**
   * @param entries As {@linkcode parseAclEntry} takes them.
   * @param options `defaultDeny`: the empty list lets nobody in; this stays so for ever. Default `false`.
   * @throws {SyntaxError} If one of the entries is none.
   */
  constructor(entries: readonly string[], options: { defaultDeny?: boolean } = {}) {
    this.defaultDeny = options.defaultDeny ?? false;
    this.replace(entries);
  }

  /** In their usual form, in order. */
  get entries(): string[] {
    return this.#entries.map((entry) => entry.text);
  }

  /** Whether the empty list lets everybody write. */
  get isOpen(): boolean {
    return this.#entries.length === 0 && !this.defaultDeny;
  }

  /**
   * Puts another list in the place of this one.
   *
   * @throws {SyntaxError} If one of the entries is none; the old list stays.
   */
  replace(entries: readonly string[]): void {
    this.#entries = entries.map(parseAclEntry);
  }

  /**
   * Decides about a peer.
   *
   * @param address An IP address without port, or a Unix peer: `unix`, `unix:uid=1000`.
   */
  rightsFor(address: string): Decision {
    const local = /^unix(?::uid=(\d+))?$/.exec(address);
    if (local !== null) return this.#rightsForUnix(local[1] === undefined ? null : Number(local[1]));
    const ip = parseIpAddress(address);
    if (ip === null) return { rights: "none", reason: `"${printable(address)}" is no address` };
    const wide = mapped(ip);
    for (const { subject, rights, text } of this.#entries) {
      if (subject.kind === "ip" && sharesPrefix(subject.address, wide, subject.bits)) {
        return { rights, reason: `${text} matches` };
      }
    }
    return this.#rightsWithoutMatch(formatIpAddress(unmapIpAddress(wide)));
  }

  #rightsForUnix(uid: number | null): Decision {
    let mentioned = false;
    for (const { subject, rights, text } of this.#entries) {
      if (subject.kind !== "unix") continue;
      mentioned = true;
      if (subject.uid === null || subject.uid === uid) return { rights, reason: `${text} matches` };
    }
    if (mentioned || this.defaultDeny) {
      return this.#rightsWithoutMatch(uid === null ? "unix" : `unix:uid=${uid}`);
    }
    return { rights: "write", reason: "the socket's file mode let it in" };
  }

  #rightsWithoutMatch(peer: string): Decision {
    if (this.#entries.length > 0) return { rights: "none", reason: `no entry matches ${peer}` };
    if (this.defaultDeny) {
      return { rights: "none", reason: "the access list is empty, which denies everybody" };
    }
    return { rights: "write", reason: "the access list is empty, which allows everybody" };
  }
}
