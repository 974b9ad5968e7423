import { assertEquals } from "@std/assert";
import type { Connection } from "../../src/net/connection.ts";
import { answerHttp, plainText } from "../../src/net/http_exchange.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { ManualClock } from "../testing/manual_clock.ts";

const pure = { permissions: "none" } as const;
const REQUEST = "GET /healthz HTTP/1.1\r\n\r\n";

function setUp(change: (connection: Connection) => Connection = (connection) => connection) {
  const [here, there] = connectionPair();
  const clock = new ManualClock();
  const answered = answerHttp(change(there), { clock, timeoutMs: 1000 }, () => plainText("200 OK", "fine\n"))
    .catch((error) => error.message);
  const send = (text: string) => here.write(new TextEncoder().encode(text));
  /** As much of an answer as comes at once. */
  const receive = async () => {
    const bytes = new Uint8Array(4096);
    const count = await here.read(bytes);
    return count === null ? null : new TextDecoder().decode(bytes.subarray(0, count));
  };
  return { clock, answered, send, receive };
}

Deno.test("requests are answered one after the other, however they are cut", pure, async () => {
  const { answered, send, receive } = setUp();
  for (const part of [REQUEST + REQUEST.slice(0, 9), REQUEST.slice(9)]) {
    await send(part);
    assertEquals((await receive())?.slice(0, 15), "HTTP/1.1 200 OK");
  }
  await send("nonsense\r\n\r\n");
  assertEquals((await receive())?.slice(9, 24), "400 Bad Request");
  assertEquals(await answered, undefined);
});

Deno.test("a client that dribbles has no more time than one that is silent", pure, async () => {
  const { clock, answered, send, receive } = setUp();
  await send(REQUEST);
  await receive();
  for (const letter of "GET /health") {
    await send(letter);
    await new Promise((resolve) => queueMicrotask(() => resolve(null)));
    clock.advance(100);
  }
  assertEquals([await receive(), await answered], [null, undefined]);
});

Deno.test("a client that does not take its answer is cut off", pure, async () => {
  const asked = Promise.withResolvers<void>();
  const { clock, answered, send } = setUp((connection) => {
    const stuck = Promise.withResolvers<void>();
    return Object.assign(Object.create(connection), {
      read: (into: Uint8Array) => connection.read(into),
      write: () => (asked.resolve(), stuck.promise),
      close: () => (connection.close(), stuck.reject(new Error("closed"))),
    });
  });
  await send(REQUEST);
  await asked.promise;
  clock.advance(1000);
  assertEquals(await answered, "closed");
});
