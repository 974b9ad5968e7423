/** Who may come in, by the key of the channel. Who is not in the list is refused. */
import type { Decision, Rights } from "./acl.ts";

/** What a key gives. */
export interface KeyEntry {
  /** In Base64. */
  readonly key: string;
  readonly rights: Rights;
  /** For people. */
  readonly comment: string;
}

export class KeyList {
  #entries: ReadonlyMap<string, KeyEntry> = new Map();

  constructor(entries: readonly KeyEntry[]) {
    this.replace(entries);
  }

  /** Puts another list in the place of this one. */
  replace(entries: readonly KeyEntry[]): void {
    this.#entries = new Map(entries.map((entry) => [entry.key, entry]));
  }

  /** @param key A proven key, in Base64. */
  rightsFor(key: string): Decision {
    const entry = this.#entries.get(key);
    if (entry === undefined) {
      return { rights: "none", reason: `key ${key} is not among the authorised peers` };
    }
    const name = entry.comment === "" ? "" : ` (${entry.comment})`;
    return { rights: entry.rights, reason: `key ${key}${name} is authorised for ${entry.rights}` };
  }
}

/** The narrower of two decisions: who is known by address and by key needs the permission of both. */
export function narrower(one: Decision, other: Decision): Decision {
  const order: readonly Rights[] = ["none", "read", "write"];
  return order.indexOf(other.rights) < order.indexOf(one.rights) ? other : one;
}
