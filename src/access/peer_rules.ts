/**
 * Who may do what with which export, by everything that is known of a peer: its address, the key of its channel, the
 * name in its certificate.
 *
 * An ordered list, of which the first rule that speaks of the peer and of the export decides. Where none does, the
 * answer is no.
 */
import {
  type AddressPattern,
  formatPeerAddress,
  matchesAddress,
  parsePeerAddress,
  type PeerAddress,
} from "../base/address_pattern.ts";
import { printable } from "../base/printable.ts";
import type { Decision, Rights } from "./acl.ts";

/** What is known of a peer. */
export interface PeerFacts {
  /** An IP address without port, or a Unix peer: `unix`, `unix:uid=1000`. */
  readonly address: string;
  /** A proven key, in Base64. */
  readonly key?: string;
  /** The name in a proven certificate. */
  readonly certificateName?: string;
}

/** Peers that are meant together, and what they may do. */
export interface PeerEntry {
  /** For people. */
  readonly name: string;
  /** One of these must hold, unless there are none; the same for the others. */
  readonly addresses: readonly AddressPattern[];
  readonly keys: readonly { readonly key: string }[];
  readonly certificateNames: readonly string[];
  /** In order; `exports` is a name in which `*` stands for any characters. */
  readonly rights: readonly { readonly rights: Rights; readonly exports: string }[];
}

export class PeerRules {
  readonly #entries: readonly PeerEntry[];

  constructor(entries: readonly PeerEntry[]) {
    this.#entries = entries;
  }

  rightsFor(peer: PeerFacts, exportName: string): Decision {
    const address = parsePeerAddress(peer.address);
    for (const entry of this.#entries) {
      if (!describes(entry, peer, address)) continue;
      for (const { rights, exports } of entry.rights) {
        if (!matchesName(exports, exportName)) continue;
        return { rights, reason: `[${printable(entry.name)}] has ${rights} = ${printable(exports)}` };
      }
    }
    const who = [
      address === null ? `"${printable(peer.address)}"` : formatPeerAddress(address),
      peer.key === undefined ? "" : `with key ${peer.key}`,
      peer.certificateName === undefined ? "" : `with certificate "${printable(peer.certificateName)}"`,
    ];
    return { rights: "none", reason: `no rule for ${who.filter((each) => each !== "").join(" ")}` };
  }

  /** Whether somebody may have the export. */
  speaksOf(exportName: string): boolean {
    return this.#entries.some(({ rights }) => {
      const deciding = rights.find((each) => matchesName(each.exports, exportName));
      return deciding !== undefined && deciding.rights !== "none";
    });
  }
}

function describes(entry: PeerEntry, peer: PeerFacts, address: PeerAddress | null): boolean {
  const { addresses, keys, certificateNames } = entry;
  if (addresses.length + keys.length + certificateNames.length === 0) return false;
  const hasAddress = addresses.length === 0 ||
    address !== null && addresses.some((pattern) => matchesAddress(pattern, address));
  const hasKey = keys.length === 0 || keys.some(({ key }) => key === peer.key);
  const hasCertificate = certificateNames.length === 0 ||
    certificateNames.some((name) => name === peer.certificateName);
  return hasAddress && hasKey && hasCertificate;
}

/**
 * Whether a name is one of those that a pattern means.
 *
 * @param pattern `*` stands for any characters, also none; everything else for itself.
 */
export function matchesName(pattern: string, name: string): boolean {
  const [start, ...rest] = pattern.split("*");
  const end = rest.pop();
  if (end === undefined) return name === pattern;
  if (name.length < start.length + end.length || !name.startsWith(start) || !name.endsWith(end)) return false;
  let at = start.length;
  for (const part of rest) {
    const found = name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return at <= name.length - end.length;
}
