/**
 * `alt-servers` of dnbd3: other servers that have the same images, for clients to be told of and for proxies to
 * copy from.
 */
import { formatIpEndpoint, type IpEndpoint, parseIpEndpoint, sameIpEndpoint } from "../base/ip_endpoint.ts";
import { ConfigError } from "./config_error.ts";
import { parse } from "./ini.ts";

export interface AltServer extends IpEndpoint {
  /** Copied from, but never told to clients (`for=replication`). */
  readonly isPrivate: boolean;
  /** Told to clients, but never copied from (`for=client`). */
  readonly isClientOnly: boolean;
  readonly comment: string;
  /** Beginnings of the names of the images it has; none: it has all. */
  readonly namespaces: readonly string[];
}

export interface ReadOptions {
  file: string;
  /** Told of everything that is skipped. */
  warn: (problem: ConfigError) => void;
}

const ALT_SERVERS_MAX = 50;
const COMMENT_BYTES_MAX = 119;

/**
 * Reads an `alt-servers` file: a section `[address]` or `[address:port]` for each server, all keys optional; or
 * the older form, a line `[+-]address[:port] [comment]` for each, `+` for clients only and `-` for copying only.
 * It is the older form if no section names a server.
 */
export function readAltServers(text: string, defaultPort: number, options: ReadOptions): AltServer[] {
  const problems: ConfigError[] = [];
  const servers = new ServerList(options.file, (problem) => problems.push(problem));
  for (const section of parse(text, { file: options.file, onMalformed: (error) => problems.push(error) })) {
    const endpoint = parseIpEndpoint(section.name, defaultPort);
    if (endpoint === null) {
      if (section.name !== "" || section.entries.length > 0) {
        servers.skip(section.line, `${section.name || "the part before the first section"} names no server`);
      }
      continue;
    }
    servers.add(section.line, endpoint, (server) => {
      for (const { key, value, prose, line } of section.entries) {
        if (key === "for" && value.startsWith("client")) {
          Object.assign(server, { isClientOnly: true, isPrivate: false });
        } else if (key === "for" && value === "replication") {
          Object.assign(server, { isClientOnly: false, isPrivate: true });
        } else if (key === "comment") server.comment = cut(prose);
        else if (key === "namespace") server.namespaces.push(value);
        else if (key === "for") servers.skip(line, `for=${value} is neither client nor replication`);
        else servers.skip(line, `unknown key ${key}`);
      }
    });
  }
  if (servers.all.length === 0) {
    const legacy = readLines(text, defaultPort, options.file);
    if (legacy.all.length > 0) {
      legacy.problems.forEach(options.warn);
      return legacy.all;
    }
  }
  problems.forEach(options.warn);
  return servers.all;
}

function readLines(text: string, defaultPort: number, file: string) {
  const problems: ConfigError[] = [];
  const servers = new ServerList(file, (problem) => problems.push(problem));
  text.replace(/^\uFEFF/, "").split("\n").forEach((line, index) => {
    const content = line.trim();
    if (content === "" || content.startsWith("#")) return;
    const [, marks, address, comment] = /^([-+\s]*)(\S*)\s*(.*)$/s.exec(content)!;
    const endpoint = parseIpEndpoint(address, defaultPort);
    if (endpoint === null) return servers.skip(index + 1, `${address} is no address`);
    servers.add(index + 1, endpoint, (server) => {
      server.isPrivate = marks.includes("-");
      server.isClientOnly = !server.isPrivate && marks.includes("+");
      server.comment = cut(comment);
    });
  });
  return { all: servers.all, problems };
}

type Draft = { -readonly [key in keyof AltServer]: AltServer[key] } & { namespaces: string[] };

class ServerList {
  readonly all: Draft[] = [];
  readonly #file: string;
  readonly #warn: (problem: ConfigError) => void;

  constructor(file: string, warn: (problem: ConfigError) => void) {
    this.#file = file;
    this.#warn = warn;
  }

  skip(line: number, reason: string): void {
    this.#warn(new ConfigError(this.#file, line, `${reason}; skipped`));
  }

  /** Adds a server, or finds it where it was named before, and fills it in. */
  add(line: number, endpoint: IpEndpoint, fill: (server: Draft) => void): void {
    let server = this.all.find((known) => sameIpEndpoint(known, endpoint));
    if (server === undefined) {
      if (this.all.length === ALT_SERVERS_MAX) {
        return this.skip(line, `${formatIpEndpoint(endpoint)} is one more than ${ALT_SERVERS_MAX} servers`);
      }
      server = { ...endpoint, isPrivate: false, isClientOnly: false, comment: "", namespaces: [] };
      this.all.push(server);
    }
    fill(server);
  }
}

function cut(comment: string): string {
  const bytes = new TextEncoder().encode(comment);
  if (bytes.length <= COMMENT_BYTES_MAX) return comment;
  return new TextDecoder().decode(bytes.subarray(0, COMMENT_BYTES_MAX)).replace(/\uFFFD+$/, "");
}
