import { assertEquals, assertThrows } from "@std/assert";
import { OsError } from "../../src/os/os_error.ts";
import { reasonOf } from "../../src/os/reason.ts";

function failure(attempt: () => unknown): Error {
  return assertThrows(attempt, Error);
}

Deno.test("reasonOf() puts the system's errors into words, without numbers and paths", () => {
  assertEquals(
    reasonOf(failure(() => Deno.readTextFileSync("/denbd/none"))),
    "there is no such file or directory",
  );
  assertEquals(reasonOf(failure(() => Deno.readTextFileSync("/"))), "it is a directory");
  const noDirectory = failure(() => Deno.statSync(`${import.meta.filename}/x`));
  assertEquals(reasonOf(noDirectory), "part of the path is not a directory");
  assertEquals(reasonOf(new OsError("EACCES", "open", "/x")), "permission denied");
});

Deno.test("reasonOf() knows what an error means where it happened", () => {
  const none = failure(() => Deno.readTextFileSync("/denbd/none"));
  assertEquals(reasonOf(none, { ENOENT: "there is no such socket" }), "there is no such socket");
});

Deno.test("reasonOf() leaves out the runtime's decoration of what it has no words for", () => {
  const loop = new Error("Too many levels of symbolic links (os error 40): open '/x'");
  assertEquals(reasonOf(loop), "Too many levels of symbolic links");
  assertEquals(reasonOf(new Error("a message of our own (with more)")), "a message of our own (with more)");
  assertEquals(reasonOf("text"), "text");
});
