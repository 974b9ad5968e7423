/** TLS between our client and our server, with somebody in between who looks, alters and cuts. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { concat } from "@std/bytes";
import { parseDiskLocator } from "../../src/base/uri.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import type { Connection } from "../../src/net/connection.ts";
import { converse } from "../../src/net/converse.ts";
import { dial } from "../../src/net/dial.ts";
import { openDisk } from "../../src/open_disk.ts";
import { need, send } from "../../src/wire/conversation.ts";
import { Option } from "../../src/wire/nbd/constants.ts";
import { encodeInfoRequest, encodeOption } from "../../src/wire/nbd/option.ts";
import { denbd, type RunningServer, serve } from "../program/program.ts";
import { Authority } from "../testing/certificates.ts";
import { Eavesdropper, Middleman } from "../testing/middleman.ts";
import { run, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { peerTest, until } from "./peers.ts";

const sizeBytes = 1 << 20;
const content = Uint8Array.from({ length: sizeBytes }, (_, index) => index * 29 + (index >> 7));

interface World extends AsyncDisposable {
  readonly directory: TemporaryDirectory;
  readonly image: string;
  readonly server: RunningServer;
  /** What a client knows that trusts the server, and one that trusts somebody else. */
  readonly good: string;
  readonly other: string;
}

async function makeWorld(mode: "require" | "prefer"): Promise<World> {
  const directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, content);
  const authority = await Authority.create(directory.file("authority"));
  await authority.issue("server", { names: "DNS:localhost" });
  const other = await Authority.create(directory.file("other"));
  const server = await serve([
    ...["--file", `${image}`, "--tls", mode, "--tls-certificates", authority.path],
  ]);
  return {
    directory,
    image,
    server,
    good: authority.clientFiles("good", authority),
    other: authority.clientFiles("stranger", other),
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      directory[Symbol.dispose]();
    },
  };
}

async function readDisk(disk: BlockDevice, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await disk.read(offset, bytes);
  return bytes;
}

function* hello() {
  yield* need(18);
  yield* send(Uint8Array.of(0, 0, 0, 3));
}

/** What the server says to one option, in clear, until it closes. */
async function rawAnswer(connection: Connection, option: number, payload: Uint8Array): Promise<Uint8Array> {
  const { rest } = await converse(hello(), connection);
  await connection.write(encodeOption(option, payload));
  await connection.write(encodeOption(Option.ABORT));
  const parts: Uint8Array[] = [rest];
  const buffer = new Uint8Array(4096);
  for (let count; (count = await connection.read(buffer)) !== null;) parts.push(buffer.slice(0, count));
  connection.close();
  return concat(parts);
}

peerTest(
  "V34: where TLS is required, a client in clear is told nothing of any export; inside TLS tools are",
  [
    "openssl",
    "nbdinfo",
  ],
  async () => {
    await using world = await makeWorld("require");
    const { port } = world.server;
    const info = encodeInfoRequest({ exportName: "", types: [] });
    const options: [number, Uint8Array][] = [
      [Option.LIST, new Uint8Array()],
      [Option.INFO, info],
      [Option.GO, info],
      [Option.STRUCTURED_REPLY, new Uint8Array()],
      [Option.EXPORT_NAME, new Uint8Array()],
      [99, new Uint8Array()],
    ];
    for (const [option, payload] of options) {
      const answer = await rawAnswer(
        await dial({ transport: "tcp", host: "127.0.0.1", port }),
        option,
        payload,
      );
      if (option === Option.EXPORT_NAME) {
        assertEquals(answer.length, 0);
        continue;
      }
      const view = new DataView(answer.buffer, answer.byteOffset);
      // Magic, option, TLS_REQD, a text; then the ACK of the ABORT.
      assertEquals([view.getUint32(8), view.getUint32(12)], [option, 0x80000005]);
      assertEquals(answer.length, 20 + view.getUint32(16) + 20);
      assertMatch(new TextDecoder().decode(answer.subarray(20, 20 + view.getUint32(16))), /TLS/);
    }
    const size = ["--size", `nbds://localhost:${port}/?tls-certificates=${world.good}`];
    assertEquals(Number((await run("nbdinfo", size)).stdout), sizeBytes);
  },
);

peerTest(
  "V35: no 8 bytes of a text stand on the wire inside TLS, as they do outside",
  ["openssl"],
  async () => {
    await using world = await makeWorld("prefer");
    const sentence = "Pack my box with five dozen liquor jugs. ";
    const text = new TextEncoder().encode(sentence.repeat(2000));
    for (const tls of [true, false]) {
      using eavesdropper = new Eavesdropper(world.server.port);
      const { port } = eavesdropper.listener;
      const uri = tls
        ? `nbds://localhost:${port}/?tls-certificates=${world.good}`
        : `nbd://localhost:${port}/`;
      const disk = await openDisk(parseDiskLocator(uri));
      await disk.write(0, text);
      assertEquals(await readDisk(disk, 0, text.length), text);
      await disk.close();
      assert(eavesdropper.byteCount > 2 * text.length);
      assertEquals(eavesdropper.recognised(sentence) > 0, !tls);
    }
  },
);

peerTest(
  "V36: a bit flipped inside TLS is never delivered, and the request still completes",
  ["openssl"],
  async () => {
    await using world = await makeWorld("require");
    // A record begins with five bytes in clear; the type 0x17 becomes one that there is not.
    const flips = [["client", 0], ["client", 9], ["client", 5000], ["server", 0], ["server", 9], [
      "server",
      5000,
    ]] as const;
    for (const [direction, index] of flips) {
      let armed = false;
      using middleman = new Middleman(world.server.port, (from, bytes) => {
        if (!armed || from !== direction || index >= bytes.length) return bytes;
        armed = false;
        bytes[index] ^= 0x20;
        return bytes;
      });
      const uri = `nbds://localhost:${middleman.listener.port}/?tls-certificates=${world.good}`;
      const disk = await openDisk(parseDiskLocator(uri));
      const data = content.slice(index, index + 8192);
      armed = true;
      await disk.write(0, data);
      assertEquals(await readDisk(disk, 0, 8192), data);
      assertEquals(await readDisk(disk, 8192, 8192), content.slice(8192, 16384));
      assertEquals([armed, middleman.count], [false, 2], `${direction} ${index}`);
      assertEquals(Deno.readFileSync(world.image).subarray(0, 8192), data);
      await disk.close();
    }
  },
);

peerTest("V38: a wrong certificate is one clear error, and one connection", ["openssl"], async () => {
  await using world = await makeWorld("require");
  using middleman = new Middleman(world.server.port, (_from, bytes) => bytes);
  const { port } = middleman.listener;
  const cases: [string, RegExp][] = [
    [`nbds://localhost:${port}/?tls-certificates=${world.other}`, /signed by none of the authorities/],
    [`nbds://127.0.0.1:${port}/?tls-certificates=${world.good}`, /certificate is not for "127\.0\.0\.1"/],
  ];
  let connections = 0;
  for (const [uri, words] of cases) {
    for (const command of [["read", "--size", "512"], ["proxy", "--port", "0"]]) {
      const { code, bytes, stderr } = await denbd([...command, uri], { code: "any", timeoutSeconds: 20 });
      assertEquals([code, bytes.length, stderr.trim().split("\n").length], [1, 0, 1], stderr);
      assertMatch(stderr, words);
      assertEquals(middleman.count, ++connections);
    }
  }
});

/** What goes before TLS: greeting and answer to STARTTLS, and flags and STARTTLS. */
const CLEAR_BYTES = { server: 18 + 20, client: 4 + 16 };

/** The records that a stream of TLS consists of, by their types. */
function recordTypes(stream: Uint8Array, clearBytes: number): number[] {
  const types: number[] = [];
  for (let at = clearBytes; at + 5 <= stream.length;) {
    types.push(stream[at]);
    at += 5 + (stream[at + 3] << 8 | stream[at + 4]);
  }
  return types;
}

peerTest("TL-12: who leaves inside TLS says so, the server as well as the client", ["openssl"], async () => {
  await using world = await makeWorld("require");
  for (const leaver of ["client", "server"] as const) { // The server last: it ends.
    const streams = { client: [] as Uint8Array[], server: [] as Uint8Array[] };
    using middleman = new Middleman(world.server.port, (from, bytes) => {
      streams[from].push(bytes);
      return bytes;
    });
    const uri = `nbds://localhost:${middleman.listener.port}/?tls-certificates=${world.good}`;
    const disk = await openDisk(parseDiskLocator(uri));
    await readDisk(disk, 0, 4096);
    const before = recordTypes(concat(streams[leaver]), CLEAR_BYTES[leaver]).length;
    if (leaver === "client") await disk.close();
    else assertEquals(await world.server.stop(), 0);
    await until(() => middleman.ended > 0);
    // After the last data (a DISC, or nothing) one record more: the alert, which TLS 1.3 shows as data.
    const { length } = recordTypes(concat(streams[leaver]), CLEAR_BYTES[leaver]);
    assertEquals(length - before, leaver === "client" ? 2 : 1);
    const last = concat(streams[leaver]).subarray(-24);
    assertEquals([...last.subarray(0, 5)], [0x17, 3, 3, 0, 19], "two bytes, a type and a tag");
    if (leaver === "server") await disk.close();
  }
});

peerTest(
  "TL-12: a TLS stream that was cut short is no end: the client asks anew, the server takes no part of a write",
  [
    "openssl",
  ],
  async () => {
    await using world = await makeWorld("require");
    for (const cut of ["client", "server"] as const) {
      let armed = false;
      using middleman = new Middleman(world.server.port, (from, bytes) => {
        if (!armed || from !== cut || bytes.length < 4096) return bytes;
        armed = false;
        // The rest never comes.
        queueMicrotask(() => middleman.cut());
        return bytes.subarray(0, bytes.length - 100);
      });
      const uri = `nbds://localhost:${middleman.listener.port}/?tls-certificates=${world.good}`;
      const disk = await openDisk(parseDiskLocator(uri));
      armed = true;
      const seven = new Uint8Array(8192).fill(7);
      if (cut === "client") await disk.write(4096, seven);
      else assertEquals(await readDisk(disk, 4096, 8192), seven);
      assertEquals(Deno.readFileSync(world.image).slice(4096, 12288), seven);
      assertEquals([armed, middleman.count], [false, 2]);
      await disk.close();
    }
  },
);
