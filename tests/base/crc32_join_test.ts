import { assertEquals } from "@std/assert";
import { crc32 } from "../../src/base/crc32.ts";
import { joinCrc32 } from "../../src/base/crc32_join.ts";
import { randomFrom } from "../testing/random.ts";

Deno.test({
  name: "the joined checksum of two pieces is that of the whole, wherever it is cut",
  permissions: "none",
  fn() {
    const random = randomFrom(1);
    const bytes = random.bytes(70_000);
    for (let round = 0; round < 200; round++) {
      const end = random.below(bytes.length + 1);
      const cut = round < 10 ? Math.min(round, end) : random.below(end + 1);
      const [first, second] = [bytes.subarray(0, cut), bytes.subarray(cut, end)];
      assertEquals(joinCrc32(crc32(first), crc32(second), second.length), crc32(bytes.subarray(0, end)));
    }
  },
});

Deno.test({
  name: "pieces beyond 4 GiB are joined",
  permissions: "none",
  fn() {
    // The checksum of 2^n zeroes, from that of half as many.
    let zeroes = crc32(new Uint8Array(1));
    for (let count = 1; count < 2 ** 33; count *= 2) zeroes = joinCrc32(zeroes, zeroes, count);
    let inSteps = 0;
    let step = crc32(new Uint8Array(65536));
    let stepBytes = 65536;
    for (; stepBytes < 2 ** 32; stepBytes *= 2) step = joinCrc32(step, step, stepBytes);
    for (let done = 0; done < 2; done++) inSteps = joinCrc32(inSteps, step, stepBytes);
    assertEquals(inSteps, zeroes);
  },
});
