/** A disk at the far end of a server that crashes and comes back, by a clock that moves only when told. */
import { setImmediate } from "node:timers";
import type { BlockDevice, DiskIdentity } from "../../src/device/device.ts";
import { type Fault, FaultDisk } from "../../src/device/fault.ts";
import type { Connection } from "../../src/net/connection.ts";
import { NbdDisk } from "../../src/remote/nbd.ts";
import { type Dial, openConnection } from "../../src/remote/open_connection.ts";
import type { SurvivalOptions } from "../../src/remote/survival_options.ts";
import { SurvivingLink } from "../../src/remote/surviving_link.ts";
import { withSession } from "../../src/remote/whereabouts.ts";
import type { Writers } from "../../src/server/export_table.ts";
import { ManualClock } from "./manual_clock.ts";
import { RestartableServer } from "./restartable_server.ts";

export const MIB = 1024 * 1024;

/** Lets everything happen that needs no time. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 8; turn++) await new Promise((resolve) => setImmediate(resolve));
}

export interface SetUp extends Partial<SurvivalOptions> {
  readonly connections?: number;
  readonly wrap?: (disk: BlockDevice) => BlockDevice;
  readonly identity?: DiskIdentity;
  readonly writers?: Writers;
  /** Gets between the client and its connections, which are counted from 1. */
  readonly tamper?: (connection: Connection, dialled: number) => Connection;
}

/** Another disk over the same server, and whatever it takes to use it. */
export async function openLink(
  server: RestartableServer,
  clock: ManualClock,
  options: Partial<SurvivalOptions> & Pick<SetUp, "connections" | "tamper"> = {},
) {
  const { connections = 1, tamper, ...survival } = options;
  const dial: Dial = async (signal) => {
    const connection = await server.dial(signal);
    return tamper?.(connection, server.dialled) ?? connection;
  };
  const wishes = { exportName: "disk", contexts: ["base:allocation", "x-denbd:"] };
  const first = survival.session === undefined ? wishes : withSession(wishes, survival.session);
  const opened = await Promise.all(
    Array.from({ length: connections }, () => openConnection(dial, first, undefined, clock)),
  );
  const link = new SurvivingLink(opened, { dial, wishes, clock, random: () => 0, ...survival });
  return { link, disk: new NbdDisk(link) };
}

/** A session that nobody else has. */
export const newSession = () => ({ id: crypto.randomUUID(), generation: 1 });

export async function setUp(options: SetUp = {}) {
  const { wrap, identity, writers, ...survival } = options;
  const server = new RestartableServer(MIB);
  if (wrap !== undefined) server.wrap = wrap;
  if (writers !== undefined) server.writers = writers;
  server.identity = identity;
  const clock = new ManualClock();
  server.clock = clock;
  server.start();
  const { link, disk } = await openLink(server, clock, survival);
  /** Lets so much time pass, in small steps. */
  const pass = async (ms: number) => {
    for (let left = ms; left > 0; left -= 50) {
      await settle();
      clock.advance(Math.min(50, left));
    }
    await settle();
  };
  return { server, clock, link, disk, pass };
}

/** A disk whose operations wait; `held` counts them. */
export function holding(
  operation: "read" | "write" | "flush",
): { wrap: (disk: BlockDevice) => BlockDevice; faults: Fault[] } {
  const faults: Fault[] = [];
  return {
    faults,
    wrap: (disk) => {
      const faulty = new FaultDisk(disk);
      // Only the first life of the server hangs.
      if (faults.length === 0) faults.push(faulty.add({ operation, hold: true }));
      return faulty;
    },
  };
}

export const filled = (value: number, length = 4096) => new Uint8Array(length).fill(value);

/** Of a disk on a denbd server. */
export const identity: DiskIdentity = {
  uuid: "01234567-89ab-4def-8123-456789abcdef",
  generation: 7,
  durable: true,
};
