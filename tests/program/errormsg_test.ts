/** `denbd errormsg`: S12 of dnbd3's server, `--errormsg`. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { denbd, start } from "./program.ts";

const REPLY =
  "HTTP/1.1 200 Somewhat OK\r\nConnection: Close\r\nContent-Type: application/json; charset=utf-8\r\n" +
  `Content-Length: 28\r\n\r\n{"errorMsg": "Back at nine"}`;

/** What a server says to these bytes. */
async function answerTo(port: number, bytes: Uint8Array): Promise<string> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  for (let sent = 0; sent < bytes.length;) sent += await connection.write(bytes.subarray(sent));
  const into = new Uint8Array(REPLY.length);
  for (let length = 0; length < into.length;) {
    const count = await connection.read(into.subarray(length));
    if (count === null) return new TextDecoder().decode(into.subarray(0, length));
    length += count;
  }
  return new TextDecoder().decode(into);
}

Deno.test("S12: errormsg answers every connection alike, whatever it sends, and SIGTERM ends it", async () => {
  await using server = await start([
    "errormsg",
    "--verbose",
    "--addr",
    "127.0.0.1",
    "--port",
    "0",
    "Back at nine",
  ]);
  const [, port] = await server.logged(/answering on 127\.0\.0\.1:(\d+)/);
  const http = new TextEncoder().encode("GET /query?q=stats HTTP/1.1\r\nHost: x\r\n\r\n");
  for (const bytes of [http, new Uint8Array(), new Uint8Array(300_000).fill(0x73)]) {
    assertEquals(await answerTo(Number(port), bytes), REPLY);
  }
  // One that neither leaves nor says anything holds nobody up.
  using _silent = await Deno.connect({ hostname: "127.0.0.1", port: Number(port) });
  assertEquals(await answerTo(Number(port), http), REPLY);
  const { stderr } = await denbd(["errormsg", "--addr", "127.0.0.1", "--port", port, "x"], { code: 1 });
  assertStringIncludes(stderr, `cannot listen on 127.0.0.1:${port}: `);
  assertEquals(await server.stop(), 0);
});
