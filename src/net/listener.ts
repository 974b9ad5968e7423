/** Where connections come from. */
import { bracketed } from "../base/endpoint.ts";
import { reasonOf } from "../os/reason.ts";
import { isReadable } from "../os/socket_calls.ts";
import { type Connection } from "./connection.ts";
import { listenerDescriptor } from "./connection_descriptor.ts";
import { type Inherited, NativeConnection, prepareListener } from "./native_connection.ts";

/** What the address of a Unix socket has room for. */
const SOCKET_PATH_BYTES_MAX = 107;

/** Who has the directory of a socket locked is about to have its own there, in milliseconds. */
const LOCK_TRIES = 500;
const LOCK_AGAIN_MS = 10;

/** How long what keeps connections from being accepted has to pass, in milliseconds. */
const ACCEPT_AGAIN_MS = 10;
/** Of those who are gone before they are accepted so many are passed over at once; then who is served has its turn. */
const GONE_AT_ONCE = 40;

/** Hands over connections, one by one. */
export interface Listener {
  /** For log lines: `127.0.0.1:10809`, `[::1]:10809`, `unix:/run/disk.sock`. */
  readonly text: string;
  /** The port given by the kernel where 0 was asked for; `null` for a Unix socket. */
  readonly port: number | null;
  /** The next connection, or `null` when the listener has been closed. */
  accept(): Promise<Connection | null>;
  /** Whether somebody waits to be accepted. Absent where it cannot be told. */
  readonly hasCaller?: () => boolean;
  /** Takes no more connections; a Unix socket's path is removed. Idempotent. */
  close(): void;
}

/**
 * Listens on TCP. `hostname` is an IPv4 or IPv6 address; `::` takes IPv4 as well.
 *
 * @throws If the port is taken or the address is none of this machine's; the message names both.
 */
export function listenTcp(hostname: string, port: number): Listener {
  let listener: Deno.TcpListener;
  try {
    listener = Deno.listen({ transport: "tcp", hostname, port });
  } catch (error) {
    const place = bracketed(hostname);
    throw new Error(`cannot listen on ${place}:${port}: ${reasonOf(error)}`, { cause: error });
  }
  const address = listener.addr as Deno.NetAddr;
  const text = `${bracketed(hostname)}:${address.port}`;
  const fd = listenerDescriptor(address);
  return new NativeListener(listener, text, address.port, () => {}, prepareListener(fd, hostname), fd);
}

/**
 * Listens on a Unix socket that only this user may open.
 *
 * A socket file that nobody answers on is left over from a program that was killed, and is replaced.
 *
 * @param mode Of the socket file.
 * @throws {Deno.errors.AddrInUse} If somebody answers on it, or something else is there.
 */
export async function listenUnix(path: string, mode = 0o600): Promise<Listener> {
  // Of two that come at once one has to see what the other has done. A lock on the directory leaves nothing behind.
  using _lock = await lockDirectory(path);
  await removeStaleSocket(path);
  // The runtime removes what it has bound when the listener is closed, whoever's file that is by then. So it binds
  // a passing name, and the file appears under its own when it can be connected to.
  const passing = `${path.slice(0, path.lastIndexOf("/") + 1)}.${crypto.randomUUID().slice(0, 4)}`;
  if (Math.max(byteLength(path), byteLength(passing)) > SOCKET_PATH_BYTES_MAX) {
    throw new Error(`cannot listen on ${path}: the path is too long for a socket`);
  }
  const umask = Deno.umask(0o777 & ~mode);
  let listener: Deno.UnixListener;
  try {
    listener = Deno.listen({ transport: "unix", path: passing });
  } catch (error) {
    throw cannotListen(path, error);
  } finally {
    Deno.umask(umask);
  }
  try {
    Deno.renameSync(passing, path);
  } catch (error) {
    listener.close();
    throw cannotListen(path, error);
  }
  const { ino } = Deno.lstatSync(path);
  return new NativeListener(listener, `unix:${path}`, null, () => removeOwnSocket(path, ino));
}

/** Locks the directory that a path is in, until it is disposed of. */
async function lockDirectory(path: string): Promise<Disposable> {
  const directory = path.slice(0, path.lastIndexOf("/") + 1) || ".";
  let file: Deno.FsFile;
  try {
    file = await Deno.open(directory);
  } catch (error) {
    // Who may make files there, and not see them, does without.
    if (error instanceof Deno.errors.PermissionDenied) return { [Symbol.dispose]() {} };
    throw cannotListen(path, error);
  }
  for (let tries = 0; tries < LOCK_TRIES; tries++) {
    // Where the file system knows no locks, one does without.
    if (await file.tryLock(true).catch(() => true)) return file;
    await new Promise((resolve) => setTimeout(resolve, LOCK_AGAIN_MS));
  }
  file.close();
  throw new Deno.errors.AddrInUse(`cannot listen on ${path}: another program keeps its directory locked`);
}

function cannotListen(path: string, cause: unknown): Error {
  const reason = reasonOf(cause, { ENOENT: "there is no such directory" });
  return new Error(`cannot listen on ${path}: ${reason}`);
}

function byteLength(text: string): number {
  return new TextEncoder().encode(text).length;
}

/** Removes the socket file unless somebody has put another one in its place. */
function removeOwnSocket(path: string, inode: number | null): void {
  try {
    if (Deno.lstatSync(path).ino === inode) Deno.removeSync(path);
  } catch {
    // Gone already.
  }
}

async function removeStaleSocket(path: string): Promise<void> {
  let status: Deno.FileInfo;
  try {
    status = await Deno.lstat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw cannotListen(path, error);
  }
  if (!status.isSocket) {
    throw new Deno.errors.AddrInUse(`cannot listen on ${path}: it exists and is no socket`);
  }
  try {
    const conn = await Deno.connect({ transport: "unix", path });
    conn.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.ConnectionRefused)) throw cannotListen(path, error);
    await Deno.remove(path).catch((error) => {
      throw cannotListen(path, error);
    });
    return;
  }
  throw new Deno.errors.AddrInUse(`cannot listen on ${path}: another program does`);
}

class NativeListener implements Listener {
  readonly hasCaller?: () => boolean;
  readonly #listener: Deno.Listener;
  readonly #beforeClose: () => void;
  readonly #inherited: Inherited | undefined;
  #closed = false;
  /** How many were gone before they were accepted. */
  #gone = 0;

  constructor(
    listener: Deno.Listener,
    readonly text: string,
    readonly port: number | null,
    beforeClose: () => void,
    inherited?: Inherited,
    fd: number | null = null,
  ) {
    if (fd !== null) this.hasCaller = () => !this.#closed && isReadable(fd);
    this.#inherited = inherited;
    this.#listener = listener;
    this.#beforeClose = beforeClose;
  }

  async accept(): Promise<Connection | null> {
    while (!this.#closed) {
      try {
        return new NativeConnection(await this.#listener.accept(), undefined, this.#inherited);
      } catch (error) {
        if (this.#closed) return null;
        if (error instanceof Deno.errors.BadResource) return null;
        // Behind a client that was gone before we looked there are others; a full descriptor table passes.
        if (error instanceof Deno.errors.NotConnected && ++this.#gone % GONE_AT_ONCE !== 0) continue;
        await new Promise((resolve) => setTimeout(resolve, ACCEPT_AGAIN_MS));
      }
    }
    return null;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    // As long as somebody answers there, nobody else takes the place.
    this.#beforeClose();
    try {
      this.#listener.close();
    } catch {
      // The runtime had closed it already.
    }
  }
}
