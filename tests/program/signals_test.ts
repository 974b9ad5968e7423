/** How a server ends, and what does not end it. */

import { assertEquals, assertRejects } from "@std/assert";
import { dial } from "../../src/net/dial.ts";
import { RawClient } from "../testing/raw_client.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { serve } from "./program.ts";

const sizeBytes = 1 << 20;

function makeImage(path: string): string {
  Deno.writeFileSync(path, new Uint8Array(sizeBytes));
  return path;
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch {
    return false;
  }
}

for (const signal of ["SIGTERM", "SIGINT", "SIGQUIT"] as const) {
  Deno.test(`${signal} ends a server with exit code 0 and removes its sockets`, async () => {
    using directory = temporaryDirectory();
    const [unix, control] = [directory.file("unix"), directory.file("control")];
    await using server = await serve([
      "--file",
      makeImage(directory.file("image")),
      "--unix",
      unix,
      "--sock",
      control,
    ]);
    assertEquals([await exists(unix), await exists(control)], [true, true]);
    assertEquals(await server.stop(signal), 0);
    assertEquals([await exists(unix), await exists(control)], [false, false]);
  });
}

Deno.test("a client's requests are answered before the server ends", async () => {
  using directory = temporaryDirectory();
  const image = makeImage(directory.file("image"));
  await using server = await serve(["--file", image]);
  const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: server.port });
  try {
    const client = await RawClient.open(connection);
    const data = new Uint8Array(4096).fill(7);
    const cookies = [];
    for (let offset = 0; offset < sizeBytes; offset += 4096) {
      cookies.push(await client.send({ type: 1, offset, length: 4096 }, data));
    }
    // The last write was received once an answer to something behind it is here.
    assertEquals((await client.ask({ type: 3 })).error, 0);
    server.signal("SIGTERM");
    for (const cookie of cookies) assertEquals((await client.answer(cookie)).error, 0);
    assertEquals(await client.receive(), null);
    assertEquals(await server.ended(), 0);
    assertEquals(Deno.readFileSync(image), new Uint8Array(sizeBytes).fill(7));
  } finally {
    connection.close();
  }
});

Deno.test("SIGUSR1 opens no debugger, SIGHUP and SIGPIPE do no harm", async () => {
  using directory = temporaryDirectory();
  await using server = await serve(["--file", makeImage(directory.file("image"))]);
  for (const signal of ["SIGUSR1", "SIGHUP", "SIGPIPE"] as const) {
    server.signal(signal);
    // A whole session goes by before anything is looked at.
    const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: server.port });
    const client = await RawClient.open(connection);
    assertEquals((await client.read(0, 512)).error, 0);
    connection.close();
  }
  await assertRejects(
    () => Deno.connect({ hostname: "127.0.0.1", port: 9229 }),
    Deno.errors.ConnectionRefused,
  );
  assertEquals(/debugger|inspector/i.test(server.log), false);
  assertEquals(await server.stop(), 0);
});
