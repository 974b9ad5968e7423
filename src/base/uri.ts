/**
 * Names of disks as users write them: a path, or a URI.
 *
 * A URI is what starts with a scheme and `://` (or `file:/`); everything else is a path, so no file name needs
 * quoting except one that looks like a URI, which `./` in front of it tells apart. Percent-encoding holds in
 * host, path and parameters; `+` is a plus. A parameter that a scheme does not have is refused rather than
 * ignored: most likely it is a typing error in something that was meant to protect.
 *
 * @see NBD uri.md
 */
import { decodeKey } from "./channel_key.ts";
import { quote } from "./printable.ts";
import { bracketed, type Endpoint, type TcpEndpoint } from "./endpoint.ts";

/** Which disk is meant. */
export type DiskLocator = FileLocator | NbdLocator | ImageLocator;

/** A local file or block device. */
export interface FileLocator {
  readonly kind: "file";
  readonly path: string;
}

/** An export of an NBD server. */
export interface NbdLocator {
  readonly kind: "nbd";
  readonly server: Endpoint;
  /** Where else the same disk is served; absent for nowhere. */
  readonly others?: readonly TcpEndpoint[];
  /** Empty: the server's default export. */
  readonly exportName: string;
  /** Inside a channel; absent where it is plain. */
  readonly channel?: ChannelLocator;
  /** Inside TLS; absent where it is plain. */
  readonly tls?: TlsLocator;
}

/** How TLS to a server is to be. */
export interface TlsLocator {
  /** The directory of `ca-cert.pem`, and perhaps `client-cert.pem` and `client-key.pem`. */
  readonly certificatesPath?: string;
  /** Whom the server's certificate must be for. Absent: the host, or `localhost` on a Unix socket. */
  readonly hostname?: string;
  /** Take any certificate. Absent: no. */
  readonly trustAnybody?: true;
}

/** An image of dnbd3. */
export interface ImageLocator {
  readonly kind: "image";
  /** Servers that have it; at least one. */
  readonly servers: readonly TcpEndpoint[];
  readonly name: string;
  /** 0: the newest. */
  readonly revision: number;
  /** Whether blocks wait for their checksum. Absent: as suits who reads. */
  readonly verify?: "always" | "complete";
}

/** How the channel to a server is to be. */
export type ChannelLocator =
  | {
    readonly protection: "noise";
    /** The server's public key, in Base64. Absent: the one that is remembered. */
    readonly serverKey?: string;
    /** The file of our private key. Absent: the user's. */
    readonly identityPath?: string;
    /** The file of a pre-shared key. */
    readonly presharedKeyPath?: string;
  }
  | { readonly protection: "checksum" };

/** The port of NBD where none is given. */
export const NBD_PORT = 10809;
/** The port of channels where none is given. */
export const CHANNEL_PORT = 10811;
/** The port of dnbd3 where none is given. */
export const IMAGE_PORT = 5003;
const EXPORT_NAME_BYTES_MAX = 4096;
const IMAGE_NAME_BYTES_MAX = 987;
const SERVERS_MAX = 16;

/** A URI cut at its punctuation; nothing is decoded yet but the parameters. */
interface UriParts {
  readonly authority: string;
  readonly path: string;
  readonly parameters: ReadonlyMap<string, string>;
}

/** The schemes there are. A new kind of disk adds a row. */
const schemes: ReadonlyMap<string, (parts: UriParts) => DiskLocator> = new Map<
  string,
  (parts: UriParts) => DiskLocator
>([
  ["file", fileLocator],
  ["nbd", nbdLocator],
  ["nbds", nbdsLocator],
  ["nbd+unix", nbdUnixLocator],
  ["nbds+unix", nbdsUnixLocator],
  ["nbd+noise", nbdNoiseLocator],
  ["nbd+crc", nbdCrcLocator],
  ["dnbd3", imageLocator],
]);

/**
 * Parses the name of a disk.
 *
 * @param text A path, `file:///path`, `nbd://host[:port][,host[:port]…][/export]`,
 *   `nbd+unix:///[export]?socket=path`, `nbds://…` and `nbds+unix://…` likewise with
 *   `[?tls-certificates=directory&tls-hostname=name&tls-verify-peer=0|1]`, `nbd+noise://host[:port][/export][?key=…&identity=path&psk=path]`,
 *   `nbd+crc://host[:port][/export]` or
 *   `dnbd3://host[:port][,host[:port]…]/image[?rid=revision&verify=always|complete]`.
 * @throws {SyntaxError} If it is a URI with an unknown scheme, a malformed part or an unknown parameter, or if
 *   it is empty. The message quotes the text and says what is wrong with it.
 */
export function parseDiskLocator(text: string): DiskLocator {
  const match = /^([a-z][a-z0-9+.-]*):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(#.*)?$/is.exec(text);
  if (match === null || !looksLikeUri(text)) return { kind: "file", path: checkedPath(text) };
  try {
    const [, scheme, authority, path, query, fragment] = match;
    const parse = schemes.get(scheme.toLowerCase());
    if (parse === undefined) {
      throw new SyntaxError(`the scheme is none of ${[...schemes.keys()].join(", ")}`);
    }
    if (authority === undefined && !(scheme.toLowerCase() === "file" && path.startsWith("/"))) {
      throw new SyntaxError(`two slashes are missing behind "${scheme}:"`);
    }
    if (fragment !== undefined) throw new SyntaxError(`a "#" is written %23`);
    return parse({ authority: authority ?? "", path, parameters: parseParameters(query) });
  } catch (error) {
    throw new SyntaxError(`cannot use ${quote(text, 256)}: ${(error as Error).message}`);
  }
}

/** The shortest text that {@linkcode parseDiskLocator} turns into the same locator. */
export function formatDiskLocator(locator: DiskLocator): string {
  if (locator.kind === "file") return looksLikeUri(locator.path) ? `./${locator.path}` : locator.path;
  if (locator.kind === "image") {
    const { servers, revision, verify } = locator;
    const parameters = { rid: revision === 0 ? undefined : String(revision), verify };
    return `dnbd3://${formatAuthorities(servers, IMAGE_PORT)}/${encodeName(locator.name)}${
      formatParameters(parameters)
    }`;
  }
  const name = encodeName(locator.exportName);
  const { server } = locator;
  const tls = locator.tls === undefined ? {} : describeTls(locator.tls);
  const plainScheme = locator.tls === undefined ? "nbd" : "nbds";
  if (server.transport === "unix") {
    return `${plainScheme}+unix:///${name}${formatParameters({ socket: server.path, ...tls })}`;
  }
  if (locator.channel === undefined) {
    const hosts = formatAuthorities([server, ...locator.others ?? []], NBD_PORT);
    return `${plainScheme}://${hosts}/${name}${formatParameters(tls)}`;
  }
  const { scheme, parameters } = describeChannel(locator.channel);
  return `${scheme}://${formatAuthority(server, CHANNEL_PORT)}/${name}${formatParameters(parameters)}`;
}

/** The slashes of a name stay readable: only what has a meaning in a URI is encoded. */
function encodeName(name: string): string {
  return encodeURIComponent(name).replaceAll("%2F", "/");
}

function formatAuthorities(servers: readonly TcpEndpoint[], defaultPort: number): string {
  return servers.map((server) => formatAuthority(server, defaultPort)).join(",");
}

function formatAuthority({ host, port }: TcpEndpoint, defaultPort: number): string {
  const text = host.includes(":") ? bracketed(host.replace("%", "%25")) : encodeURIComponent(host);
  return port === defaultPort ? text : `${text}:${port}`;
}

/** Parameters of a URI by their names; those that are undefined are left out. */
type Parameters = Readonly<Record<string, string | undefined>>;

function describeChannel(channel: ChannelLocator): { scheme: string; parameters: Parameters } {
  if (channel.protection === "checksum") return { scheme: "nbd+crc", parameters: {} };
  const { serverKey, identityPath, presharedKeyPath } = channel;
  return {
    scheme: "nbd+noise",
    parameters: { key: serverKey, identity: identityPath, psk: presharedKeyPath },
  };
}

function describeTls({ certificatesPath, hostname, trustAnybody }: TlsLocator): Parameters {
  return {
    "tls-certificates": certificatesPath,
    "tls-hostname": hostname,
    "tls-verify-peer": trustAnybody ? "0" : undefined,
  };
}

function formatParameters(parameters: Parameters): string {
  const texts = Object.entries(parameters).filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${encodeURIComponent(value!).replaceAll("%2F", "/")}`);
  return texts.length === 0 ? "" : `?${texts.join("&")}`;
}

/** A scheme with two slashes, or a known scheme without them, which most likely is a mistake. */
function looksLikeUri(text: string): boolean {
  const match = /^([a-z][a-z0-9+.-]*):(\/\/)?/i.exec(text);
  return match !== null && (match[2] !== undefined || schemes.has(match[1].toLowerCase()));
}

function fileLocator({ authority, path, parameters }: UriParts): FileLocator {
  if (authority !== "" && authority.toLowerCase() !== "localhost") {
    throw new SyntaxError(`a file is on this host; for a path, write three slashes`);
  }
  expectParameters(parameters, []);
  return { kind: "file", path: checkedPath(decoded(path)) };
}

function nbdLocator({ authority, path, parameters }: UriParts): NbdLocator {
  expectParameters(parameters, []);
  const [server, ...others] = endpoints(authority, NBD_PORT);
  const locator = { kind: "nbd", server, exportName: exportName(path) } as const;
  return others.length === 0 ? locator : { ...locator, others };
}

/** One or several, with commas between them. */
function endpoints(authority: string, defaultPort: number): TcpEndpoint[] {
  const servers = authority.split(",").map((each) => tcpEndpoint(each, defaultPort));
  if (servers.length > SERVERS_MAX) {
    throw new SyntaxError(`it names ${servers.length} servers, more than ${SERVERS_MAX}`);
  }
  return servers;
}

function nbdUnixLocator(parts: UriParts): NbdLocator {
  expectParameters(parts.parameters, ["socket"]);
  return unixLocator(parts);
}

function unixLocator({ authority, path, parameters }: UriParts): NbdLocator {
  if (authority !== "") throw new SyntaxError("a host has no place in it: write three slashes");
  const socket = parameters.get("socket");
  if (socket === undefined || socket === "") throw new SyntaxError(`the parameter "socket" is missing`);
  return {
    kind: "nbd",
    server: { transport: "unix", path: checkedPath(socket) },
    exportName: exportName(path),
  };
}

function nbdsLocator({ authority, path, parameters }: UriParts): NbdLocator {
  expectParameters(parameters, TLS_PARAMETERS);
  const server = tcpEndpoint(authority);
  return { kind: "nbd", server, exportName: exportName(path), tls: tlsLocator(parameters) };
}

function nbdsUnixLocator(parts: UriParts): NbdLocator {
  expectParameters(parts.parameters, ["socket", ...TLS_PARAMETERS]);
  return { ...unixLocator(parts), tls: tlsLocator(parts.parameters) };
}

const TLS_PARAMETERS = ["tls-type", "tls-certificates", "tls-hostname", "tls-verify-peer"];

function tlsLocator(parameters: ReadonlyMap<string, string>): TlsLocator {
  const type = parameters.get("tls-type") ?? "x509";
  if (type !== "x509") throw new SyntaxError(`tls-type "${type}" is not x509, the only one there is`);
  const verify = parameters.get("tls-verify-peer") ?? "1";
  if (verify !== "0" && verify !== "1") throw new SyntaxError(`tls-verify-peer "${verify}" is not 0 or 1`);
  const certificatesPath = parameters.get("tls-certificates");
  const hostname = parameters.get("tls-hostname");
  if (certificatesPath === "") throw new SyntaxError(`the parameter "tls-certificates" is empty`);
  if (certificatesPath !== undefined) checkedPath(certificatesPath);
  if (hostname !== undefined && !/^[^\s/\0]+$/.test(hostname)) {
    throw new SyntaxError(`${JSON.stringify(hostname)} is not a host name`);
  }
  return {
    ...(certificatesPath === undefined ? {} : { certificatesPath }),
    ...(hostname === undefined ? {} : { hostname }),
    ...(verify === "0" ? { trustAnybody: true as const } : {}),
  };
}

function nbdNoiseLocator({ authority, path, parameters }: UriParts): NbdLocator {
  expectParameters(parameters, ["key", "identity", "psk"]);
  for (const [name, value] of parameters) {
    if (value === "") throw new SyntaxError(`the parameter "${name}" is empty`);
  }
  const key = parameters.get("key");
  return {
    kind: "nbd",
    server: tcpEndpoint(authority, CHANNEL_PORT),
    exportName: exportName(path),
    channel: {
      protection: "noise",
      serverKey: key === undefined ? undefined : decodeKey(key).toBase64(),
      identityPath: parameters.get("identity"),
      presharedKeyPath: parameters.get("psk"),
    },
  };
}

function nbdCrcLocator({ authority, path, parameters }: UriParts): NbdLocator {
  expectParameters(parameters, []);
  return {
    kind: "nbd",
    server: tcpEndpoint(authority, CHANNEL_PORT),
    exportName: exportName(path),
    channel: { protection: "checksum" },
  };
}

function imageLocator({ authority, path, parameters }: UriParts): ImageLocator {
  expectParameters(parameters, ["rid", "verify"]);
  const servers = endpoints(authority, IMAGE_PORT);
  const name = decoded(path.replace(/^\//, ""));
  if (name === "" || name.includes("\0")) throw new SyntaxError("it names no image");
  if (new TextEncoder().encode(name).length > IMAGE_NAME_BYTES_MAX) {
    throw new SyntaxError(`the image name has more than ${IMAGE_NAME_BYTES_MAX} bytes`);
  }
  const rid = parameters.get("rid") ?? "0";
  if (!/^\d{1,5}$/.test(rid) || Number(rid) > 65535) {
    throw new SyntaxError(`the revision "${rid}" is not from 0 to 65535`);
  }
  const verify = parameters.get("verify");
  if (verify !== undefined && verify !== "always" && verify !== "complete") {
    throw new SyntaxError(`verify "${verify}" is neither always nor complete`);
  }
  const locator = { kind: "image", servers, name, revision: Number(rid) } as const;
  return verify === undefined ? locator : { ...locator, verify };
}

/** `host`, `host:port`, `[v6]`, `[v6]:port`; no host is this one. */
function tcpEndpoint(authority: string, defaultPort = NBD_PORT): TcpEndpoint {
  const match = /^(?:\[([0-9a-f:.]+(?:%25[^\]]+)?)\]|([^:@[\]]*))(?::(\d*))?$/i.exec(authority);
  if (match === null) {
    if (authority.includes("@")) throw new SyntaxError("a user name has no place in it");
    throw new SyntaxError(`"${authority}" is not HOST, HOST:PORT or [IPv6]:PORT`);
  }
  const host = decoded(match[1] ?? match[2]);
  if (/[\s/\0]/.test(host)) throw new SyntaxError(`${JSON.stringify(host)} is not a host name`);
  const port = match[3] === undefined || match[3] === "" ? defaultPort : Number(match[3]);
  if (port < 1 || port > 65535) throw new SyntaxError(`port ${match[3]} is not from 1 to 65535`);
  return { transport: "tcp", host: host === "" ? "localhost" : host, port };
}

/** The path without its first slash. */
function exportName(path: string): string {
  const name = decoded(path.replace(/^\//, ""));
  if (name.includes("\0")) throw new SyntaxError("an export name has no NUL");
  const byteCount = new TextEncoder().encode(name).length;
  if (byteCount > EXPORT_NAME_BYTES_MAX) {
    throw new SyntaxError(`the export name has ${byteCount} bytes, more than ${EXPORT_NAME_BYTES_MAX}`);
  }
  return name;
}

function parseParameters(query: string | undefined): Map<string, string> {
  const parameters = new Map<string, string>();
  for (const pair of (query ?? "").split("&")) {
    if (pair === "") continue;
    const equals = pair.indexOf("=");
    const name = decoded(equals < 0 ? pair : pair.slice(0, equals));
    if (parameters.has(name)) throw new SyntaxError(`the parameter "${name}" stands in it twice`);
    parameters.set(name, equals < 0 ? "" : decoded(pair.slice(equals + 1)));
  }
  return parameters;
}

function expectParameters(parameters: ReadonlyMap<string, string>, known: readonly string[]): void {
  for (const name of parameters.keys()) {
    if (!known.includes(name)) throw new SyntaxError(`there is no parameter ${JSON.stringify(name)} in it`);
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new SyntaxError(`${JSON.stringify(text)} is not percent-encoded UTF-8`);
  }
}

function checkedPath(path: string): string {
  if (path === "") throw new SyntaxError("the name of a disk is empty");
  if (path.includes("\0")) throw new SyntaxError("a path has no NUL");
  return path;
}
