import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { crc32 } from "../../src/base/crc32.ts";
import { type Log, silentLog } from "../../src/base/log.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { FaultDisk, type FaultRule } from "../../src/device/fault.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { type Attempt, AttemptFailure, type Destination } from "../../src/migrate/handover.ts";
import { Migration, type MigrationOptions } from "../../src/migrate/migration.ts";
import { NbdDestination } from "../../src/migrate/nbd_destination.ts";
import { Receiver } from "../../src/migrate/receiver.ts";
import { systemClock } from "../../src/os/clock.ts";
import { Command } from "../../src/wire/nbd/constants.ts";
import { RefusedError } from "../../src/wire/nbd/refused_error.ts";
import { Counter } from "../testing/counter.ts";
import { randomFrom } from "../testing/random.ts";
import { type ServedDiskOptions, serveDisk } from "../testing/served_disk.ts";

const MIB = 1024 * 1024;

async function contentOf(disk: BlockDevice): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.sizeBytes);
  for (let at = 0; at < bytes.length; at += MIB) await disk.read(at, bytes.subarray(at, at + MIB));
  return bytes;
}

async function assertSame(one: BlockDevice, other: BlockDevice): Promise<void> {
  const [ours, theirs] = [await contentOf(one), await contentOf(other)];
  assertEquals(ours.findIndex((byte, at) => byte !== theirs[at]), -1);
}

/** A disk half of which holds data. */
function halfFull(sizeBytes: number): MemoryDisk {
  const random = randomFrom(7);
  const disk = new MemoryDisk(sizeBytes);
  for (let at = 0; at < sizeBytes; at += 2 * MIB) disk.write(at, random.bytes(Math.min(MIB, sizeBytes - at)));
  return disk;
}

/** A destination that receives into `disk`, as `listen` does. */
function receiving(disk: BlockDevice, options: ServedDiskOptions & { servesReceived?: boolean } = {}) {
  const { sizeBytes } = disk;
  const receiver = new Receiver(disk, { sizeBytes, log: silentLog, servesReceived: options.servesReceived });
  const served = serveDisk(receiver, {
    ...options,
    whyClosed: () => receiver.whyClosed,
    onLeft: (client) => {
      void receiver.left(client.session.saidGoodbye);
      options.onLeft?.(client);
    },
  });
  return { receiver, ...served };
}

function destinationOf(dial: ReturnType<typeof serveDisk>["dial"], sizeBytes: number): NbdDestination {
  return new NbdDestination({ text: "there", dial, exportName: "", sizeBytes, clock: systemClock });
}

function move(
  place: { device: BlockDevice },
  destination: Destination,
  options: Partial<MigrationOptions> = {},
): Migration {
  return new Migration({
    place,
    sizeBytes: place.device.sizeBytes,
    destination,
    clock: systemClock,
    log: silentLog,
    ...options,
  });
}

/** A log in which it can be waited for that an attempt fails, and that clients are too fast. */
class AttemptLog implements Log {
  readonly failures = new Counter();
  readonly errors: string[] = [];
  readonly outrun = new Counter();

  #heard(message: string): void {
    if (message.includes("clients go on here, it is tried again")) this.failures.add();
  }

  error(message: string): void {
    this.errors.push(message);
    this.#heard(message);
  }

  /** A failure that was told before. */
  debug(message: string): void {
    this.#heard(message);
  }

  warn(message: string): void {
    if (message.includes("does not converge")) this.outrun.add();
  }

  info(): void {}
  fatal(): void {}
  child(): Log {
    return this;
  }
}

/** Writes at random until told to stop; fails if a write does. */
function writing(place: { device: BlockDevice }, { pauseMs = 0, perTurn = 1 } = {}) {
  const random = randomFrom();
  let over = false;
  const writes = new Counter();
  const done = (async () => {
    while (!over) {
      const length = 1 + random.below(16 * 1024);
      const offset = random.below(place.device.sizeBytes - length);
      if (random.chance(0.1)) await place.device.zero(offset, length);
      else await place.device.write(offset, random.bytes(length));
      writes.add();
      if (writes.count % perTurn > 0) continue;
      // Others have to come to their turn.
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  })();
  // Held for good it never ends.
  done.catch(() => {});
  return {
    writes,
    async stop() {
      over = true;
      await done;
    },
    leave() {
      over = true;
    },
  };
}

for (const oldstyle of [false, true]) {
  Deno.test(`migration: the destination ends up equal, holes and all (oldstyle ${oldstyle})`, async () => {
    const source = halfFull(16 * MIB + 512);
    const target = new MemoryDisk(source.sizeBytes);
    target.write(MIB, new Uint8Array(4096).fill(9));
    await using there = receiving(target, { oldstyle });
    const place = { device: source as BlockDevice };
    const migration = move(place, destinationOf(there.dial, source.sizeBytes));
    await migration.started;
    const load = writing(place);
    assertEquals(await migration.ended, "moved");
    load.leave();
    assertEquals(await there.receiver.received, true);
    await assertSame(source, target);
    migration.refuseClients();
    if (!oldstyle) assert(target.extents(0, source.sizeBytes).some(({ kind }) => kind === "hole"));
  });
}

Deno.test("migration: what clients ask for in the end waits, and fails when the disk has moved", async () => {
  const source = halfFull(4 * MIB);
  await using there = receiving(new MemoryDisk(source.sizeBytes));
  const place = { device: source as BlockDevice };
  const migration = move(place, destinationOf(there.dial, source.sizeBytes));
  assertEquals(await migration.ended, "moved");
  const held = [
    place.device.read(0, new Uint8Array(1)),
    place.device.write(0, new Uint8Array(1)),
    place.device.flush(),
  ];
  migration.refuseClients();
  for (const operation of held) await assertRejects(() => operation as Promise<void>, Error, "it has moved");
});

Deno.test("migration: broken off at any time, clients go on, and the next one succeeds", async () => {
  const source = halfFull(32 * MIB);
  const arrived = new Counter();
  const target = new class extends MemoryDisk {
    override write(offset: number, data: Uint8Array) {
      arrived.add();
      return super.write(offset, data);
    }
  }(source.sizeBytes);
  await using there = receiving(target);
  const place = { device: source as BlockDevice };
  const load = writing(place);
  for (let round = 0; round < 8; round++) {
    const migration = move(place, destinationOf(there.dial, source.sizeBytes), {
      speedLimit: 40 * MIB,
    });
    await migration.started;
    await arrived.reached(arrived.count + round);
    assertEquals(await migration.break(), true);
    assertEquals(place.device, source);
    assertEquals(there.receiver.isWaiting, true);
  }
  assert(load.writes.count > 0);
  await load.stop();
  assertEquals(await move(place, destinationOf(there.dial, source.sizeBytes)).ended, "moved");
  await assertSame(source, target);
});

Deno.test("migration: broken off while it waits for a destination that is silent", async () => {
  const source = halfFull(MIB);
  const destination: Destination = {
    text: "nowhere",
    begin: (signal) =>
      new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
  };
  const place = { device: source as BlockDevice };
  const migration = move(place, destination);
  assertEquals(await migration.break(), true);
  await assertRejects(() => migration.started, Error, "broken off");
});

interface Refusal {
  readonly why: string;
  readonly target: BlockDevice;
  readonly options?: ServedDiskOptions;
  readonly kind: string;
  readonly says: string;
}

const refusals: Refusal[] = [
  { why: "too small", target: new MemoryDisk(MIB), kind: "size", says: "1048576 bytes there, 2097152 here" },
  { why: "too large", target: new MemoryDisk(3 * MIB), kind: "size", says: "3145728 bytes there" },
  {
    why: "read-only",
    target: new MemoryDisk(2 * MIB),
    options: { readOnly: true },
    kind: "rejected",
    says: "read-only",
  },
  {
    why: "the wrong export",
    target: new MemoryDisk(2 * MIB),
    options: { exportName: "other", judge: () => ({ rights: "none", reason: "it is not for you" }) },
    kind: "rejected",
    says: "",
  },
];

for (const { why, target, options, kind, says } of refusals) {
  Deno.test(`migration: a destination that is ${why} is refused with one error, and clients go on`, async () => {
    const source = halfFull(2 * MIB);
    await using there = serveDisk(target, options);
    const place = { device: source as BlockDevice };
    const migration = move(place, destinationOf(there.dial, source.sizeBytes));
    const error = await assertRejects(() => migration.started, AttemptFailure);
    assertEquals(error.kind, kind);
    assertStringIncludes(error.message, says);
    assertEquals(await migration.ended, "failed");
    assertEquals(place.device, source);
  });
}

Deno.test("migration: a destination whose disk is full is one error and many attempts, and clients go on", async () => {
  const source = halfFull(8 * MIB);
  const target = new FaultDisk(new MemoryDisk(source.sizeBytes));
  const full = target.add({ operation: "write", errno: "ENOSPC", skip: 3 });
  await using there = receiving(target);
  const log = new AttemptLog();
  const place = { device: source as BlockDevice };
  const migration = move(place, destinationOf(there.dial, source.sizeBytes), { log });
  const load = writing(place, { pauseMs: 5 });
  await log.failures.reached(3);
  assertEquals([migration.progress().attempt, log.errors.length], [3, 1]);
  assertStringIncludes(log.errors[0], "ENOSPC");
  assertStringIncludes(migration.progress().lastError!, "ENOSPC");
  full.remove();
  assertEquals(await migration.ended, "moved");
  load.leave();
  await assertSame(source, target);
});

/** Fails at one step of one attempt, then no more. */
class Stumbling implements Destination {
  readonly text = "there";
  readonly #inner: Destination;
  #step: string | null;

  constructor(inner: Destination, step: string) {
    this.#inner = inner;
    this.#step = step;
  }

  #stumble(step: string): void {
    if (this.#step !== step) return;
    this.#step = null;
    throw new Error(`fell at ${step}`);
  }

  async begin(signal: AbortSignal): Promise<Attempt> {
    const attempt = await this.#inner.begin(signal);
    return {
      disk: attempt.disk,
      resumes: attempt.resumes,
      lost: attempt.lost,
      finish: async (leave) => {
        this.#stumble("finish");
        await attempt.finish(async () => {
          this.#stumble("leave");
          await leave();
        });
      },
      abandon: (reason) => attempt.abandon(reason),
    };
  }
}

const faults: (FaultRule & { name: string })[] = [
  { name: "the first write", operation: "write", errno: "EIO", times: 1 },
  { name: "a write in the middle", operation: "write", errno: "EIO", times: 1, skip: 7 },
  { name: "a late write", operation: "write", errno: "EIO", times: 1, skip: 15 },
  { name: "a zeroing", operation: "zero", errno: "EIO", times: 1 },
  { name: "the flush before the end", operation: "flush", errno: "EIO", times: 1 },
  { name: "the flush in the end", operation: "flush", errno: "EIO", times: 1, skip: 1 },
];

for (const { name, ...rule } of faults) {
  Deno.test(`migration: ${name} fails at the destination: clients see nothing, the next attempt succeeds`, async () => {
    const source = halfFull(8 * MIB);
    const target = new FaultDisk(new MemoryDisk(source.sizeBytes));
    const fault = target.add(rule);
    await using there = receiving(target);
    const place = { device: source as BlockDevice };
    const load = writing(place);
    const migration = move(place, destinationOf(there.dial, source.sizeBytes));
    assertEquals(await migration.ended, "moved");
    load.leave();
    assertEquals([fault.hits, migration.progress().attempt], [1, 2]);
    assertEquals(await there.receiver.received, true);
    await assertSame(source, target);
  });
}

for (const step of ["finish", "leave"]) {
  Deno.test(`migration: it fails at ${step}: clients were held, go on, and the next attempt succeeds`, async () => {
    const source = halfFull(4 * MIB);
    const target = new MemoryDisk(source.sizeBytes);
    await using there = receiving(target);
    const place = { device: source as BlockDevice };
    const load = writing(place);
    const log = new AttemptLog();
    const stumbling = new Stumbling(destinationOf(there.dial, source.sizeBytes), step);
    const migration = move(place, stumbling, { log });
    await log.failures.reached(1);
    assertEquals(migration.progress().phase, "waiting");
    await load.writes.next();
    assertEquals(there.receiver.isWaiting, true);
    assertEquals(await migration.ended, "moved");
    load.leave();
    await assertSame(source, target);
  });
}

Deno.test("migration: an image that cannot be deleted stays, and the destination is not told to take over", async () => {
  const source = halfFull(MIB);
  await using there = receiving(new MemoryDisk(source.sizeBytes));
  const place = { device: source as BlockDevice };
  let tries = 0;
  const log = new AttemptLog();
  const migration = move(place, destinationOf(there.dial, source.sizeBytes), {
    log,
    leave: () => ++tries === 1 ? Promise.reject(new Error("permission denied")) : Promise.resolve(),
  });
  await log.failures.reached(1);
  assertEquals(migration.progress().phase, "waiting");
  assertEquals(there.receiver.isWaiting, true);
  assertEquals(migration.progress().lastError, "permission denied");
  assertEquals(await migration.ended, "moved");
});

Deno.test("migration: clients that outrun the link are said to, and slowed down where that is wanted", async () => {
  for (const slowWriters of [false, true]) {
    const source = halfFull(4 * MIB);
    const target = new MemoryDisk(source.sizeBytes);
    await using there = receiving(target);
    const place = { device: source as BlockDevice };
    const log = new AttemptLog();
    const migration = move(place, destinationOf(there.dial, source.sizeBytes), {
      log,
      speedLimit: 4 * MIB,
      downtimeMs: 20,
      slowWriters,
    });
    const load = writing(place, { perTurn: 32 });
    if (slowWriters) {
      assertEquals(await migration.ended, "moved");
      load.leave();
      await assertSame(source, target);
    } else {
      await log.outrun.reached(1);
      assertEquals(migration.progress().converges, false);
      assertEquals(await migration.break(), true);
      await load.stop();
    }
  }
});

Deno.test("receiver: a goodbye before every byte has come is no end", async () => {
  const target = new MemoryDisk(2 * MIB);
  const left = new Counter();
  await using there = receiving(target, { onLeft: () => left.add() });
  const client = await there.client();
  await client.write(0, new Uint8Array(2 * MIB - 1));
  await client.send({ type: 2 });
  await left.reached(1);
  assertEquals(there.receiver.isWaiting, true);
});

/** Cuts each connection after so many bytes to the destination, and at a step of the end. */
class Snipping implements Destination {
  readonly text = "there";
  readonly #receiver: ReturnType<typeof receiving>;
  readonly #sizeBytes: number;
  readonly #cutAfterBytes: number;
  readonly #step: string;

  constructor(
    receiver: ReturnType<typeof receiving>,
    sizeBytes: number,
    cutAfterBytes: number,
    step: string,
  ) {
    this.#receiver = receiver;
    this.#sizeBytes = sizeBytes;
    this.#cutAfterBytes = cutAfterBytes;
    this.#step = step;
  }

  async begin(signal: AbortSignal): Promise<Attempt> {
    let connection: Awaited<ReturnType<ReturnType<typeof receiving>["dial"]>>;
    let sent = 0;
    const dial = async () => {
      connection = await this.#receiver.dial(undefined);
      const write = connection.write.bind(connection);
      connection.write = (bytes: Uint8Array) => {
        sent += bytes.length;
        if (sent > this.#cutAfterBytes) connection.close();
        return write(bytes);
      };
      return connection;
    };
    const attempt = await destinationOf(dial, this.#sizeBytes).begin(signal);
    return {
      disk: attempt.disk,
      resumes: false,
      lost: attempt.lost,
      finish: (leave) => {
        if (this.#step === "finish") connection.close();
        return attempt.finish(() => {
          if (this.#step === "leave") connection.close();
          return leave();
        });
      },
      abandon: (reason) => attempt.abandon(reason),
    };
  }
}

Deno.test("migration: twenty that fail, at every point, and a stock client under load sees no error and no reconnect", async () => {
  const random = randomFrom(11);
  const sizeBytes = 2 * MIB;
  const source = halfFull(sizeBytes);
  await using here = serveDisk(source);
  const target = new MemoryDisk(sizeBytes);
  await using there = receiving(target);
  const client = await here.client();
  let over = false;
  const requests = new Counter();
  const load = (async () => {
    while (!over) {
      const offset = random.below(sizeBytes - 4096);
      const data = random.bytes(4096);
      assertEquals((await client.write(offset, data)).error, 0);
      const { error, data: read } = await client.read(offset, 4096);
      assertEquals([error, read.every((byte, at) => byte === data[at])], [0, true]);
      requests.add();
      // Others have to come to their turn.
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  })();
  const all = 3 * MIB;
  for (let round = 0; round < 20; round++) {
    const step = ["none", "finish", "leave"][round % 3];
    const cutAfterBytes = step === "none" ? 400 + Math.floor(round / 20 * MIB) : 1000 * all;
    const log = new AttemptLog();
    const migration = move(here.exported, new Snipping(there, sizeBytes, cutAfterBytes, step), { log });
    await log.failures.reached(1);
    assert(migration.progress().lastError !== null);
    await requests.next();
    assertEquals(await migration.break(), true);
    assertEquals([here.exported.device, there.receiver.isWaiting], [source, true]);
  }
  assertEquals(here.server.clients().length, 1);
  over = true;
  await load;
  assertEquals(await move(here.exported, destinationOf(there.dial, sizeBytes)).ended, "moved");
  await assertSame(source, target);
  client.connection.close();
});

/** A destination that makes checksums of what it has, as another denbd does. */
class Comparing implements Destination {
  readonly text = "there";
  comparedBytes = 0;
  readonly #inner: Destination;
  readonly #disk: BlockDevice;
  readonly #asked: (offset: number, length: number) => void;

  /** @param asked Told of each range before its checksum is made. */
  constructor(
    inner: Destination,
    disk: BlockDevice,
    asked: (offset: number, length: number) => void = () => {},
  ) {
    this.#inner = inner;
    this.#disk = disk;
    this.#asked = asked;
  }

  async begin(signal: AbortSignal): Promise<Attempt> {
    const attempt = await this.#inner.begin(signal);
    return Object.assign(attempt, {
      checksum: async (offset: number, length: number) => {
        this.comparedBytes += length;
        this.#asked(offset, length);
        const bytes = new Uint8Array(length);
        await this.#disk.read(offset, bytes);
        return crc32(bytes);
      },
    });
  }
}

Deno.test("migration: what clients have scattered during the first pass is sent before they are held", async () => {
  const source = halfFull(8 * MIB);
  const target = new MemoryDisk(source.sizeBytes);
  await using there = receiving(target);
  const place = { device: source as BlockDevice };
  let scattered = false;
  let heldWith = -1;
  const destination = new Comparing(destinationOf(there.dial, source.sizeBytes), target, () => {
    // Behind the first piece of the first pass: 2 MiB in 512 places.
    if (scattered) return;
    scattered = true;
    for (let at = 0; at < 4 * MIB; at += 8192) {
      void place.device.write(at, new Uint8Array(4096).fill(3));
    }
  });
  const migration = move(place, destination, {
    leave: () => {
      heldWith = migration.progress().pass;
      return Promise.resolve();
    },
  });
  assertEquals(await migration.ended, "moved");
  assert(scattered);
  assertEquals(heldWith, 2);
  await assertSame(source, target);
});

for (const [where, place] of [["data", 2 * MIB], ["a hole", 3 * MIB]] as const) {
  Deno.test(`migration: what differs in ${where} at the destination is found before the disk changes hands, and sent again`, async () => {
    const source = halfFull(8 * MIB + 512);
    let damaged = false;
    /** Behind the data that are sent first, before they are compared. */
    const damage = () => {
      if (!damaged) target.write(place, new Uint8Array(1).fill(77));
      damaged = true;
    };
    const target = new class extends MemoryDisk {
      override flush() {
        damage();
      }
    }(source.sizeBytes);
    await using there = receiving(target);
    let comparedThere = 0;
    const inner = destinationOf(there.dial, source.sizeBytes);
    const destination = new Comparing(inner, target, (offset, length) => {
      if (place < offset || offset + length <= place) return;
      comparedThere++;
      damage();
    });
    const here = { device: source as BlockDevice };
    const load = writing(here);
    assertEquals(await move(here, destination).ended, "moved");
    load.leave();
    assert(destination.comparedBytes > 4 * MIB + 512);
    assert(comparedThere > 0);
    await assertSame(source, target);
  });
}

Deno.test("migration: where both ends know that there are no data no checksums are made", async () => {
  const source = new MemoryDisk(64 * MIB);
  source.write(17 * MIB, new Uint8Array(4096).fill(1));
  const target = new MemoryDisk(source.sizeBytes);
  await using there = receiving(target);
  const destination = new Comparing(destinationOf(there.dial, source.sizeBytes), target);
  assertEquals(await move({ device: source }, destination).ended, "moved");
  const { comparedBytes } = destination;
  assert(comparedBytes > 0 && comparedBytes <= MIB, `${comparedBytes} bytes compared`);
  await assertSame(source, target);
});

for (const servesReceived of [false, true]) {
  const what = servesReceived ? "and then they are" : "nor afterwards";
  Deno.test(`a disk that has come is made durable before clients are let in, ${what}`, async () => {
    const flushing = Promise.withResolvers<void>();
    const flushed = Promise.withResolvers<void>();
    const disk = new MemoryDisk(MIB);
    disk.flush = () => {
      flushing.resolve();
      return flushed.promise;
    };
    await using there = receiving(disk, { servesReceived });
    const source = await there.client();
    assertEquals((await source.write(0, new Uint8Array(MIB))).error, 0);
    await source.send({ type: Command.DISC });
    await flushing.promise;
    await assertRejects(() => there.client(), RefusedError, "is being made durable");
    flushed.resolve();
    assertEquals(await there.receiver.received, true);
    if (servesReceived) assertEquals((await (await there.client()).write(0, new Uint8Array(512))).error, 0);
    else await assertRejects(() => there.client(), RefusedError, "has been received, and is not served");
  });
}
