import { assertEquals } from "@std/assert";
import { crc32 } from "../../../src/base/crc32.ts";
import { SequenceCheck, type SummedBlock } from "../../../src/remote/dnbd3/sequence_check.ts";
import { HASH_BLOCK_BYTES } from "../../../src/wire/dnbd3/constants.ts";
import { randomFrom } from "../../testing/random.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

const SIZE = HASH_BLOCK_BYTES + 40_960;
const content = randomFrom(7).bytes(SIZE);
const CHECKSUMS = [
  crc32(content.subarray(0, HASH_BLOCK_BYTES)),
  crc32(content.subarray(HASH_BLOCK_BYTES)),
];

type Read = ReturnType<SequenceCheck["asked"]>;

/** Has the parts of a read arrive; says which blocks that completed. */
function arrive(check: SequenceCheck, read: Read, server = "a"): SummedBlock[] {
  return read.flatMap((part) =>
    check.arrived(part, content.subarray(part.offset, part.offset + part.length), [server]) ?? []
  );
}

pure("hash blocks that are asked for in order are summed up, answered in whatever order", () => {
  const random = randomFrom(3);
  for (const readBytes of [1024 * 1024, 1_000_001, HASH_BLOCK_BYTES, SIZE]) {
    const check = new SequenceCheck(SIZE);
    const reads: Read[] = [];
    for (let at = 0; at < SIZE; at += readBytes) reads.push(check.asked(at, Math.min(readBytes, SIZE - at)));
    const summed: SummedBlock[] = [];
    while (reads.length > 0) summed.push(...arrive(check, reads.splice(random.below(reads.length), 1)[0]));
    summed.sort((one, other) => one.index - other.index);
    assertEquals(summed.map(({ index, checksum }) => [index, checksum]), [[0, CHECKSUMS[0]], [
      1,
      CHECKSUMS[1],
    ]]);
  }
});

pure("reads here and there are passed over, and disturb nothing", () => {
  const check = new SequenceCheck(SIZE);
  assertEquals(check.asked(4096, 8192), []);
  const last = HASH_BLOCK_BYTES;
  const first = check.asked(last, 4096);
  assertEquals(check.asked(100, 50), []);
  assertEquals(check.asked(last, 0), []);
  const rest = check.asked(last + 4096, SIZE - last - 4096);
  assertEquals([...arrive(check, first), ...arrive(check, rest)].map(({ checksum }) => checksum), [
    CHECKSUMS[1],
  ]);
});

pure("a block of which a part is left out, or never comes, is not summed up", () => {
  const check = new SequenceCheck(SIZE);
  const last = HASH_BLOCK_BYTES;
  const first = check.asked(last, 4096);
  assertEquals(check.asked(last + 8192, SIZE - last - 8192), []);
  assertEquals(arrive(check, first), []);
  check.asked(last, 4096);
  assertEquals(arrive(check, check.asked(last + 4096, SIZE - last - 4096)), []);
});

pure("all servers that had a part in a block are named", () => {
  const check = new SequenceCheck(SIZE);
  const last = HASH_BLOCK_BYTES;
  const [one, other] = [check.asked(last, 4096), check.asked(last + 4096, SIZE - last - 4096)];
  arrive(check, one, "a");
  assertEquals(arrive(check, other, "b").map(({ servers }) => [...servers]), [["a", "b"]]);
});
