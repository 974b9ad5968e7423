import { assertEquals, assertThrows } from "@std/assert";
import { crc32 } from "node:zlib";
import {
  ChecksumList,
  checksumListBytes,
  decodeChecksumList,
  encodeChecksumList,
  hashBlockRange,
} from "../../../src/wire/dnbd3/checksum_list.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import * as vectors from "./vectors.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

/** The checksums of an image with the pattern, made the plain way. */
function checksumsOfPattern(fileBytes: number, imageBytes: number): ChecksumList {
  const checksums: number[] = [];
  for (let index = 0; hashBlockRange(index, imageBytes).length > 0; index++) {
    const { offset, length } = hashBlockRange(index, imageBytes);
    const words = new BigUint64Array(Math.ceil(length / 8));
    for (let word = 0; word < words.length; word++) words[word] = BigInt(offset + word * 8);
    const bytes = new Uint8Array(words.buffer, 0, length);
    bytes.fill(0, Math.max(0, Math.min(length, fileBytes - offset)));
    checksums.push(crc32(bytes));
  }
  return new ChecksumList(Uint32Array.from(checksums));
}

for (
  const [name, file, fileBytes, imageBytes] of [
    ["test", vectors.CHECKSUM_FILE_OF_TEST, vectors.TEST_BYTES, vectors.TEST_BYTES],
    ["sub/odd", vectors.CHECKSUM_FILE_OF_ODD, vectors.ODD_FILE_BYTES, vectors.ODD_BYTES],
  ] as const
) {
  pure(`V11, S5: the recorded checksum file of ${name} is what we make and understand`, () => {
    const list = checksumsOfPattern(fileBytes, imageBytes);
    assertEquals(encodeChecksumList(list), file);
    assertEquals(decodeChecksumList(file, imageBytes).equals(list), true);
    assertEquals(checksumListBytes(imageBytes), file.length);
  });

  pure(`decodeChecksumList() refuses the list of ${name} with any bit turned`, () => {
    for (let bit = 0; bit < file.length * 8; bit++) {
      const corrupt = file.slice();
      corrupt[bit >> 3] ^= 1 << (bit & 7);
      assertThrows(() => decodeChecksumList(corrupt, imageBytes), WireError, "whose own checksum is");
    }
  });

  pure(`decodeChecksumList() refuses every cut of the list of ${name}`, () => {
    for (let length = 0; length < file.length; length++) {
      assertThrows(
        () => decodeChecksumList(file.subarray(0, length), imageBytes),
        WireError,
        `checksum list of ${length} bytes`,
      );
    }
  });
}

pure("decodeChecksumList() ignores what follows the list in a file", () => {
  const longer = Uint8Array.of(...vectors.CHECKSUM_FILE_OF_TEST, 1, 2, 3, 4);
  assertEquals(decodeChecksumList(longer, vectors.TEST_BYTES).checksums.length, 4);
});

pure("lists differ in any checksum and in length", () => {
  const list = (...checksums: number[]) => new ChecksumList(Uint32Array.from(checksums));
  assertEquals(list(1, 2).equals(list(1, 2)), true);
  assertEquals(list(1, 2).equals(list(1, 3)), false);
  assertEquals(list(1, 2).equals(list(1)), false);
});
