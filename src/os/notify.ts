/**
 * Tells systemd how the program fares: datagrams to the socket that it names in the environment.
 *
 * @see sd_notify(3)
 */

import { lastError, libc } from "./libc.ts";
import { monotonicNs } from "./monotonic.ts";

const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
const MSG_NOSIGNAL = 0x4000;

/** Where systemd listens, and how often it wants to hear from us. */
export interface NotifySettings {
  /** The path of its socket, or `@` and an abstract name. */
  readonly socket: string;
  /** Without a {@linkcode Notifier.alive} for this long, systemd takes the program for dead. `null`: it does not watch. */
  readonly watchdogMs: number | null;
}

/**
 * Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
 *
 * @param env Looks a variable up.
 * @param pid Ours; a watchdog may be meant for another process.
 * @returns `null` when nobody listens, or on a kind of socket that we do not know.
 */
export function notifySettings(
  env: (name: string) => string | undefined,
  pid: number,
): NotifySettings | null {
  const socket = env("NOTIFY_SOCKET") ?? "";
  if (!/^[/@]./.test(socket)) return null;
  const watchdogUs = Number(env("WATCHDOG_USEC"));
  const watchdogPid = env("WATCHDOG_PID");
  const watched = Number.isSafeInteger(watchdogUs) && watchdogUs > 0 &&
    (watchdogPid === undefined || Number(watchdogPid) === pid);
  return { socket, watchdogMs: watched ? watchdogUs / 1000 : null };
}

/** Speaks to systemd; where `settings` is `null`, to nobody. */
export class Notifier {
  readonly #settings: NotifySettings | null;

  constructor(settings: NotifySettings | null) {
    this.#settings = settings;
  }

  /** How often to call {@linkcode alive}, in milliseconds; `null` when nobody watches. Half the limit, as advised. */
  get aliveEveryMs(): number | null {
    const limit = this.#settings?.watchdogMs ?? null;
    return limit === null ? null : limit / 2;
  }

  /** The program serves. @param status One line for `systemctl status`. */
  ready(status?: string): void {
    this.#send(["READY=1", ...statusLine(status)]);
  }

  /** The configuration is being read again; {@linkcode ready} ends it. */
  reloading(): void {
    const now = monotonicNs();
    if (now !== null) this.#send(["RELOADING=1", `MONOTONIC_USEC=${now / 1000n}`]);
  }

  /** The program is about to end. */
  stopping(status?: string): void {
    this.#send(["STOPPING=1", ...statusLine(status)]);
  }

  alive(): void {
    this.#send(["WATCHDOG=1"]);
  }

  status(status: string): void {
    this.#send(statusLine(status));
  }

  #send(lines: readonly string[]): void {
    if (this.#settings !== null) sendDatagram(this.#settings.socket, lines.join("\n"));
  }
}

function statusLine(status: string | undefined): string[] {
  return status === undefined ? [] : [`STATUS=${status.replaceAll("\n", " ")}`];
}

/**
 * Sends one datagram to a Unix socket.
 *
 * @param socket A path, or `@` and an abstract name.
 * @throws {OsError} If nobody listens there, or the name is too long.
 * @throws {TypeError} Where libc cannot be had.
 */
export function sendDatagram(socket: string, text: string): void {
  const lib = libc();
  if (lib === null) throw new TypeError(`cannot send to ${socket}: this system has no libc that we know`);
  const encoder = new TextEncoder();
  const name = encoder.encode(socket.startsWith("@") ? `\0${socket.slice(1)}` : socket);
  // An address that is cut short would name another socket: the call refuses one that is too long.
  const address = new Uint8Array(2 + name.length);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(name, 2);
  const fd = lib.socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0);
  if (fd < 0) throw lastError(lib, "socket");
  try {
    const bytes = encoder.encode(text);
    const sent = lib.sendto(fd, bytes, bytes.length, MSG_NOSIGNAL, address, address.length);
    if (sent < 0) throw lastError(lib, "sendto", socket);
  } finally {
    lib.close(fd);
  }
}
