/** Strangers by the thousands, in front of the program as its users have it. */
import { assert, assertEquals } from "@std/assert";
import { dial } from "../../src/net/dial.ts";
import { run, temporaryDirectory } from "../testing/process.ts";
import { RawClient } from "../testing/raw_client.ts";
import { serve, statusOf } from "./program.ts";

const MIB = 1024 * 1024;
const STRANGERS = 10_000;
/** They come again and again: memory is to level off. */
const WAVES = 2;

/** What strangers say: nothing, nonsense, half a word, and that 4 GiB will follow. */
const HELLOS: readonly Uint8Array<ArrayBuffer>[] = [
  new Uint8Array(),
  new TextEncoder().encode("GET / HTTP/1.1\r\nHost: disk\r\n\r\n"),
  Uint8Array.of(0, 0, 0),
  Uint8Array.of(
    0,
    0,
    0,
    1,
    ..."IHAVEOPT".split("").map((letter) => letter.charCodeAt(0)),
    0,
    0,
    0,
    7,
    255,
    255,
    255,
    255,
  ),
];

/** What the process has in memory. The runtime itself does not let a test look there. */
async function residentBytes(pid: number): Promise<number> {
  const { stdout } = await run("cat", [`/proc/${pid}/status`]);
  return Number(/VmRSS:\s+(\d+)/.exec(stdout)![1]) * 1024;
}

Deno.test("waves of 10,000 strangers that stay, lie or stop halfway cost little, and nobody else anything", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("disk.img");
  Deno.writeFileSync(image, crypto.getRandomValues(new Uint8Array(65536)));
  const sock = directory.file("control");
  await using server = await serve(["--file", image, "--handshake-timeout", "60s", "--sock", sock]);
  const { port } = server;
  const place = { transport: "tcp", host: "127.0.0.1", port } as const;
  const client = await RawClient.open(await dial(place));
  const before = (await client.read(0, 65536)).data;
  let reads = 0;
  let over = false;
  const reading = (async () => {
    while (!over) {
      assertEquals((await client.read(0, 65536)).data, before);
      reads++;
    }
  })();
  // Awaited below; but if something else fails first, that is what should be told.
  reading.catch(() => {});

  // All at the same time are in the air that the server lets stay; each is held until it ends it.
  const held = new Set<Promise<void>>();
  for (let count = 0; count < WAVES * STRANGERS; count++) {
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(HELLOS[count % HELLOS.length]).catch(() => 0);
    const ended = new Response(conn.readable).arrayBuffer().then(() => {}, () => {}).finally(() => {
      held.delete(ended);
    });
    held.add(ended);
    if (count % 1000 === 0) {
      // Somebody honest comes in between, from elsewhere.
      const honest = await RawClient.open(await dial(place, { bind: "127.0.0.2" }));
      assertEquals((await honest.read(0, 512)).data, before.subarray(0, 512));
      honest.connection.close();
    }
  }
  const resident = await residentBytes(server.pid);
  over = true;
  await reading;
  assert(reads > 0);
  assert(resident < 200 * MIB, `${resident} bytes resident`);
  const complaints = server.log.split("\n").filter((line) => /:W:.* refused: /.test(line));
  assert(complaints.length >= 1 && complaints.length <= 3, `${complaints.length} complaints`);
  // Each has come to nothing, stands in the handshake, or was turned away.
  const [{ door, inVain, turnedAway }] = (await statusOf(sock)).strangers;
  assertEquals(door, "nbd");
  const known = inVain + turnedAway;
  assert(known >= WAVES * STRANGERS - 1024 && known <= WAVES * STRANGERS, `${inVain} and ${turnedAway}`);
  client.connection.close();
  assertEquals(await server.stop(), 0);
  await Promise.all(held);
});
