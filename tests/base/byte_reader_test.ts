import { assertEquals, assertThrows } from "@std/assert";
import { ByteReader } from "../../src/base/byte_reader.ts";
import { bytes } from "../testing/hex.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

const short = (wanted: number, left: number) => new RangeError(`${wanted} wanted, ${left} left`);

test("ByteReader takes big-endian fields one after the other", () => {
  const reader = new ByteReader(bytes("0102 03040506 0708090a0b0c0d0e aabb cc"), short);
  assertEquals([reader.u16(), reader.u32(), reader.u64()], [0x0102, 0x03040506, 0x0708090a0b0c0d0en]);
  assertEquals(reader.leftBytes, 3);
  assertEquals([...reader.bytes(2)], [0xaa, 0xbb]);
  assertEquals([...reader.bytes(0)], []);
  assertEquals(reader.leftBytes, 1);
});

test("ByteReader starts where its bytes start", () => {
  const reader = new ByteReader(bytes("ffff 0102 ffff").subarray(2, 4), short);
  assertEquals(reader.u16(), 0x0102);
  assertEquals(reader.leftBytes, 0);
});

test("ByteReader refuses every field that runs past the end, and takes nothing of it", () => {
  const reader = new ByteReader(bytes("01"), short);
  for (
    const [take, wanted] of [
      [() => reader.u16(), 2],
      [() => reader.u32(), 4],
      [() => reader.u64(), 8],
      [() => reader.bytes(2 ** 32 - 1), 2 ** 32 - 1],
    ] as const
  ) {
    assertThrows(take, RangeError, `${wanted} wanted, 1 left`);
  }
  assertEquals([...reader.bytes(1)], [1]);
});
