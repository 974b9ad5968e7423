/** What a simulated life is like. */

/** What may go wrong. */
export type Trouble =
  /** Connections are cut. */
  | "cut"
  /** Nothing gets through for a while, and nobody is told. */
  | "stall"
  /** Packets vanish: a connection is dead, and neither end knows. */
  | "vanish"
  /** The server ends politely and comes back. */
  | "restart"
  /** The server is killed and comes back; the machine and its page cache stay. */
  | "kill"
  /** The server's machine loses power. */
  | "power"
  /** The server's disk fails. */
  | "fault"
  /** It takes seconds. */
  | "slow"
  /** The proxy is killed and comes back. */
  | "proxy-kill"
  /** The proxy's machine loses power. */
  | "proxy-power"
  /** Somebody else comes to write. */
  | "rival";

export interface World {
  readonly name: string;
  /** A denbd server tells its instance and the identity of the disk. */
  readonly server: "denbd" | "stock";
  /** Whether nobody else writes: by the operator's word, because the server sees to it, or not at all. */
  readonly writer: "sole" | "reserved" | "shared";
  /** What is between the user and the server, and where that keeps blocks. Default: nothing is. */
  readonly proxy?: "plain" | "memory" | "file";
  /** The proxy has another client, which flushes beside the user. Default `false`. */
  readonly neighbour?: boolean;
  /** A proxy that was killed comes back as the same session. Default `false`. */
  readonly keepsSession?: boolean;
  /** To the server. Default 1. */
  readonly connections?: number;
  /** Requests fail after so long. Default: never. */
  readonly deadlineMs?: number;
  /**
   * What was on its way when a client gave up its connection arrives, and is executed. Default: with a denbd server,
   * which has done with an old connection before it serves a new one; no other can be made to.
   */
  readonly late?: boolean;
  /** The user does nothing for up to so long, now and then. Default 300 ms. */
  readonly restMs?: number;
  readonly troubles: readonly Trouble[];
}

/** Whether all that was acknowledged stays, flushed or not. */
export function keepsAll({ writer }: World): boolean {
  return writer !== "shared";
}

const SERVER: readonly Trouble[] = ["cut", "stall", "vanish", "restart", "kill", "power", "slow"];

export const worlds: readonly World[] = [
  { name: "sole", server: "denbd", writer: "sole", connections: 2, troubles: SERVER },
  { name: "sole-faults", server: "denbd", writer: "sole", troubles: [...SERVER, "fault"] },
  { name: "sole-deadline", server: "denbd", writer: "sole", deadlineMs: 20_000, troubles: SERVER },
  { name: "sole-stock", server: "stock", writer: "sole", troubles: SERVER },
  { name: "sole-stock-wide", server: "stock", writer: "sole", connections: 3, troubles: SERVER },
  { name: "reserved", server: "denbd", writer: "reserved", connections: 2, troubles: SERVER },
  { name: "reserved-faults", server: "denbd", writer: "reserved", troubles: [...SERVER, "fault"] },
  { name: "reserved-rival", server: "denbd", writer: "reserved", troubles: [...SERVER, "rival"] },
  { name: "shared-rival", server: "denbd", writer: "shared", troubles: [...SERVER, "rival"] },
  { name: "shared-stock-rival", server: "stock", writer: "shared", troubles: [...SERVER, "rival"] },
  { name: "shared", server: "denbd", writer: "shared", connections: 2, troubles: SERVER },
  { name: "shared-faults", server: "denbd", writer: "shared", troubles: [...SERVER, "fault"] },
  { name: "shared-stock", server: "stock", writer: "shared", troubles: SERVER },
  {
    name: "links",
    server: "denbd",
    writer: "shared",
    connections: 3,
    troubles: ["cut", "stall", "vanish", "slow"],
  },
  { name: "proxy", server: "denbd", writer: "shared", proxy: "plain", troubles: [...SERVER, "proxy-kill"] },
  {
    name: "proxy-neighbour",
    server: "denbd",
    writer: "shared",
    proxy: "plain",
    neighbour: true,
    troubles: [...SERVER, "proxy-kill"],
  },
  {
    name: "proxy-reserved",
    server: "denbd",
    writer: "reserved",
    proxy: "plain",
    connections: 2,
    troubles: [...SERVER, "proxy-kill", "rival"],
  },
  {
    name: "proxy-memory",
    server: "denbd",
    writer: "sole",
    proxy: "memory",
    connections: 2,
    troubles: [...SERVER, "fault", "proxy-kill"],
  },
  {
    name: "proxy-file",
    server: "denbd",
    writer: "sole",
    proxy: "file",
    troubles: [...SERVER, "proxy-kill", "proxy-power"],
  },
  {
    name: "proxy-memory-reserved",
    server: "denbd",
    writer: "reserved",
    proxy: "memory",
    troubles: [...SERVER, "rival"],
  },
  {
    name: "proxy-file-reserved",
    server: "denbd",
    writer: "reserved",
    proxy: "file",
    troubles: [...SERVER, "proxy-kill", "rival"],
  },
  {
    name: "proxy-file-stock",
    server: "stock",
    writer: "sole",
    proxy: "file",
    troubles: [...SERVER, "fault", "proxy-kill", "proxy-power"],
  },
];
