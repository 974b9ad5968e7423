import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { type KeyEntry, KeyList } from "../../src/access/key_list.ts";
import { formatKey } from "../../src/base/channel_key.ts";
import { type Log, silentLog } from "../../src/base/log.ts";
import { parseDiskLocator } from "../../src/base/uri.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import type { Connection } from "../../src/net/connection.ts";
import { type Listener, listenTcp } from "../../src/net/listener.ts";
import { dial } from "../../src/net/dial.ts";
import { openSecureConnection } from "../../src/net/secure_connection.ts";
import { openDisk, OpenError } from "../../src/open_disk.ts";
import { createFile } from "../../src/os/key_file.ts";
import { systemClock } from "../../src/os/clock.ts";
import { NbdDisk } from "../../src/remote/nbd.ts";
import { openConnection } from "../../src/remote/open_connection.ts";
import { SurvivingLink } from "../../src/remote/surviving_link.ts";
import { ChannelEntrance } from "../../src/server/channel_entrance.ts";
import type { EncryptionMode } from "../../src/wire/channel/establish.ts";
import { generateKey, importKeyPair } from "../../src/wire/channel/key_pair.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { Eavesdropper, Middleman } from "../testing/middleman.ts";
import { type ServedDisk, serveDisk } from "../testing/served_disk.ts";

const SIZE = 4 * 1024 * 1024;
const serverKey = await importKeyPair(generateKey());

class CollectedLog implements Log {
  readonly lines: string[] = [];
  debug() {}
  info() {}
  warn = (message: string) => void this.lines.push(message);
  error = (message: string) => void this.lines.push(message);
  fatal() {}
  child = () => this;
}

/** A server of one disk behind a channel, a client's key, and files for them. */
class Behind implements AsyncDisposable {
  readonly disk = new MemoryDisk(SIZE);
  readonly directory = temporaryDirectory();
  readonly keys = new KeyList([]);
  readonly log = new CollectedLog();
  readonly listener: Listener = listenTcp("127.0.0.1", 0);
  readonly served: ServedDisk;
  readonly entrance: ChannelEntrance;
  readonly #serving: Promise<void>;

  private constructor(encryption: EncryptionMode, readonly clientKey: string) {
    this.served = serveDisk(this.disk, {
      judge: ({ key }) =>
        key === undefined ? { rights: "write", reason: "a test" } : this.keys.rightsFor(key),
    });
    this.entrance = new ChannelEntrance({
      encryption,
      identity: { staticKey: serverKey },
      keys: this.keys,
      log: this.log,
      clock: systemClock,
      handshakeMs: 10_000,
    });
    this.#serving = this.entrance.serve(this.listener, (connection) => this.served.server.handle(connection));
  }

  static async open(
    rights: KeyEntry["rights"] | "unknown" = "write",
    encryption: EncryptionMode = "require",
  ) {
    const secret = generateKey();
    const key = (await importKeyPair(secret)).publicKey.toBase64();
    const behind = new Behind(encryption, key);
    await createFile(behind.directory.file("key"), formatKey("private", secret), 0o600);
    if (rights !== "unknown") behind.keys.replace([{ key, rights, comment: "tester" }]);
    return behind;
  }

  /** The URI of the disk, by default with the server's key, through `port`. */
  uri(parameters = `key=${encodeURIComponent(serverKey.publicKey.toBase64())}`, port = this.listener.port) {
    return `nbd+noise://127.0.0.1:${port}/disk?identity=${this.directory.file("key")}&${parameters}`;
  }

  connect(
    uri = this.uri(),
    environment: Record<string, string> = {},
    log: Log = silentLog,
    deadlineMs: number | undefined = undefined,
  ): Promise<BlockDevice> {
    return openDisk(parseDiskLocator(uri), { env: (name) => environment[name], log, deadlineMs });
  }

  async [Symbol.asyncDispose]() {
    this.listener.close();
    this.entrance.abort();
    await this.served[Symbol.asyncDispose]();
    await this.#serving;
    this.directory[Symbol.dispose]();
  }
}

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => index * 31 + (index >> 8) * 7);
}

async function readDisk(disk: BlockDevice, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await disk.read(offset, bytes);
  return bytes;
}

Deno.test("a disk behind a channel is a disk", async () => {
  await using behind = await Behind.open();
  const disk = await behind.connect();
  const data = pattern(1_000_000);
  await Promise.all([disk.write(512, data), disk.write(2_000_000, data.subarray(0, 4096))]);
  await disk.flush();
  assertEquals(await readDisk(disk, 512, data.length), data);
  assertEquals(await readDisk(behind.disk, 2_000_000, 4096), data.slice(0, 4096));
  const [client] = behind.served.server.clients();
  assertEquals(client.peer.key, behind.clientKey);
  assertStringIncludes(client.peer.text, `(key ${behind.clientKey})`);
  await disk.close();
});

Deno.test("V35: no 8 bytes of a text that is written or read stand on the wire, as they do without a channel", async () => {
  const sentence = "Sphinx of black quartz, judge my vow! ";
  const text = new TextEncoder().encode(sentence.repeat(3000));
  for (const protection of ["noise", "checksum"]) {
    await using behind = await Behind.open("write", "prefer");
    using eavesdropper = new Eavesdropper(behind.listener.port!);
    const { port } = eavesdropper.listener;
    const disk = await behind.connect(
      protection === "noise" ? behind.uri(undefined, port) : `nbd+crc://127.0.0.1:${port}/disk`,
    );
    await disk.write(0, text);
    assertEquals(await readDisk(disk, 0, text.length), text);
    await disk.close();
    assert(eavesdropper.byteCount > 2 * text.length);
    assertEquals(eavesdropper.recognised(sentence) > 0, protection === "checksum", protection);
  }
});

Deno.test("with checksums, bytes flipped on the way are never read nor written, and a copy completes", async () => {
  await using behind = await Behind.open("write", "prefer");
  const data = pattern(SIZE);
  behind.disk.write(0, data);
  // Every connection has one flipped bit, now in this direction and now in that, the first one far from its start.
  using middleman = new Middleman(behind.listener.port!, (from, bytes, at, number) => {
    const flipAt = [300_003, 500, 40_000, 90_001, 150_007, 24][number % 6];
    const direction = number % 2 === 0 ? "server" : "client";
    if (from === direction && flipAt >= at && flipAt < at + bytes.length) bytes[flipAt - at] ^= 0x10;
    return bytes;
  });
  const uri = `nbd+crc://127.0.0.1:${middleman.listener.port}/disk`;
  const copy = new Uint8Array(SIZE);
  const STEP = 64 * 1024;
  const disk = await openDisk(parseDiskLocator(uri));
  for (let done = 0; done < SIZE; done += STEP) {
    copy.set(await readDisk(disk, done, STEP), done);
    await disk.write(done, data.subarray(done, done + STEP));
  }
  await disk.close();
  assertEquals(copy, data);
  assertEquals(await readDisk(behind.disk, 0, SIZE), data);
  assert(middleman.count > 6, `only ${middleman.count} connections were needed`);
});

Deno.test("a flipped byte in an encrypted channel costs the connection, and the request is sent again", async () => {
  await using behind = await Behind.open();
  const data = pattern(200_000);
  behind.disk.write(0, data);
  let armed = false;
  using middleman = new Middleman(behind.listener.port!, (from, bytes) => {
    if (armed && from === "client" && bytes.length > 1000) {
      bytes[500] ^= 1;
      armed = false;
    }
    return bytes;
  });
  const disk = await behind.connect(behind.uri(undefined, middleman.listener.port));
  const connections = middleman.count;
  assertEquals(await readDisk(disk, 0, data.length), data);
  armed = true;
  const changed = pattern(100_000).reverse();
  await disk.write(0, changed);
  assertEquals(armed, false);
  assert(middleman.count > connections, "the damaged connection was used on");
  data.set(changed);
  assertEquals(await readDisk(behind.disk, 0, data.length), data);
  await disk.close();
});

/** Where a bit is flipped: by whom the bytes are, and which of a request's or an answer's first bytes it is. */
const flips: Record<string, readonly ["client" | "server", number]> = {
  "the header of a frame with a request": ["client", 1],
  "the header of a request": ["client", 30],
  "the payload of a write": ["client", 5000],
  "the header of a frame with an answer": ["server", 1],
  "the acknowledgement of a write": ["server", 20],
  "the data of a read": ["server", 5000],
};

for (const protection of ["noise", "crc"] as const) {
  for (const [where, [direction, index]] of Object.entries(flips)) {
    Deno.test(`V36: a bit flipped in ${where} is never delivered, and the request still completes: nbd+${protection}`, async () => {
      await using behind = await Behind.open("write", "prefer");
      let armed = false;
      let flipped = 0;
      using middleman = new Middleman(behind.listener.port!, (from, bytes) => {
        if (!armed || from !== direction || index >= bytes.length) return bytes;
        armed = false;
        flipped++;
        bytes[index] ^= 0x20;
        return bytes;
      });
      const { port } = middleman.listener;
      const disk = await behind.connect(
        protection === "noise" ? behind.uri(undefined, port) : `nbd+crc://127.0.0.1:${port}/disk`,
      );
      const data = pattern(8192);
      await disk.write(0, data);
      armed = true;
      const changed = data.toReversed();
      const reads = where.includes("read");
      if (!reads) await disk.write(0, changed);
      assertEquals(await readDisk(disk, 0, 8192), reads ? data : changed);
      assertEquals(await readDisk(behind.disk, 0, 8192), reads ? data : changed);
      assertEquals(flipped, 1);
      assertEquals(middleman.count, 2, "the damaged connection is not used on");
      await disk.close();
    });
  }
}

const modes: [EncryptionMode, "noise" | "crc", "noise" | "checksum" | RegExp][] = [
  ["require", "noise", "noise"],
  ["require", "crc", /it asks for encryption, and checksums alone were offered/],
  ["prefer", "noise", "noise"],
  ["prefer", "crc", "checksum"],
  ["off", "noise", /it has no key; it offers checksums only/],
  ["off", "crc", "checksum"],
];

for (const [server, client, outcome] of modes) {
  Deno.test(`V37: a server with encryption ${server} and a client with nbd+${client}: ${outcome}`, async () => {
    await using behind = await Behind.open("write", server);
    const uri = client === "noise" ? behind.uri() : `nbd+crc://127.0.0.1:${behind.listener.port}/disk`;
    if (outcome instanceof RegExp) {
      const error = await assertRejects(() => behind.connect(uri), OpenError);
      assertMatch(error.message, outcome);
      return;
    }
    const disk = await behind.connect(uri);
    await disk.write(0, pattern(4096));
    assertEquals(await readDisk(disk, 0, 4096), pattern(4096));
    const [{ peer }] = behind.served.server.clients();
    assertEquals(peer.key !== undefined, outcome === "noise");
    await disk.close();
  });
}

/** The link that a disk's requests go through, with what it has counted. */
async function openCounted(port: number, deadlineMs?: number) {
  const place = { transport: "tcp", host: "127.0.0.1", port } as const;
  const open = async (signal?: AbortSignal) =>
    await openSecureConnection(await dial(place, { signal }), { signal });
  const wishes = { exportName: "disk", contexts: ["base:allocation"] };
  const link = new SurvivingLink([await openConnection(open, wishes)], { dial: open, wishes, deadlineMs });
  return { link, disk: new NbdDisk(link) };
}

Deno.test("V42: with checksums, an answer flipped once is counted and asked for again, and comes right", async () => {
  await using behind = await Behind.open("write", "prefer");
  behind.disk.write(0, pattern(8192));
  let armed = false;
  using middleman = new Middleman(behind.listener.port!, (from, bytes) => {
    if (armed && from === "server" && bytes.length > 5000) {
      bytes[5000] ^= 1;
      armed = false;
    }
    return bytes;
  });
  const { link, disk } = await openCounted(middleman.listener.port!);
  armed = true;
  assertEquals(await readDisk(disk, 0, 8192), pattern(8192));
  assertEquals([armed, link.status.reconnects, link.status.resent], [false, 1, 1]);
  await disk.close();
});

Deno.test("V42: with checksums, an answer that is always flipped is one failure after the deadline", async () => {
  await using behind = await Behind.open("write", "prefer");
  behind.disk.write(0, pattern(8192));
  let armed = false;
  using middleman = new Middleman(behind.listener.port!, (from, bytes) => {
    if (armed && from === "server" && bytes.length > 5000) bytes[5000] ^= 1;
    return bytes;
  });
  const { link, disk } = await openCounted(middleman.listener.port!, 1500);
  armed = true;
  const error = await assertRejects(() => readDisk(disk, 0, 8192), DeviceError);
  assertEquals(error.errno, "ETIMEDOUT");
  assert(link.status.reconnects >= 1);
  armed = false;
  assertEquals(await readDisk(disk, 0, 8192), pattern(8192));
  await disk.close();
});

Deno.test("what a key gives holds: nothing, read, write", async () => {
  for (const rights of ["unknown", "none"] as const) {
    await using behind = await Behind.open(rights);
    const error = await assertRejects(() => behind.connect(), OpenError);
    assertStringIncludes(
      error.message,
      rights === "none" ? "is authorised for none" : "not among the authorised",
    );
    assertEquals(behind.log.lines.length, 1);
    assertStringIncludes(behind.log.lines[0], behind.clientKey);
  }
  await using reading = await Behind.open("read");
  const disk = await reading.connect();
  assertEquals(disk.can.write, false);
  assertEquals(await readDisk(disk, 0, 10), new Uint8Array(10));
  await disk.close();
});

Deno.test("V38: a wrong key, ours or the server's, is one clear error, and one connection", async () => {
  await using behind = await Behind.open("unknown");
  using middleman = new Middleman(behind.listener.port!, (_from, bytes) => bytes);
  const { port } = middleman.listener;
  const ours = await assertRejects(() => behind.connect(behind.uri(undefined, port)), OpenError);
  assertStringIncludes(ours.message, `${behind.clientKey} is not among the authorised`);
  assertEquals([middleman.count, behind.log.lines.length], [1, 1]);
  const other = encodeURIComponent(new Uint8Array(32).fill(5).toBase64());
  const theirs = await assertRejects(() => behind.connect(behind.uri(`key=${other}`, port)), OpenError);
  assertStringIncludes(theirs.message, serverKey.publicKey.toBase64());
  assertEquals(middleman.count, 2);
});

Deno.test("a key that loses its rights ends its sessions", async () => {
  await using behind = await Behind.open();
  // The disk would come back; it is not let in until its request has waited for so long.
  const disk = await behind.connect(undefined, undefined, undefined, 200);
  behind.keys.replace([]);
  behind.served.server.reconsider();
  await assertRejects(async () => await disk.read(0, new Uint8Array(10)), DeviceError);
  await disk.close();
  await assertRejects(() => behind.connect(), OpenError, "not among the authorised peers");
});

Deno.test("a server is remembered at the first contact, and refused when its key has changed", async () => {
  await using behind = await Behind.open();
  const file = behind.directory.file("new/known_servers");
  const environment = { DENBD_KNOWN_SERVERS: file };
  const log = new CollectedLog();
  await (await behind.connect(behind.uri(""), environment, log)).close();
  const server = `127.0.0.1:${behind.listener.port}`;
  const line = `${server} ${formatKey("public", serverKey.publicKey)}\n`;
  assertEquals(Deno.readTextFileSync(file), line);
  assertEquals(Deno.statSync(file).mode! & 0o777, 0o600);
  assertEquals(log.lines.length, 1);
  await (await behind.connect(behind.uri(""), environment, log)).close();
  assertEquals(Deno.readTextFileSync(file), line);
  assertEquals(log.lines.length, 1);

  Deno.writeTextFileSync(file, `# other\n${server} ${formatKey("public", generateKey())}\n`);
  const error = await assertRejects(() => behind.connect(behind.uri(""), environment), OpenError);
  assertStringIncludes(error.message, `the key of ${server} has changed`);
  assertStringIncludes(error.message, `${file}:2`);
  const other = `key=${encodeURIComponent(generateKey().toBase64())}`;
  await assertRejects(() => behind.connect(behind.uri(other)), OpenError, "it is another server");
});

Deno.test("a server is remembered in a line of its own, whatever the file ends with", async () => {
  await using behind = await Behind.open();
  const file = behind.directory.file("known_servers");
  const server = `127.0.0.1:${behind.listener.port}`;
  const line = `${server} ${formatKey("public", serverKey.publicKey)}\n`;
  Deno.writeTextFileSync(file, "# my servers");
  await (await behind.connect(behind.uri(""), { DENBD_KNOWN_SERVERS: file })).close();
  assertEquals(Deno.readTextFileSync(file), `# my servers\n${line}`);
});

Deno.test("a client without a key, or with nowhere to remember the server's, is told what to do", async () => {
  await using behind = await Behind.open();
  const plain = `nbd+noise://127.0.0.1:${behind.listener.port}/disk`;
  await assertRejects(() => behind.connect(plain), OpenError, "give identity= in the URI, or set DENBD_KEY");
  const home = { HOME: behind.directory.file("home") };
  await assertRejects(() => behind.connect(plain, home), OpenError, "denbd keygen makes one");
  await assertRejects(() => behind.connect(behind.uri("")), OpenError, "nowhere to remember it: give key=");
  const variable = {
    DENBD_KEY: behind.directory.file("key"),
    DENBD_KNOWN_SERVERS: behind.directory.file("known"),
  };
  await (await behind.connect(plain, variable)).close();
});

Deno.test("whoever has the wrong port finds out at once", async () => {
  await using behind = await Behind.open();
  const { port } = behind.listener;
  await assertRejects(
    () => openDisk(parseDiskLocator(`nbd://127.0.0.1:${port}/disk`)),
    OpenError,
    "not an NBD server",
  );
  const garbage = await dial({ transport: "tcp", host: "127.0.0.1", port: port! });
  await garbage.write(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"));
  const answer = new Uint8Array(100);
  assertEquals(await garbage.read(answer), 16);
  assertEquals(await garbage.read(answer), null);
  garbage.close();
  assertEquals(behind.log.lines.length, 1, "one address is heard of once a minute");
});

Deno.test("strangers that never finish their handshake make room for others, the oldest first", async () => {
  await using behind = await Behind.open();
  const { port } = behind.listener;
  const strangers: Connection[] = [];
  for (let count = 0; count < 32; count++) {
    const stranger = await dial({ transport: "tcp", host: "127.0.0.1", port: port! });
    assertEquals(await stranger.read(new Uint8Array(16)), 16);
    strangers.push(stranger);
  }
  await (await behind.connect()).close();
  assertEquals(await strangers[0].read(new Uint8Array(8)), null);
  assertStringIncludes(behind.log.lines.join(), "32 handshakes of its address are under way");
  for (const stranger of strangers) stranger.close();
});
