import { assertEquals, assertThrows } from "@std/assert";
import { hearOpening } from "../../../src/wire/dnbd3/handshake_server.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { bytes } from "../../testing/hex.ts";
import { carry, ScriptEndedError } from "../../testing/carry.ts";
import * as vectors from "./vectors.ts";

const NOTHING = new Uint8Array(0);

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

pure("V2, V13: hearOpening() hears the recorded selections", () => {
  assertEquals(carry(hearOpening(), vectors.SELECT_MULTI_NEWEST_VERSION_2.client), {
    result: { kind: "selection", selection: { version: 2, name: "multi", revision: 0, flags: 0 } },
    sent: NOTHING,
    rest: NOTHING,
  });
  assertEquals(carry(hearOpening(), vectors.PROXY_START.select).result, {
    kind: "selection",
    selection: { version: 3, name: "test", revision: 0, flags: 3 },
  });
});

pure("hearOpening() leaves what follows the selection", () => {
  const both = Uint8Array.of(...vectors.SELECT_TEST.client, ...vectors.KEEPALIVE.client);
  assertEquals(carry(hearOpening(), both).rest, vectors.KEEPALIVE.client);
});

pure("hearOpening() waits for the rest of a selection cut anywhere", () => {
  for (let length = 0; length < vectors.SELECT_TEST.client.length; length++) {
    assertThrows(
      () => carry(hearOpening(), vectors.SELECT_TEST.client.subarray(0, length)),
      ScriptEndedError,
    );
  }
});

pure("hearOpening() knows an HTTP request by its first letter", () => {
  for (
    const method of [
      "GET /query?q=stats HTTP/1.1",
      "POST /query HTTP/1.1 more",
      "PUT /aaaaaaaaaaaaaaaaaaaaaa",
    ]
  ) {
    const head = new TextEncoder().encode(method).subarray(0, 24);
    assertEquals(carry(hearOpening(), head).result, { kind: "http", head });
  }
});

pure("hearOpening() refuses everything else", () => {
  const other = (start: string) => bytes(start + "00".repeat(24 - start.replaceAll(" ", "").length / 2));
  const refusals: [Uint8Array, string][] = [
    [other("72 73 02 00"), "first byte 0x72"],
    [other("48 45 41 44"), "first byte 0x48"],
    [other("43"), "first byte 0x43"],
    [other("73 00"), "first byte 0x73"],
    [vectors.BLOCK_ALIGNED.client, "command 1 before a selection"],
    [vectors.KEEPALIVE.client, "command 5 before a selection"],
    [other("73 72 02 00 00 00 00 00"), "selection of 0 bytes"],
    [other("73 72 02 00 02 00 00 00"), "selection of 2 bytes"],
    [other("73 72 02 00 e9 03 00 00"), "selection of 1001 bytes"],
    [other("73 72 02 00 ff ff ff ff"), "selection of 4294967295 bytes"],
  ];
  for (const [start, message] of refusals) {
    assertThrows(() => carry(hearOpening(), start), WireError, message);
  }
});

pure("hearOpening() survives every flipped bit of a selection", () => {
  for (let bit = 0; bit < vectors.SELECT_TEST.client.length * 8; bit++) {
    const corrupt = Uint8Array.of(...vectors.SELECT_TEST.client, ...new Uint8Array(1024));
    corrupt[bit >> 3] ^= 1 << (bit & 7);
    try {
      assertEquals(carry(hearOpening(), corrupt).result.kind, "selection");
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
    }
  }
});
