import { assertEquals, assertThrows } from "@std/assert";
import { crc32 } from "node:zlib";
import { Command, Hops, PAYLOAD_BYTES_MAX, SelectFlag } from "../../../src/wire/dnbd3/constants.ts";
import {
  answeredVersion,
  decodeReply,
  decodeRequest,
  decodeSelectedImage,
  decodeSelection,
  decodeServers,
  encodeReply,
  encodeRequest,
  encodeSelectedImage,
  encodeSelection,
  encodeServers,
  hashBlockCount,
  type Reply,
  type Request,
  type SelectedImage,
  type Selection,
  virtualSize,
} from "../../../src/wire/dnbd3/message.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { bytes, viewOf } from "../../testing/hex.ts";
import * as vectors from "./vectors.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

const selections: [string, string, { client: Uint8Array; server: Uint8Array }, Selection, SelectedImage][] = [
  [
    "V1",
    "an exact revision",
    vectors.SELECT_TEST,
    { version: 3, name: "test", revision: 1, flags: 0 },
    { version: 3, name: "test", revision: 1, sizeBytes: vectors.TEST_BYTES },
  ],
  [
    "V2",
    "the newest revision by a client of version 2",
    vectors.SELECT_MULTI_NEWEST_VERSION_2,
    { version: 2, name: "multi", revision: 0, flags: 0 },
    { version: 2, name: "multi", revision: 7, sizeBytes: 12288 },
  ],
  [
    "V3",
    "an image whose file is no whole number of blocks",
    vectors.SELECT_ODD_NEWEST,
    { version: 3, name: "sub/odd", revision: 0, flags: 0 },
    { version: 3, name: "sub/odd", revision: 3, sizeBytes: vectors.ODD_BYTES },
  ],
];

for (const [vector, what, { client, server }, selection, image] of selections) {
  pure(`${vector}: the recorded selection of ${what} is what we send and understand`, () => {
    assertEquals(encodeSelection(selection), client);
    assertEquals(decodeRequest(viewOf(client)), {
      command: Command.SelectImage,
      sizeBytes: client.length - 24,
      offset: 0,
      hops: 0,
      handle: 0n,
    });
    assertEquals(decodeSelection(client.subarray(24)), selection);
    assertEquals(encodeSelectedImage(image), server);
    assertEquals(decodeReply(viewOf(server)), {
      command: Command.SelectImage,
      sizeBytes: server.length - 16,
      handle: 0n,
    });
    assertEquals(decodeSelectedImage(server.subarray(16)), image);
  });
}

pure("V13: the recorded selection of a copying proxy carries both flags", () => {
  const selection = {
    version: 3,
    name: "test",
    revision: 0,
    flags: SelectFlag.Server | SelectFlag.Replication,
  };
  assertEquals(encodeSelection(selection), vectors.PROXY_START.select);
  assertEquals(decodeSelection(vectors.PROXY_START.select.subarray(24)), selection);
});

const requests: [string, string, Uint8Array, Request][] = [
  ["V5", "an aligned block", vectors.BLOCK_ALIGNED.client, {
    command: Command.GetBlock,
    sizeBytes: 4096,
    offset: 8192,
    hops: 0,
    handle: 0x8877665544332211n,
  }],
  ["V6", "an unaligned block with hops", vectors.BLOCK_UNALIGNED.client, {
    command: Command.GetBlock,
    sizeBytes: 20,
    offset: 12345,
    hops: 5,
    handle: 0xa8a7a6a5a4a3a2a1n,
  }],
  ["V7", "a block at the end", vectors.BLOCK_AT_END.client, {
    command: Command.GetBlock,
    sizeBytes: 4096,
    offset: vectors.TEST_BYTES,
    hops: 0,
    handle: 0xaan,
  }],
  ["V7", "a block across the end", vectors.BLOCK_ACROSS_END.client, {
    command: Command.GetBlock,
    sizeBytes: 8192,
    offset: vectors.TEST_BYTES - 4096,
    hops: 0,
    handle: 0xbbn,
  }],
  ["V8", "an empty block", vectors.BLOCK_EMPTY.client, {
    command: Command.GetBlock,
    sizeBytes: 0,
    offset: 4096,
    hops: 0,
    handle: 0xccn,
  }],
  ["V10", "the servers", vectors.SERVERS.client, {
    command: Command.GetServers,
    sizeBytes: 0,
    offset: 0,
    hops: 0,
    handle: 0n,
  }],
  ["V11", "the checksums", vectors.CHECKSUMS_OF_TEST.client, {
    command: Command.GetChecksums,
    sizeBytes: 0,
    offset: 0,
    hops: 0,
    handle: 0n,
  }],
  ["V12", "a sign of life", vectors.KEEPALIVE.client, {
    command: Command.Keepalive,
    sizeBytes: 0,
    offset: 0,
    hops: 0,
    handle: 0x0807060504030201n,
  }],
  ["V13", "the first unit of a proxy's copy", vectors.PROXY_START.firstUnit, {
    command: Command.GetBlock,
    sizeBytes: 32768,
    offset: 0,
    hops: Hops.Replication | 1,
    handle: 2n,
  }],
  ["V13", "the second unit of a proxy's copy", vectors.PROXY_START.secondUnit, {
    command: Command.GetBlock,
    sizeBytes: 32768,
    offset: 32768,
    hops: Hops.Replication | 1,
    handle: 4n,
  }],
];

for (const [vector, what, bytes, request] of requests) {
  pure(`${vector}: the recorded request for ${what} is what we send and understand`, () => {
    assertEquals(encodeRequest(request), bytes);
    assertEquals(decodeRequest(viewOf(bytes)), request);
  });
}

const replies: [string, string, Uint8Array, Reply][] = [
  ["V5", "an aligned block", vectors.BLOCK_ALIGNED.serverHeader, {
    command: Command.GetBlock,
    sizeBytes: 4096,
    handle: 0x8877665544332211n,
  }],
  ["V6", "an unaligned block", vectors.BLOCK_UNALIGNED.server.subarray(0, 16), {
    command: Command.GetBlock,
    sizeBytes: 20,
    handle: 0xa8a7a6a5a4a3a2a1n,
  }],
  ["V7", "a block at the end", vectors.BLOCK_AT_END.server, {
    command: Command.Error,
    sizeBytes: 0,
    handle: 0xaan,
  }],
  ["V7", "a block across the end", vectors.BLOCK_ACROSS_END.server, {
    command: Command.Error,
    sizeBytes: 0,
    handle: 0xbbn,
  }],
  ["V8", "an empty block", vectors.BLOCK_EMPTY.server, {
    command: Command.GetBlock,
    sizeBytes: 0,
    handle: 0xccn,
  }],
  ["V12", "a sign of life", vectors.KEEPALIVE.server, {
    command: Command.Keepalive,
    sizeBytes: 0,
    handle: 0xa8a7a6a5a4a3a2a1n,
  }],
];

for (const [vector, what, bytes, reply] of replies) {
  pure(`${vector}: the recorded reply to ${what} is what we send and understand`, () => {
    const into = new Uint8Array(24);
    encodeReply(viewOf(into), 8, reply.command, reply.sizeBytes, reply.handle);
    assertEquals(into.subarray(8), bytes);
    assertEquals(decodeReply(viewOf(into), 8), reply);
    assertEquals(decodeReply(viewOf(bytes)), reply);
  });
}

pure("V5, V6, V9: the recorded payloads are the pattern of the recorded images", () => {
  const aligned = vectors.patternBytes(8192, 4096);
  assertEquals(aligned.subarray(0, 16), vectors.BLOCK_ALIGNED.payloadStart);
  assertEquals(crc32(aligned), vectors.BLOCK_ALIGNED.payloadCrc32);
  assertEquals(vectors.patternBytes(12345, 20), vectors.BLOCK_UNALIGNED.server.subarray(16));
  const last = vectors.patternBytes(20971520, 4096, vectors.ODD_FILE_BYTES);
  assertEquals(crc32(last), vectors.ODD_LAST_BLOCK_CRC32);
});

pure("V10: the recorded list of servers is what we send and understand", () => {
  const entries = [
    { address: Uint8Array.of(192, 0, 2, 10), port: 5003, failures: 0 },
    { address: Uint8Array.of(192, 0, 2, 20), port: 5010, failures: 0 },
    { address: bytes("20010db8000000000000000000000017"), port: 6000, failures: 0 },
  ];
  assertEquals(encodeServers(entries), vectors.SERVERS.server.subarray(16));
  assertEquals(decodeServers(vectors.SERVERS.server.subarray(16)), entries);
});

pure("decodeServers() leaves out empty entries, unknown families and port 0", () => {
  const bytes = encodeServers(Array.from({ length: 4 }, (_, index) => (
    { address: Uint8Array.of(10, 0, 0, index), port: index === 2 ? 0 : 5003, failures: index }
  )));
  bytes[18] = 0;
  bytes[20 + 18] = 3;
  assertEquals(decodeServers(bytes), [{ address: Uint8Array.of(10, 0, 0, 3), port: 5003, failures: 3 }]);
});

pure("decodeServers() refuses a size that is no number of entries, and too many", () => {
  for (const size of [1, 19, 21, PAYLOAD_BYTES_MAX + 20]) {
    assertThrows(() => decodeServers(new Uint8Array(size)), WireError, `server list of ${size} bytes`);
  }
  assertEquals(decodeServers(new Uint8Array()), []);
});

pure("decodeRequest() and decodeReply() refuse every wrong magic", () => {
  for (let bit = 0; bit < 16; bit++) {
    const request = vectors.BLOCK_ALIGNED.client.slice();
    request[bit >> 3] ^= 1 << (bit & 7);
    assertThrows(() => decodeRequest(viewOf(request)), WireError, "wrong magic");
    assertThrows(() => decodeReply(viewOf(request)), WireError, "wrong magic");
  }
  // A host of the other byte order that forgot to swap.
  assertThrows(
    () => decodeRequest(viewOf(Uint8Array.of(0x72, 0x73, ...new Uint8Array(22)))),
    WireError,
    "wrong magic 0x7372",
  );
});

pure("decodeRequest() reads offsets of 56 bits beside the hop byte", () => {
  const bytes = encodeRequest({ command: 1, sizeBytes: 1, offset: 2 ** 52 + 4097, hops: 0xff, handle: 0n });
  assertEquals(decodeRequest(viewOf(bytes)), {
    command: 1,
    sizeBytes: 1,
    offset: 2 ** 52 + 4097,
    hops: 0xff,
    handle: 0n,
  });
  bytes.fill(0xff, 8, 16);
  assertEquals(decodeRequest(viewOf(bytes)).offset, 2 ** 56);
});

pure("decodeSelection() forgives what servers in the field forgive", () => {
  const full = vectors.SELECT_TEST.client.subarray(24);
  const expected = { version: 3, name: "test", revision: 1, flags: 0 };
  assertEquals(decodeSelection(full.subarray(0, 9)), expected);
  assertEquals(decodeSelection(full.subarray(0, 8)), { ...expected, revision: 0 });
  assertEquals(decodeSelection(full.subarray(0, 7)), { ...expected, revision: 0 });
  assertEquals(decodeSelection(full.subarray(0, 6)), { ...expected, revision: 0 });
  assertEquals(decodeSelection(Uint8Array.of(...full, 1, 2, 3)), expected);
});

pure("decodeSelection() reads nothing behind a payload that is part of a larger buffer", () => {
  const buffer = Uint8Array.of(3, 0, 0x61, 0, 9, 9, 9, 9);
  assertEquals(decodeSelection(buffer.subarray(0, 4)), { version: 3, name: "a", revision: 0, flags: 0 });
});

pure("decodeSelection() takes every cut of a selection as a name cut short or refuses it", () => {
  const full = vectors.SELECT_ODD_NEWEST.client.subarray(24);
  for (let length = 0; length < full.length; length++) {
    const cut = full.subarray(0, length);
    if (length < 3) assertThrows(() => decodeSelection(cut), WireError);
    else assertEquals(decodeSelection(cut).name, "sub/odd".slice(0, length - 2));
  }
});

pure("decodeSelection() refuses old clients, empty names, broken UTF-8 and long payloads", () => {
  const refusals: [number[], string][] = [
    [[1, 0, 0x61, 0, 0, 0, 0], "client of protocol version 1"],
    [[0, 0, 0x61, 0, 0, 0, 0], "client of protocol version 0"],
    [[3, 0, 0, 0, 0, 0], "empty image name"],
    [[3, 0, 0xc3, 0x28, 0, 0, 0, 0], "not UTF-8"],
    [[3, 0], "selection of 2 bytes"],
    [[3, 0, ...new Uint8Array(999).fill(0x61)], "selection of 1001 bytes"],
  ];
  for (const [bytes, message] of refusals) {
    assertThrows(() => decodeSelection(Uint8Array.from(bytes)), WireError, message);
  }
});

pure("decodeSelectedImage() refuses every cut", () => {
  for (const { server } of [vectors.SELECT_TEST, vectors.SELECT_ODD_NEWEST]) {
    for (let length = 0; length < server.length - 16; length++) {
      assertThrows(() => decodeSelectedImage(server.subarray(16, 16 + length)), WireError);
    }
  }
});

pure("decodeSelectedImage() refuses what no image can have", () => {
  const refusals: [string, string][] = [
    ["01 00 61 00 01 00 00 10 00 00 00 00 00 00", "server of protocol version 1"],
    ["03 00 00 01 00 00 10 00 00 00 00 00 00", "empty image name"],
    ["03 00 61 00 00 00 00 10 00 00 00 00 00 00", "revision 0"],
    ["03 00 61 00 01 00 00 00 00 00 00 00 00 00", "selected image of 0 bytes"],
    ["03 00 61 00 01 00 00 00 00 00 00 00 20 00", "selected image of 9007199254740992 bytes"],
    ["03 00 61 00 01 00 ff ff ff ff ff ff ff ff", "selected image of 18446744073709551615 bytes"],
    ["03 00 ff 00 01 00 00 10 00 00 00 00 00 00", "not UTF-8"],
    ["03 00 61 61 61 61 61 61 61 61 61 61 61 61", "without its end"],
  ];
  for (const [payload, message] of refusals) {
    assertThrows(() => decodeSelectedImage(bytes(payload)), WireError, message);
  }
  assertThrows(() => decodeSelectedImage(new Uint8Array(1001)), WireError, "selected image of 1001 bytes");
});

pure("names of 994 bytes can be selected, of 987 answered, and no longer ones", () => {
  const image = (bytes: number) => ({ version: 3, name: "n".repeat(bytes), revision: 1, sizeBytes: 4096 });
  const longest = encodeSelection({ ...image(994), flags: 0 });
  assertEquals(decodeSelection(longest.subarray(24)).name.length, 994);
  assertThrows(() => encodeSelection({ ...image(995), flags: 0 }), RangeError, "too long");
  assertEquals(decodeSelectedImage(encodeSelectedImage(image(987)).subarray(16)).name.length, 987);
  assertThrows(() => encodeSelectedImage(image(988)), RangeError, "too long");
});

pure("names are UTF-8 and are counted in bytes", () => {
  const selection = { version: 3, name: "räume/süd 1", revision: 9, flags: 1 };
  const bytes = encodeSelection(selection);
  assertEquals(bytes.length, 24 + 2 + 13 + 1 + 3);
  assertEquals(decodeSelection(bytes.subarray(24)), selection);
  assertThrows(() => encodeSelection({ ...selection, name: "a\0b" }), RangeError, "impossible image name");
  assertThrows(() => encodeSelection({ ...selection, name: "" }), RangeError, "impossible image name");
});

pure("clients are answered with their own version up to ours", () => {
  assertEquals([2, 3, 4, 65535].map(answeredVersion), [2, 3, 3, 3]);
});

pure("sizes are rounded up to blocks and hash blocks", () => {
  assertEquals([1, 4096, 4097, vectors.ODD_FILE_BYTES].map(virtualSize), [
    4096,
    4096,
    8192,
    vectors.ODD_BYTES,
  ]);
  assertEquals([4096, 16777216, 16781312, vectors.TEST_BYTES].map(hashBlockCount), [1, 1, 2, 4]);
});

// Recorded bytes say it as well; these have another value in every byte, so that each has its one place.
pure("K5: numbers are little-endian on the wire whatever the host, but for the ports of servers", () => {
  const request = bytes("73 72 01 00  78 56 34 12  07 06 05 04 03 02 01 3b  88 77 66 55 44 33 22 11");
  const asked = {
    command: Command.GetBlock,
    sizeBytes: 0x12345678,
    offset: 0x01020304050607,
    hops: 0x3b,
    handle: 0x1122334455667788n,
  };
  assertEquals(encodeRequest(asked), request);
  assertEquals(decodeRequest(viewOf(request)), asked);
  const reply = bytes("73 72 01 00  78 56 34 12  88 77 66 55 44 33 22 11");
  const into = new Uint8Array(16);
  encodeReply(viewOf(into), 0, Command.GetBlock, 0x12345678, 0x1122334455667788n);
  assertEquals(into, reply);
  const image = bytes("03 00  61 00  34 12  00 60 05 04 03 02 01 00");
  const selected = { version: 3, name: "a", revision: 0x1234, sizeBytes: 0x01020304056000 };
  assertEquals(encodeSelectedImage(selected).subarray(16), image);
  assertEquals(decodeSelectedImage(image), selected);
  const server = [{ address: Uint8Array.of(10, 0, 0, 1), port: 0x1234, failures: 0 }];
  assertEquals(encodeServers(server).subarray(16, 18), bytes("12 34"));
});
