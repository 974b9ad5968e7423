/**
 * Who may come in, by address: an ordered list of which the first matching entry decides.
 *
 * An entry is an address or a prefix (see {@linkcode AddressPattern}), with what it gives after an equals sign:
 * `192.0.2.7`, `10.0.0.0/8=read`, `2001:db8::/32`, `10.0.0.66=none`. Without one it gives `write`, which is what an
 * entry meant in flexnbd.
 *
 * Who is in no entry is refused. The empty list lets everybody write, unless it is *default-deny*: then nobody.
 *
 * Peers on a Unix socket have no address. The mode of the socket file guards it, so they may write, unless the
 * list is default-deny or speaks of them: `unix` (all of them) and `unix:1000` (that uid) are entries too, and
 * once one of these is in the list, they are treated like everybody.
 *
 * @see spec: flexnbd section 9
 */
import {
  type AddressPattern,
  formatPeerAddress,
  matchesAddress,
  parseAddressPattern,
  parsePeerAddress,
} from "../base/address_pattern.ts";
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
  readonly subject: AddressPattern;
}

/**
 * Parses an entry.
 *
 * @throws {SyntaxError} If it is none; the message quotes it.
 */
export function parseAclEntry(text: string): AclEntry {
  const bad = (why: string) => new SyntaxError(`bad spec: ${printable(text)} (${why})`);
  const match = /^([^=]+)(?:=(none|read|write))?$/.exec(text);
  if (match === null) throw bad("an entry is ADDRESS[/BITS][=none|read|write]");
  const rights = (match[2] ?? "write") as Rights;
  try {
    const { pattern, text: subject } = parseAddressPattern(match[1]);
    return { text: `${subject}${rights === "write" ? "" : `=${rights}`}`, rights, subject: pattern };
  } catch (error) {
    throw bad((error as Error).message);
  }
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
    const peer = parsePeerAddress(address);
    if (peer === null) return { rights: "none", reason: `"${printable(address)}" is no address` };
    for (const { subject, rights, text } of this.#entries) {
      if (matchesAddress(subject, peer)) return { rights, reason: `${text} matches` };
    }
    const isSpokenOf = this.defaultDeny || this.#entries.some(({ subject }) => subject.kind === "unix");
    if (peer.kind === "unix" && !isSpokenOf) {
      return { rights: "write", reason: "the socket's file mode let it in" };
    }
    return this.#rightsWithoutMatch(formatPeerAddress(peer));
  }

  #rightsWithoutMatch(peer: string): Decision {
    if (this.#entries.length > 0) return { rights: "none", reason: `no entry matches ${peer}` };
    if (this.defaultDeny) {
      return { rights: "none", reason: "the access list is empty, which denies everybody" };
    }
    return { rights: "write", reason: "the access list is empty, which allows everybody" };
  }
}
