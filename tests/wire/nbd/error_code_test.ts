import { assertEquals } from "@std/assert";
import { errnoName, wireErrno } from "../../../src/wire/nbd/error_code.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

const wire = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
};

test("every error of the wire has its code and its name", () => {
  for (const [name, code] of Object.entries(wire)) {
    assertEquals(wireErrno(name), code);
    assertEquals(errnoName(code), name);
  }
});

test("wireErrno() narrows what the wire does not have", () => {
  const narrowed = { EDQUOT: 28, EFBIG: 28, EROFS: 1, EACCES: 1, EOPNOTSUPP: 95 };
  for (const [name, code] of Object.entries(narrowed)) assertEquals(wireErrno(name), code);
  for (const name of ["ENOENT", "EBADF", "ETIMEDOUT", "", "constructor", "toString"]) {
    assertEquals(wireErrno(name), 5);
  }
});

test("errnoName() takes an unknown code for EINVAL", () => {
  for (const code of [0, 2, 74, 109, 4294967295]) assertEquals(errnoName(code), "EINVAL");
});
