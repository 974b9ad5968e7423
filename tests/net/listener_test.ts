import { assert, assertEquals, assertRejects } from "@std/assert";
import { connect } from "node:net";
import { dial } from "../../src/net/dial.ts";
import { listenTcp, listenUnix } from "../../src/net/listener.ts";
import { temporaryDirectory } from "../testing/process.ts";

/** A socket file of a program that was killed. */
function leaveSocket(path: string): void {
  const passing = `${path}.left`;
  const listener = Deno.listen({ transport: "unix", path: passing });
  Deno.renameSync(passing, path);
  listener.close();
}

for (const before of ["nothing", "a dead socket"] as const) {
  Deno.test(`of many that listen on one path at the same time one has it, where there was ${before}`, async () => {
    using directory = temporaryDirectory();
    const path = directory.file("sock");
    for (let round = 0; round < 10; round++) {
      if (before === "a dead socket") leaveSocket(path);
      const tried = await Promise.allSettled(Array.from({ length: 5 }, () => listenUnix(path)));
      const won = tried.filter((each) => each.status === "fulfilled").map(({ value }) => value);
      assertEquals(won.length, 1);
      for (const each of tried) {
        if (each.status === "fulfilled") continue;
        assert(each.reason instanceof Deno.errors.AddrInUse);
        assertEquals(each.reason.message, `cannot listen on ${path}: another program does`);
      }
      // Who has it is there, and nothing else is.
      const accepting = won[0].accept();
      (await Deno.connect({ transport: "unix", path })).close();
      (await accepting)!.close();
      assertEquals([...Deno.readDirSync(directory.path)].map(({ name }) => name), ["sock"]);
      won[0].close();
      assertEquals([...Deno.readDirSync(directory.path)], []);
    }
  });
}

Deno.test("who listens says why he cannot, and leaves the directory to others", async () => {
  using directory = temporaryDirectory();
  const file = directory.file("file");
  Deno.writeTextFileSync(file, "mine");
  await assertRejects(() => listenUnix(file), Deno.errors.AddrInUse, "it exists and is no socket");
  await assertRejects(() => listenUnix(directory.file("none/sock")), Error, "there is no such directory");
  using other = Deno.openSync(directory.path);
  assert(other.tryLockSync(true));
});

/** Connects, and is gone before it is accepted. */
async function knockAndRun(port: number): Promise<void> {
  const socket = connect(port, "127.0.0.1");
  await new Promise<void>((resolve) => socket.once("connect", resolve));
  socket.resetAndDestroy();
  await new Promise<void>((resolve) => socket.once("close", () => resolve()));
}

Deno.test("who is behind many that were gone before they were accepted is accepted as if they had not been", async () => {
  const listener = listenTcp("127.0.0.1", 0);
  const port = listener.port!;
  for (let count = 0; count < 100; count++) await knockAndRun(port);
  assertEquals(listener.hasCaller!(), true);
  const client = await dial({ transport: "tcp", host: "127.0.0.1", port });
  let rests = 0;
  const { setTimeout } = globalThis;
  globalThis.setTimeout =
    ((done: () => void) => (rests++, queueMicrotask(done), 0)) as unknown as typeof setTimeout;
  try {
    (await listener.accept())!.close();
  } finally {
    globalThis.setTimeout = setTimeout;
  }
  assertEquals(rests, 2);
  assertEquals(listener.hasCaller!(), false);
  client.close();
  listener.close();
});
