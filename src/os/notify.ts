/**
 * Tells systemd how the program fares: datagrams to the socket that it names in the environment.
 *
 * @see sd_notify(3)
 */

import type { Log } from "../base/log.ts";
import { lastError, libc } from "./libc.ts";

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

/**
 * Speaks to systemd; where `settings` is `null`, to nobody.
 *
 * That it is not there (any more) is no reason to end what is being served: the log says so, once.
 */
export class Notifier {
  readonly #settings: NotifySettings | null;
  readonly #log: Log;
  #isHeard = true;

  constructor(settings: NotifySettings | null, log: Log) {
    this.#settings = settings;
    this.#log = log;
  }

  /** How often to call {@linkcode alive}, in milliseconds; `null` when nobody watches. Half the limit, as advised. */
  get aliveEveryMs(): number | null {
    const limit = this.#settings?.watchdogMs ?? null;
    return limit === null ? null : limit / 2;
  }

  /** The program serves. @param status One line for `systemctl status`. */
  ready(status: string): void {
    this.#send(["READY=1", `STATUS=${status.replaceAll("\n", " ")}`]);
  }

  /** The program is about to end. */
  stopping(): void {
    this.#send(["STOPPING=1"]);
  }

  alive(): void {
    this.#send(["WATCHDOG=1"]);
  }

  #send(lines: readonly string[]): void {
    if (this.#settings === null) return;
    try {
      sendDatagram(this.#settings.socket, lines.join("\n"));
      this.#isHeard = true;
    } catch (error) {
      if (this.#isHeard) {
        this.#log.warn(`the service manager does not hear of us: ${(error as Error).message}`);
      }
      this.#isHeard = false;
    }
  }
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
