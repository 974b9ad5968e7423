/** Clients that behave badly, networks that are slow, and filters of nbdkit between a client and us. */

import { assert, assertEquals } from "@std/assert";
import { converse } from "../../src/net/converse.ts";
import { dial } from "../../src/net/dial.ts";
import { negotiateClient } from "../../src/wire/nbd/handshake_client.ts";
import { Command } from "../../src/wire/nbd/constants.ts";
import { encodeRequest } from "../../src/wire/nbd/transmission.ts";
import { randomFrom } from "../testing/random.ts";
import { run, temporaryDirectory } from "../testing/process.ts";
import { type RunningServer, serve } from "../program/program.ts";
import { peerTest, startNbdkit } from "./peers.ts";

const MiB = 1 << 20;

/** Resident memory of a process and its open descriptors. */
async function costs(server: RunningServer): Promise<{ residentBytes: number; descriptors: number }> {
  const status = (await run("cat", [`/proc/${server.pid}/status`])).stdout;
  const descriptors = (await run("ls", [`/proc/${server.pid}/fd`])).stdout.trim().split("\n").length;
  return { residentBytes: Number(/VmRSS:\s+(\d+)/.exec(status)![1]) * 1024, descriptors };
}

peerTest("200 clients that queue reads and vanish leave nothing behind", ["nbdinfo"], async () => {
  using directory = temporaryDirectory();
  const path = directory.file("image");
  Deno.writeFileSync(path, new Uint8Array(16 * MiB).fill(1));
  await using server = await serve(["--file", path]);
  await run("nbdinfo", ["--size", server.uri()]);
  const before = await costs(server);
  const random = randomFrom();
  for (let client = 0; client < 200; client++) {
    const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: server.port });
    await converse(negotiateClient({ exportName: "", contexts: [] }), connection);
    const count = 1 + random.below(64);
    const requests = new Uint8Array(28 * count);
    const view = new DataView(requests.buffer);
    for (let index = 0; index < count; index++) {
      const offset = random.below(60) * 256 * 1024;
      encodeRequest(view, 28 * index, false, {
        flags: 0,
        type: Command.READ,
        cookie: BigInt(index),
        offset,
        length: 256 * 1024,
      });
    }
    await connection.write(requests);
    // Unread replies make the system send a reset.
    connection.close();
  }
  await run("nbdinfo", ["--size", server.uri()]);
  // The last of them are still noticing that nobody is there.
  let after = await costs(server);
  for (let attempt = 0; after.descriptors > before.descriptors && attempt < 100; attempt++) {
    await run("nbdinfo", ["--size", server.uri()]);
    after = await costs(server);
  }
  assertEquals(after.descriptors, before.descriptors);
  const grownBytes = after.residentBytes - before.residentBytes;
  assert(grownBytes < 100 * MiB, `seed ${random.seed}: ${grownBytes} bytes more after 200 clients`);
  assertEquals(await server.stop(), 0);
});

const filters: { name: string; args: string[]; fails: boolean }[] = [
  { name: "log", args: ["--filter=log"], fails: false },
  { name: "delay", args: ["--filter=delay"], fails: false },
  { name: "blocksize-policy", args: ["--filter=blocksize-policy"], fails: false },
  { name: "error", args: ["--filter=error"], fails: true },
];

const settings: Record<string, string[]> = {
  delay: ["rdelay=1ms", "wdelay=1ms"],
  "blocksize-policy": ["blocksize-minimum=512", "blocksize-maximum=1M", "blocksize-error-policy=error"],
  error: ["error-rate=5%"],
};

for (const { name, args, fails } of filters) {
  peerTest(`nbdkit's ${name} filter between a client and us shows no protocol fault`, [
    "nbdkit",
    "fio",
    "nbdinfo",
  ], async () => {
    using directory = temporaryDirectory();
    const path = directory.file("image");
    Deno.writeFileSync(path, new Uint8Array(8 * MiB));
    await using server = await serve(["--file", path]);
    const log = directory.file("log");
    const own = name === "log" ? [`logfile=${log}`] : settings[name];
    await using proxy = await startNbdkit([...args, "nbd", `uri=${server.uri()}`, ...own]);
    const { code } = await run("fio", [
      "--name=through",
      "--ioengine=nbd",
      `--uri=${proxy.uri}`,
      "--rw=randrw",
      "--bs=4k",
      "--iodepth=8",
      "--size=2M",
      "--verify=crc32c",
      "--do_verify=1",
      "--verify_state_save=0",
    ], { code: "any" });
    assertEquals(code !== 0, fails);
    await proxy.stop();
    // Whatever it met, our side of the conversation ended in order.
    const [, ending] = await server.logged(/ left "" after [\d.]+ s: ([^;]*);/);
    assert(/disconnected|closed/.test(ending), ending);
    await run("nbdinfo", ["--size", server.uri()]);
    if (name === "log") {
      const text = Deno.readTextFileSync(log);
      for (const request of ["Read", "Write"]) assert(text.includes(request), text.slice(0, 500));
      assert(!/return=-1/.test(text), "a request failed");
    }
  });
}

peerTest(
  "1000 idle clients cost little memory, and none of the others their connection",
  ["nbdinfo"],
  async () => {
    using directory = temporaryDirectory();
    const path = directory.file("image");
    Deno.writeFileSync(path, new Uint8Array(MiB));
    await using server = await serve(["--file", path]);
    const idle = [];
    try {
      for (let client = 0; client < 1000; client++) {
        const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: server.port });
        idle.push(connection);
        await converse(negotiateClient({ exportName: "", contexts: [] }), connection);
      }
      await run("nbdinfo", ["--size", server.uri()]);
      const { residentBytes, descriptors } = await costs(server);
      assert(descriptors > 1000);
      assert(residentBytes < 200 * MiB, `${residentBytes} bytes`);
    } finally {
      for (const connection of idle) connection.close();
    }
    assertEquals(await server.stop(), 0);
  },
);

peerTest(
  "a client that asks for 10,000 reads and takes no reply is stopped, not buffered for",
  ["nbdinfo"],
  async () => {
    using directory = temporaryDirectory();
    const path = directory.file("image");
    Deno.writeFileSync(path, new Uint8Array(2 * MiB).fill(1));
    await using server = await serve(["--file", path]);
    const greedy = await dial({ transport: "tcp", host: "127.0.0.1", port: server.port });
    try {
      await converse(negotiateClient({ exportName: "", contexts: [] }), greedy);
      // 20 GB of replies, if they were made.
      const requests = new Uint8Array(28 * 10_000);
      const view = new DataView(requests.buffer);
      for (let index = 0; index < 10_000; index++) {
        const request = { flags: 0, type: Command.READ, cookie: BigInt(index), offset: 0, length: 2 * MiB };
        encodeRequest(view, 28 * index, false, request);
      }
      const writing = Promise.resolve(greedy.write(requests)).catch(() => {});
      // Others are served meanwhile.
      for (let attempt = 0; attempt < 10; attempt++) await run("nbdinfo", ["--size", server.uri()]);
      const { residentBytes } = await costs(server);
      assert(residentBytes < 300 * MiB, `${residentBytes} bytes`);
      greedy.close();
      await writing;
    } finally {
      greedy.close();
    }
    assertEquals(await server.stop(), 0);
  },
);
