import { assertEquals } from "@std/assert";
import { DeviceError } from "../../src/device/device_error.ts";

Deno.test(
  "a disk's error is a sentence: what could not be done, where, and why",
  { permissions: "none" },
  () => {
    const sentences: [DeviceError, string][] = [
      [new DeviceError("EIO", "read", 512, 4096), "cannot read 4096 bytes at 512: EIO"],
      [new DeviceError("ENOSPC", "write", 0, 1), "cannot write 1 byte at 0: ENOSPC"],
      [new DeviceError("EIO", "extents", 0, 2), "cannot look for holes in 2 bytes at 0: EIO"],
      [new DeviceError("EIO", "flush", undefined, undefined, { detail: "why" }), "cannot flush: EIO (why)"],
    ];
    for (const [error, sentence] of sentences) assertEquals(error.message, sentence);
  },
);
