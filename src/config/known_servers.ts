/**
 * The file of known servers: which key each had when it was first met.
 *
 * A line for each: `HOST:PORT`, as the client wrote it, and the server's public key. Empty lines and lines that
 * begin with `#` do not count. The client appends to it; people remove from it.
 */
import { parsePublicKey } from "../base/channel_key.ts";
import { ConfigError } from "./config_error.ts";

export interface KnownServer {
  readonly server: string;
  /** In Base64. */
  readonly key: string;
  /** Counted from 1. */
  readonly line: number;
}

/**
 * Parses the file.
 *
 * @param file Its name, for errors.
 * @throws {ConfigError} At the first line that is none.
 */
export function parseKnownServers(text: string, file: string): KnownServer[] {
  const servers: KnownServer[] = [];
  text.split("\n").forEach((raw, index) => {
    const content = raw.trim();
    if (content === "" || content.startsWith("#")) return;
    const match = /^(\S+)\s+(.*)$/.exec(content);
    if (match === null) throw new ConfigError(file, index + 1, "a line is HOST:PORT and a public key");
    try {
      servers.push({ server: match[1], key: parsePublicKey(match[2]).key, line: index + 1 });
    } catch (error) {
      throw new ConfigError(file, index + 1, (error as Error).message);
    }
  });
  return servers;
}

/** What the file says about a key that a server has just proven. */
export type Acquaintance =
  /** This is the key that it had before. */
  | { readonly kind: "known" }
  /** It was never met. */
  | { readonly kind: "new" }
  /** It had another key, which stands in this line. */
  | { readonly kind: "changed"; readonly line: number };

/** Looks a server up. One with several lines may have any of their keys: that is how a key is changed. */
export function acquaintance(servers: readonly KnownServer[], server: string, key: string): Acquaintance {
  const met = servers.filter((each) => each.server === server);
  if (met.length === 0) return { kind: "new" };
  if (met.some((each) => each.key === key)) return { kind: "known" };
  return { kind: "changed", line: met[0].line };
}
