/** What a control client may ask for. */
import { LOG_LEVELS } from "../base/line_log.ts";
import { printable } from "../base/printable.ts";
import type { AdjustableLog, LogLevel } from "../base/log.ts";
import { DISK_THREADS_MAX, diskThreads } from "../device/disk_threads.ts";
import type { ControlAnswer } from "../wire/control/message.ts";
import { formatStatusLine, type ProcessStatus } from "./status.ts";

/**
 * Does what one command asks for.
 *
 * @param args The argument lines.
 * @throws What cannot be done; the message goes back under code 1.
 */
export type ControlHandler = (args: readonly string[]) => FollowedAnswer | Promise<FollowedAnswer>;

/** An answer, behind which lines of JSON may follow for as long as the client stays. */
export interface FollowedAnswer extends ControlAnswer {
  /** Only for clients that speak JSON. The signal is given when the client has left. */
  readonly follow?: (signal: AbortSignal) => AsyncIterable<unknown>;
}

/** What can be looked at for as long as one likes. */
export interface Followable {
  follow(signal: AbortSignal): AsyncIterable<unknown>;
}

/** Commands by name. Whoever has more to offer, such as migration, adds to it. */
export type ControlHandlers = Map<string, ControlHandler>;

/** The server as the control socket sees it. */
export interface ControlledServer {
  status(): ProcessStatus;
  /**
   * Puts another access list in force, for those who are connected too.
   *
   * @throws {SyntaxError} If one of the entries is none; the old list stays.
   */
  replaceAccessList(entries: readonly string[]): void;
  /**
   * Ends the reservation of an export, and cuts off who has it.
   *
   * @param exportName "" is the default export.
   * @returns For whom it was, or `null` if there was none.
   * @throws {Error} If there is no such export, or it cannot be made durable.
   */
  unreserve?(exportName: string): Promise<string | null>;
  /**
   * Reads the configuration again.
   *
   * @param force Clients may be cut off.
   * @returns What has changed.
   * @throws {Error} If something in it cannot be used; that stays as it was.
   */
  reload(force: boolean): Promise<string>;
}

/**
 * The commands that every server has: `status`, `changes`, `trace`, `acl`, `unreserve`, `reload`, `log_level`,
 * `disk_threads`.
 */
export function serverHandlers(
  server: ControlledServer,
  { watch, trace }: { readonly watch: Followable; readonly trace: Followable },
  log: AdjustableLog,
): ControlHandlers {
  return new Map<string, ControlHandler>([
    ["status", () => {
      const status = server.status();
      return { code: 0, text: formatStatusLine(status), result: status };
    }],
    [
      "changes",
      () => ({ code: 0, text: "changes of state follow", follow: (signal) => watch.follow(signal) }),
    ],
    ["trace", () => ({ code: 0, text: "the trace follows", follow: (signal) => trace.follow(signal) })],
    ["acl", (entries) => {
      server.replaceAccessList(entries);
      log.info(
        `access list replaced: ${entries.length === 0 ? "empty" : printable(entries.join(" "), 1000)}`,
      );
      return { code: 0, text: "updated" };
    }],
    ["unreserve", async ([name = "", ...rest]) => {
      if (rest.length > 0) return { code: 1, text: "unreserve takes the name of one export" };
      const who = await server.unreserve?.(name) ?? null;
      if (who === null) {
        return {
          code: 1,
          text: `${name === "" ? "the default export" : `export "${printable(name)}"`} is not reserved`,
        };
      }
      log.warn(`the reservation of "${printable(name)}" for ${who} was broken`);
      return { code: 0, text: `was reserved for ${who}` };
    }],
    ["reload", async (args) => {
      if (args.some((each) => each !== "force")) return { code: 1, text: "reload takes nothing, or force" };
      const text = await server.reload(args.length > 0);
      log.info(`reload: ${text}`);
      return { code: 0, text };
    }],
    ["log_level", ([level, ...rest]) => {
      if (rest.length > 0 || !(LOG_LEVELS as readonly string[]).includes(level)) {
        return { code: 1, text: `log_level takes one of ${LOG_LEVELS.join(" ")}` };
      }
      log.level = level as LogLevel;
      return { code: 0, text: "updated" };
    }],
    ["disk_threads", ([text, ...rest]) => {
      const count = /^\d{1,3}$/.test(text) ? Number(text) : NaN;
      if (rest.length > 0 || !(count >= 1 && count <= DISK_THREADS_MAX)) {
        return { code: 1, text: `disk_threads takes a whole number from 1 to ${DISK_THREADS_MAX}` };
      }
      log.info(`disk threads: ${count} rather than ${diskThreads.count}`);
      diskThreads.count = count;
      return { code: 0, text: "updated" };
    }],
  ]);
}
