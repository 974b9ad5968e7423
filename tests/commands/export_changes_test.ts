import { assertEquals } from "@std/assert";
import { planChanges } from "../../src/commands/export_changes.ts";
import { parseExportsConf } from "../../src/config/exports_conf.ts";
import type { Export } from "../../src/server/export_table.ts";

const pure = { permissions: "none" } as const;

const parse = (text: string) => parseExportsConf(text, { file: "exports.conf", directory: "/d" });
const conf = (exports: Record<string, string>) =>
  Object.entries(exports).map(([name, rest]) => `[${name}]\ndisk = ${rest}\n`).join("");

function plan(before: Record<string, string>, after: Record<string, string>) {
  const present = parse(conf(before)).map((settings) => ({ settings, exported: {} as Export }));
  const { leaving, arriving, waiting, staying } = planChanges(present, parse(conf(after)));
  return {
    leaving: leaving.map(({ settings }) => settings.name),
    arriving: arriving.map(({ name }) => name),
    waiting: waiting.map(({ name }) => name),
    staying: staying.map(({ settings }) => settings.name),
  };
}

const none = { leaving: [], arriving: [], waiting: [], staying: [] };

Deno.test("exports that say the same of their disk stay, whatever else changes", pure, () => {
  assertEquals(
    plan({ a: "x", b: "y" }, { b: "y\ndescription = new\nwriters = any\ndefault = yes", a: "/d/x" }),
    {
      ...none,
      staying: ["b", "a"],
    },
  );
});

Deno.test("exports come and go by their names", pure, () => {
  assertEquals(plan({ a: "x", b: "y" }, { b: "y", c: "z" }), {
    ...none,
    leaving: ["a"],
    arriving: ["c"],
    staying: ["b"],
  });
});

Deno.test("another disk, or the same opened otherwise, is another export", pure, () => {
  assertEquals(plan({ a: "x" }, { a: "y" }), { ...none, leaving: ["a"], arriving: ["a"] });
  for (const change of ["readonly = yes", "discard = ignore"]) {
    assertEquals(plan({ a: "x" }, { a: `x\n${change}` }), { ...none, leaving: ["a"], waiting: ["a"] });
  }
});

Deno.test("who comes with a disk that another one has waits until that is closed", pure, () => {
  assertEquals(plan({ a: "x", b: "y" }, { a: "y", b: "x" }), {
    ...none,
    leaving: ["a", "b"],
    waiting: ["a", "b"],
  });
  assertEquals(plan({ old: "x" }, { new: "x" }), { ...none, leaving: ["old"], waiting: ["new"] });
});
