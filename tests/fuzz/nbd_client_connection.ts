/** Fuzzers of the disk at the far end of NBD: servers that lie, and connections that damage. */
import { assert } from "@std/assert";
import { DeviceError } from "../../src/device/device_error.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { openNbd } from "../../src/remote/open_nbd.ts";
import { RefusedError } from "../../src/wire/nbd/refused_error.ts";
import { WireError } from "../../src/wire/wire_error.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { serveDisk } from "../testing/served_disk.ts";
import { pick } from "./damage.ts";
import { DiskModel } from "./disk_model.ts";
import type { Fuzzer, Random } from "./fuzzer.ts";
import { LyingServer } from "./lying_server.ts";
import { MoodyConnection } from "./moody_connection.ts";
import { TamperedConnection } from "./tampered_connection.ts";
import { settled, turns } from "./turns.ts";

const SIZES = [1, 512, 65536, 100_001, 1 << 20];

/** Of one of several neighbouring READs: from this size on they are joined. */
const SHOWN_BYTES = 64 * 1024;

/**
 * Uses a disk at random.
 *
 * @param believes Whether what is read is held against a plain array.
 * @returns The failures of operations, all of them {@linkcode DeviceError}s.
 */
async function use(disk: BlockDevice, random: Random, believes: boolean): Promise<DeviceError[]> {
  // A damaged size may be anything.
  const sizeBytes = Math.min(disk.sizeBytes, 1 << 20);
  if (sizeBytes === 0) return [];
  const model = new DiskModel(sizeBytes);
  const failures: DeviceError[] = [];
  const doings: Promise<void>[] = [];
  for (let count = random.below(40); count > 0; count--) {
    const offset = random.below(sizeBytes);
    const length = 1 + random.below(Math.min(sizeBytes - offset, random.chance(0.8) ? 8192 : sizeBytes));
    const doing = operate(disk, model, random, believes, offset, length).catch((error) => {
      if (!(error instanceof DeviceError)) throw error;
      failures.push(error);
    });
    doings.push(doing);
    if (random.chance(0.2)) await turns(random.below(50));
    if (random.chance(0.1)) await settled(Promise.all(doings), "an operation");
  }
  await settled(Promise.all(doings), "an operation");
  return failures;
}

async function operate(
  disk: BlockDevice,
  model: DiskModel,
  random: Random,
  believes: boolean,
  offset: number,
  length: number,
): Promise<void> {
  const expected = model.expect(offset, length);
  const fua = random.chance(0.2);
  switch (random.below(9)) {
    case 8:
      return await showSeveral(disk, model, random, believes);
    case 0:
    case 1:
    case 2: {
      const data = new Uint8Array(length).fill(0xa5);
      await disk.read(offset, data);
      if (believes) expected.checkData(data);
      return;
    }
    case 3:
    case 4: {
      const data = random.chance(0.3) ? new Uint8Array(length) : random.bytes(length);
      model.write(offset, data);
      return await disk.write(offset, data, { fua });
    }
    case 5:
      model.zero(offset, length);
      return await (random.chance(0.5)
        ? disk.zero(offset, length, { fua })
        : disk.trim(offset, length, { fua }));
    case 6: {
      let at = 0;
      for (const { length: count, kind } of await disk.extents(offset, length)) {
        assert(count > 0 && at + count <= length, "extents leave the range");
        if (believes && kind !== "data") expected.checkZero(at, count);
        at += count;
      }
      return assert(at > 0, "no extent");
    }
    default:
      return await (random.chance(0.5) ? disk.flush() : disk.cache(offset, length));
  }
}

/** Has neighbouring ranges shown, which may go to the server as one. */
async function showSeveral(
  disk: BlockDevice,
  model: DiskModel,
  random: Random,
  believes: boolean,
): Promise<void> {
  const sizeBytes = Math.min(disk.sizeBytes, 1 << 20);
  if (disk.show === undefined || sizeBytes < SHOWN_BYTES) return;
  const parts = Math.floor(sizeBytes / SHOWN_BYTES);
  const first = random.below(parts);
  const end = Math.min(parts, first + 1 + random.below(6));
  const offsets = Array.from({ length: end - first }, (_, at) => (first + at) * SHOWN_BYTES);
  const results = await Promise.allSettled(offsets.map((offset) => {
    const expected = model.expect(offset, SHOWN_BYTES);
    return new Promise<void>((resolve, reject) => {
      disk.show!(offset, SHOWN_BYTES, (bytes, error) => {
        if (bytes === null) return reject(error);
        try {
          if (believes) expected.checkData(bytes as Uint8Array);
          resolve();
        } catch (error) {
          reject(error);
        }
      });
    });
  }));
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

/** Who waits for what was lost on the way, or never sent, waits for ever: after a while somebody hangs up. */
async function unlessDone(doing: Promise<unknown>, hangUp: () => void): Promise<void> {
  let done = false;
  const finish = () => {
    done = true;
  };
  doing.then(finish, finish);
  for (let patience = 20_000; patience > 0 && !done; patience--) await undefined;
  if (!done) hangUp();
}

/** A server that keeps the protocol strangely and breaks it now and then: what is believed is true. */
export const nbdLyingServer: Fuzzer = {
  name: "nbd-lying-server",
  summary: "a client of a server that lies reads nothing wrong, fails with DeviceErrors, and never hangs",
  async round(random) {
    const honest = random.chance(0.3);
    const habits = {
      lies: honest ? 0 : pick(random, [0.02, 0.1, 0.5]),
      errors: random.chance(0.5) ? 0 : 0.1,
      oldstyle: random.chance(0.15),
    };
    const server = new LyingServer(pick(random, SIZES), random, habits);
    let serving = Promise.resolve();
    let hangUp = () => {};
    const dial = () => {
      const [here, there] = connectionPair();
      hangUp = () => there.close();
      serving = server.serve(there);
      return Promise.resolve(new MoodyConnection(here, random, { slow: 0.2, breaksAfterBytes: Infinity }));
    };
    const { disk } = await settled(openNbd({ dial, exportName: "disk" }), "opening");
    const using = use(disk, random, true);
    if (!honest) await unlessDone(using, hangUp);
    const failures = await settled(using, "using the disk");
    await settled(disk.close(), "closing");
    await settled(serving, "the server");
    if (!server.lied && habits.errors === 0) {
      assert(failures.length === 0, `an honest server is not believed: ${failures[0]?.message}`);
    }
  },
};

/** An honest server behind a connection that damages what it says. */
export const nbdTamperedServer: Fuzzer = {
  name: "nbd-tampered-server",
  summary: "a client behind a damaged connection opens or not, works or fails, and never hangs",
  async round(random) {
    const sizeBytes = pick(random, SIZES);
    await using served = serveDisk(new MemoryDisk(sizeBytes));
    const damagePerByte = pick(random, [0.01, 0.001, 0.0001]);
    const quietBytes = random.chance(0.8) ? 200 + random.below(2000) : 0;
    const dial = async () =>
      new TamperedConnection(await served.dial(undefined), random, {
        damagePerByte,
        quietBytes,
        endsAfterBytes: random.chance(0.3) ? random.below(20_000) : Infinity,
      });
    const opening = openNbd({ dial, exportName: "disk", connections: 1 + random.below(3) }).catch((error) => {
      if (error instanceof WireError || error instanceof RefusedError) return null;
      throw error;
    });
    await unlessDone(opening, () => served.server.abort());
    const opened = await settled(opening, "opening");
    if (opened === null) return;
    const using = use(opened.disk, random, false);
    await unlessDone(using, () => served.server.abort());
    await settled(using, "using the disk");
    await settled(opened.disk.close(), "closing");
  },
};
