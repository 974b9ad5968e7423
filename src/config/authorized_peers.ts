/**
 * The file of authorised peers: whose keys open the channel, and for what.
 *
 * A line for each, with what it gives in front; `write` where nothing is said. Empty lines and lines that begin
 * with `#` do not count.
 *
 * ```
 * denbd-x25519 0sWsERlgJ9ZFzeFBf8Wk0E31zfCfCJM93JmJ4yDfcwg= alice@desk
 * read denbd-x25519 VgX9o4cSmoNcjbR+fHGvVYeJEcDBNGRu3J1BTk+JgVw= backup
 * none denbd-x25519 jZ1rU0a6p9p2m3bS0cJ1kq7Wj1a8m1dUe3tHkZVfm3o= a lost laptop
 * ```
 */
import { parsePublicKey, type PublicKey } from "../base/channel_key.ts";
import { ConfigError } from "./config_error.ts";

export interface AuthorizedPeer extends PublicKey {
  readonly rights: "none" | "read" | "write";
}

/**
 * Parses the file.
 *
 * @param file Its name, for errors.
 * @throws {ConfigError} At the first line that is none, or that names a key a second time: somebody meant to
 *   change what the key may do, and did not.
 */
export function parseAuthorizedPeers(text: string, file: string): AuthorizedPeer[] {
  const peers: AuthorizedPeer[] = [];
  const lines = new Map<string, number>();
  text.replace(/^\uFEFF/, "").split("\n").forEach((raw, index) => {
    const content = raw.trim();
    if (content === "" || content.startsWith("#")) return;
    const line = index + 1;
    const match = /^(none|read|write)\s+(.*)$/.exec(content);
    let key: PublicKey;
    try {
      key = parsePublicKey(match?.[2] ?? content);
    } catch (error) {
      throw new ConfigError(file, line, (error as Error).message);
    }
    const before = lines.get(key.key);
    if (before !== undefined) throw new ConfigError(file, line, `the key of line ${before} once more`);
    lines.set(key.key, line);
    peers.push({ ...key, rights: (match?.[1] ?? "write") as AuthorizedPeer["rights"] });
  });
  return peers;
}
