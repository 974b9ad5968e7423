import { assertEquals, assertThrows } from "@std/assert";
import { encodeHttpReply, formatJson, parseHttpRequest } from "../../../src/wire/dnbd3/http.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { bytes } from "../../testing/hex.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

const encode = (text: string) => new TextEncoder().encode(text);

const RECORDED = bytes(`47 45 54 20 2f 71 75 65 72 79 3f 71 3d 73 74 61 74 73 20 48 54 54 50 2f 31 2e 31 0d 0a
  48 6f 73 74 3a 20 64 6e 62 64 33 0d 0a 0d 0a`);

pure("V16, S10: the recorded request is understood", () => {
  assertEquals(parseHttpRequest(RECORDED), {
    path: "/query",
    fields: [["q", "stats"]],
    host: "dnbd3",
    closes: false,
    byteCount: RECORDED.length,
  });
});

pure("V16, S10: the recorded answer is what we send", () => {
  const body = encode(
    formatJson({
      bytesReceived: 0,
      bytesSent: 4116,
      clientCount: 0,
      serverCount: 0,
      uptime: 1,
      runId: 9192379519708035802n,
    }),
  );
  const reply = encodeHttpReply("200 OK", "application/json", body, true);
  assertEquals(reply.length, 229);
  assertEquals(
    new TextDecoder().decode(reply),
    "HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Type: application/json; charset=utf-8\r\n" +
      "Content-Length: 118\r\n\r\n" +
      '{"bytesReceived": 0, "bytesSent": 4116, "clientCount": 0, "serverCount": 0, "uptime": 1, ' +
      '"runId": 9192379519708035802}',
  );
});

pure("parseHttpRequest() wants more for every cut of a request", () => {
  for (let length = 0; length < RECORDED.length; length++) {
    assertEquals(parseHttpRequest(RECORDED.subarray(0, length)), null);
  }
});

pure("parseHttpRequest() leaves the next request, and sees who will not ask again", () => {
  const next = Uint8Array.of(...RECORDED, ...RECORDED);
  assertEquals(parseHttpRequest(next)?.byteCount, RECORDED.length);
  assertEquals(parseHttpRequest(encode("GET / HTTP/1.0\r\n\r\n"))?.closes, true);
  assertEquals(parseHttpRequest(encode("GET / HTTP/1.1\nconnection: CLOSE\n\n"))?.closes, true);
});

pure("parseHttpRequest() tells what the client takes the server for", () => {
  const host = (headers: string) => parseHttpRequest(encode(`GET / HTTP/1.1\r\n${headers}\r\n`))?.host;
  assertEquals(host("X: y\r\nhOST:  [::1]:80 \r\n"), "[::1]:80");
  assertEquals(host("Host:\r\n"), "");
  assertEquals(host("Hosts: x\r\n"), null);
});

pure("parseHttpRequest() decodes fields, ten at most", () => {
  const request = (query: string) => parseHttpRequest(encode(`POST /x?${query} HTTP/1.1\r\n\r\n`))?.fields;
  assertEquals(request("a=%41+b&c&%zz=1"), [["a", "A b"], ["c", ""], ["%zz", "1"]]);
  assertEquals(request("a=1&".repeat(20))?.length, 10);
});

pure("parseHttpRequest() refuses what is none, or too long", () => {
  for (
    const text of [
      "GET /x\r\n\r\n",
      "HEAD / HTTP/1.1\r\n\r\n",
      "GET / HTTP/2.0\r\n\r\n",
      "GET / HTTP/1.1\r\nno colon\r\n\r\n",
      "GET / HTTP/1.1\r\n" + "a:b\r\n".repeat(101) + "\r\n",
      "GET /" + "x".repeat(3000),
    ]
  ) {
    assertThrows(() => parseHttpRequest(encode(text)), WireError);
  }
});

pure("formatJson() writes blanks behind commas and colons, and whole numbers of any size", () => {
  assertEquals(
    formatJson({ a: [1, "x\n", null], b: {}, c: [], d: true, e: -(2n ** 63n) }),
    '{"a": [1, "x\\n", null], "b": {}, "c": [], "d": true, "e": -9223372036854775808}',
  );
});
