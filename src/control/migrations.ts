/** The migrations of a running server: one at a time for each export. */
import type { Log } from "../base/log.ts";
import { parseAddressOption } from "../base/ip_address.ts";
import { printable } from "../base/printable.ts";
import { type DiskLocator, formatDiskLocator, type NbdLocator, parseDiskLocator } from "../base/uri.ts";
import { AttemptFailure, type AttemptFailureKind, type Destination } from "../migrate/handover.ts";
import { Migration, type MigrationProgress } from "../migrate/migration.ts";
import type { Clock } from "../os/clock.ts";
import type { Export, ExportTable } from "../server/export_table.ts";
import type { ControlAnswer } from "../wire/control/message.ts";
import type { ControlHandler, ControlHandlers } from "./handlers.ts";

/** What becomes of the disk on this side when it has moved. */
export type AfterMove = "exit" | "unlink" | "nothing";

/** What somebody asked for. */
export interface MigrationRequest {
  readonly exportName: string;
  readonly to: NbdLocator;
  readonly after: AfterMove;
  /** Local address to connect from. */
  readonly bind?: string;
  /** Bytes per second; `null` for as fast as it goes. */
  readonly speedLimit: number | null;
  readonly downtimeMs?: number;
  readonly slowWriters: boolean;
}

/** The server whose disks move. */
export interface MigratingServer {
  readonly exports: ExportTable;
  readonly clock: Clock;
  readonly log: Log;
  /** A destination has to be silent for so long to be given up; default a minute. */
  readonly silenceMsMax?: number;
  destination(request: MigrationRequest, exported: Export): Destination;
  /** Deletes the image of an export. */
  unlink(exported: Export): Promise<void>;
  /**
   * The export has moved, or nobody knows whether it has: its clients are to be cut off, and then `refuse` called.
   *
   * @param certain Whether the destination has it.
   */
  moved(exported: Export, certain: boolean, refuse: () => void): Promise<void>;
}

/** flexnbd's words. */
const FAILURES: Readonly<Record<AttemptFailureKind, string>> = {
  connect: "Mirror failed to connect",
  silent: "Remote server failed to respond",
  rejected: "Mirror was rejected",
  size: "Remote size does not match local size",
  broken: "Mirror failed",
};

export class Migrations {
  readonly #server: MigratingServer;
  readonly #running = new Map<Export, Migration>();
  #stopping = false;

  constructor(server: MigratingServer) {
    this.#server = server;
  }

  /** How far the migration of an export is; `null` if there is none. */
  progressOf(exported: Export): MigrationProgress | null {
    return this.#running.get(exported)?.progress() ?? null;
  }

  /** Breaks all off. Returns whether there were any. */
  async stop(): Promise<boolean> {
    this.#stopping = true;
    const running = [...this.#running.values()];
    await Promise.all(running.map((migration) => migration.break()));
    return running.length > 0;
  }

  /** The commands `mirror`, `migrate`, `break` and `mirror_max_bps`. */
  handlers(): ControlHandlers {
    return new Map<string, ControlHandler>([
      ["mirror", (args) => this.#start(parseMirror(args))],
      ["migrate", (args) => this.#start(parseMigrate(args))],
      ["break", (args) => this.#break(args)],
      ["mirror_max_bps", (args) => this.#limit(args)],
    ]);
  }

  async #start(request: MigrationRequest): Promise<ControlAnswer> {
    const { clock, log, silenceMsMax } = this.#server;
    if (this.#stopping) return failure("shutting down");
    const exported = this.#find(request.exportName);
    if (this.#running.has(exported)) return failure("mirror already running");
    const { after, downtimeMs, speedLimit, slowWriters } = request;
    const destination = this.#server.destination(request, exported);
    const migration = new Migration({
      place: exported,
      sizeBytes: exported.sizeBytes,
      destination,
      clock,
      log: log.child(`migration ${exported.name}`.trimEnd()),
      leave: after === "unlink" ? () => this.#server.unlink(exported) : undefined,
      handOver: after !== "nothing",
      downtimeMs,
      speedLimit,
      slowWriters,
      silenceMsMax,
    });
    this.#running.set(exported, migration);
    void migration.ended.then((phase) => this.#ended(exported, migration, phase));
    try {
      await migration.started;
    } catch (error) {
      this.#running.delete(exported);
      log.warn(`no migration to ${destination.text}: ${(error as Error).message}`);
      if (!(error instanceof AttemptFailure)) return failure("Mirroring abandoned");
      return failure(`${FAILURES[error.kind]}: ${error.message}`);
    }
    log.info(`migration of "${exported.name}" to ${destination.text} started`);
    return { code: 0, text: "Mirror started" };
  }

  async #ended(exported: Export, migration: Migration, phase: string): Promise<void> {
    const { log } = this.#server;
    const { destination } = migration.progress();
    if (phase === "moved" || phase === "in-doubt") {
      try {
        await this.#server.moved(exported, phase === "moved", () => migration.refuseClients());
      } catch (error) {
        log.error(`after the migration to ${destination}: ${(error as Error).message}`);
      }
    } else if (phase === "broken") {
      log.warn(`migration to ${destination} broken off; clients go on here`);
    }
    this.#running.delete(exported);
  }

  async #break(args: readonly string[]): Promise<ControlAnswer> {
    const migration = this.#running.get(this.#find(exportArgument(args)));
    if (migration === undefined) return failure("not mirroring");
    return await migration.break() ? { code: 0, text: "mirror stopped" } : failure("mirror completed");
  }

  #limit(args: readonly string[]): ControlAnswer {
    const [text, ...rest] = args;
    if (text === undefined) return failure("Bad format");
    const limit = parseLimit(text);
    const migration = this.#running.get(this.#find(exportArgument(rest)));
    if (migration === undefined) return failure("Not currently mirroring");
    migration.speedLimit = limit;
    return { code: 0, text: "updated" };
  }

  #find(name: string): Export {
    const { exports } = this.#server;
    const exported = exports.find(name);
    if (exported !== undefined) return exported;
    if (name !== "") throw new Error(`there is no export "${printable(name)}"`);
    const none = exports.list().length === 0;
    throw new Error(none ? "the server has no export" : "the server has several exports: name one (--name)");
  }
}

function failure(text: string): ControlAnswer {
  return { code: 1, text };
}

/** `export=NAME`, if it is there; flexnbd ignores the words. */
function exportArgument(args: readonly string[]): string {
  return args.find((word) => word.startsWith("export="))?.slice("export=".length) ?? "";
}

/**
 * flexnbd's form: address, port, then action, bind address and bytes per second.
 *
 * @throws {Error} In flexnbd's words.
 * @see spec: flexnbd section 10.4
 */
function parseMirror(args: readonly string[]): MigrationRequest {
  if (args.length < 2) throw new Error("mirror takes at least two parameters");
  const [addressText, portText, after = "exit", bindText, limitText, ...rest] = args;
  const host = parseAddressOption(addressText);
  if (host === null) throw new Error("bad IP address");
  const port = /^\d{1,5}$/.test(portText) ? Number(portText) : 0;
  if (port < 1 || port > 65535) throw new Error("bad IP port number");
  if (after !== "exit" && after !== "unlink" && after !== "nothing") {
    throw new Error("action must be 'exit' or 'nothing'");
  }
  const bind = bindText === undefined ? undefined : parseAddressOption(bindText);
  if (bind === null) throw new Error("bad bind address");
  const speedLimit = limitText === undefined ? null : parseLimit(limitText);
  if (rest.length > 0) throw new Error("unrecognised parameters to mirror");
  const to: NbdLocator = { kind: "nbd", server: { transport: "tcp", host, port }, exportName: "" };
  return { exportName: "", to, after, bind, speedLimit, slowWriters: false };
}

/** Our form: words `key=value`; `to`, a URI, must be there. @throws {Error} */
function parseMigrate(args: readonly string[]): MigrationRequest {
  const values = new Map(args.map((word) => {
    const [, key, value] = /^([a-z_]+)=(.*)$/s.exec(word) ?? [];
    if (!MIGRATE_KEYS.has(key)) throw new Error(`migrate does not know "${word}"`);
    return [key, value];
  }));
  const to: DiskLocator = parseDiskLocator(values.get("to") ?? "");
  if (to.kind !== "nbd") throw new Error(`${formatDiskLocator(to)} is no NBD server`);
  const after = values.get("after") ?? "exit";
  if (after !== "exit" && after !== "unlink" && after !== "nothing") {
    throw new Error("after is exit, unlink or nothing");
  }
  const bind = values.get("bind");
  const host = bind === undefined ? undefined : parseAddressOption(bind);
  if (host === null) throw new Error("bad bind address");
  const limit = values.get("max_bps");
  const downtime = values.get("downtime_ms");
  if (downtime !== undefined && !/^[1-9]\d{0,6}$/.test(downtime)) throw new Error("bad downtime_ms");
  return {
    exportName: values.get("export") ?? "",
    to,
    after,
    bind: host,
    speedLimit: limit === undefined ? null : parseLimit(limit),
    downtimeMs: downtime === undefined ? undefined : Number(downtime),
    slowWriters: values.get("slow_writers") === "true",
  };
}

const MIGRATE_KEYS = new Set(["to", "export", "after", "bind", "max_bps", "downtime_ms", "slow_writers"]);

/** The largest number of 64 bits means no limit, as does whatever no disk can reach. */
function parseLimit(text: string): number | null {
  if (!/^-?\d+$/.test(text)) throw new Error("max_bps couldn't be parsed");
  if (text === "-1") return null;
  const limit = Number(text);
  if (limit < 0 || limit >= 2 ** 64 + 2048) throw new Error("max_bps out of range");
  return limit > Number.MAX_SAFE_INTEGER ? null : limit;
}
