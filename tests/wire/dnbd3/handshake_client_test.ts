import { assertEquals, assertThrows } from "@std/assert";
import type { Conversation } from "../../../src/wire/conversation.ts";
import {
  getBlock,
  getChecksums,
  selectImage,
  selectSameImage,
} from "../../../src/wire/dnbd3/handshake_client.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { bytes } from "../../testing/hex.ts";
import { carry, ScriptEndedError } from "../../testing/carry.ts";
import * as vectors from "./vectors.ts";

const NOTHING = new Uint8Array(0);

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

const test = { version: 3, name: "test", revision: 1, sizeBytes: vectors.TEST_BYTES };

pure("V1: selectImage() speaks the recorded selection", () => {
  const { client, server } = vectors.SELECT_TEST;
  const selection = { version: 3, name: "test", revision: 1, flags: 0 };
  assertEquals(carry(selectImage(selection), server), { result: test, sent: client, rest: NOTHING });
});

pure("V2: selectImage() takes what the server calls the newest revision", () => {
  const { client, server } = vectors.SELECT_MULTI_NEWEST_VERSION_2;
  assertEquals(carry(selectImage({ version: 2, name: "multi", revision: 0, flags: 0 }), server), {
    result: { version: 2, name: "multi", revision: 7, sizeBytes: 12288 },
    sent: client,
    rest: NOTHING,
  });
});

pure("selectImage() refuses another revision, another command and a long answer", () => {
  const { server } = vectors.SELECT_TEST;
  const wanted = (revision: number) => selectImage({ version: 3, name: "test", revision, flags: 0 });
  assertThrows(() => carry(wanted(2), server), WireError, "revision 1 where 2 was selected");
  const wrongCommand = server.slice();
  wrongCommand[2] = 1;
  assertThrows(() => carry(wanted(1), wrongCommand), WireError, "reply to command 1 instead of 2");
  const long = server.slice();
  long.set([0xff, 0xff, 0xff, 0xff], 4);
  assertThrows(() => carry(wanted(1), long), WireError, "selected image of 4294967295 bytes");
});

pure("selectSameImage() refuses another name and another size", () => {
  const { server } = vectors.SELECT_TEST;
  assertEquals(carry(selectSameImage(test, 3), server).result, test);
  assertThrows(
    () => carry(selectSameImage({ ...test, name: "tess" }, 3), server),
    WireError,
    '"test" instead',
  );
  assertThrows(
    () => carry(selectSameImage({ ...test, sizeBytes: 8192 }, 3), server),
    WireError,
    "8192 were known",
  );
});

pure("V11: getChecksums() speaks the recorded question", () => {
  const { client, server } = vectors.CHECKSUMS_OF_TEST;
  const { result, sent } = carry(getChecksums(vectors.TEST_BYTES), server);
  assertEquals([result?.checksums.length, sent], [4, client]);
});

pure("getChecksums() says null where the server has no list, and refuses a list of another size", () => {
  const none = bytes("73 72 08 00 00000000 a1a2a3a4a5a6a7a8");
  assertEquals(carry(getChecksums(vectors.TEST_BYTES), none).result, null);
  const { server } = vectors.CHECKSUMS_OF_TEST;
  assertThrows(() => carry(getChecksums(vectors.ODD_BYTES), server), WireError, "checksum list of 20 bytes");
});

pure("getChecksums() refuses a list that would fill the memory before it awaits it", () => {
  const header = bytes("73 72 08 00 04 00 00 04 a1a2a3a4a5a6a7a8");
  const imageBytes = 2 ** 24 * 2 ** 24;
  assertThrows(() => carry(getChecksums(imageBytes), header), WireError, "checksum list of 67108868 bytes");
});

pure("getBlock() asks with handle 0 and refuses ERROR, another size and another handle", () => {
  const request = { offset: 0, sizeBytes: 4, hops: 1 };
  const answer = bytes("73 72 01 00 04 00 00 00 0000000000000000 01 02 03 04");
  assertEquals(carry(getBlock(request), answer), {
    result: Uint8Array.of(1, 2, 3, 4),
    sent: bytes("73 72 01 00 04 00 00 00 00 00 00 00 00 00 00 01 0000000000000000"),
    rest: NOTHING,
  });
  const corrupt = (at: number) => {
    const bytes = answer.slice();
    bytes[at] ^= 4;
    return bytes;
  };
  assertThrows(() => carry(getBlock(request), corrupt(2)), WireError, "reply to command 5");
  assertThrows(() => carry(getBlock(request), corrupt(4)), WireError, "block of 0 bytes where 4");
  assertThrows(() => carry(getBlock(request), corrupt(9)), WireError, "block of 4 bytes");
});

pure("every conversation waits for the rest of an answer cut anywhere", () => {
  const wanted = { version: 3, name: "test", revision: 1, flags: 0 };
  const cases: [() => Conversation<unknown>, Uint8Array][] = [
    [() => selectImage(wanted), vectors.SELECT_TEST.server],
    [() => getChecksums(vectors.TEST_BYTES), vectors.CHECKSUMS_OF_TEST.server],
  ];
  for (const [start, server] of cases) {
    for (let length = 0; length < server.length; length++) {
      assertThrows(() => carry(start(), server.subarray(0, length)), ScriptEndedError);
    }
  }
});
