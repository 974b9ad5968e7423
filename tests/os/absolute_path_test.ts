import { assertEquals } from "@std/assert";
import { absolutePath } from "../../src/os/absolute_path.ts";

Deno.test("absolutePath() is what the path means where the program is", () => {
  const here = Deno.cwd();
  const parent = here.slice(0, here.lastIndexOf("/")) || "/";
  const cases = {
    "/a/b": "/a/b",
    "//a/./b/": "/a/b",
    "/a/../../b": "/b",
    "/..": "/",
    "/": "/",
    "": here,
    ".": here,
    "..": parent,
    "a.img": `${here}/a.img`,
    "a/..b/...": `${here}/a/..b/...`,
  };
  for (const [path, absolute] of Object.entries(cases)) assertEquals(absolutePath(path), absolute, path);
});
