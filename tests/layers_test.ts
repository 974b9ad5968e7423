/** Imports run one way: what a file may know is said by the folder it is in. */

import { assert, assertEquals } from "@std/assert";

const pure = ["base"];
const disks = ["base", "os", "wire", "net", "device"];

/** Folders of `src` (and single files) with the folders each may import, besides itself. */
const mayImport: Record<string, readonly string[]> = {
  base: [],
  os: pure,
  wire: pure,
  access: pure,
  config: pure,
  device: ["base", "os"],
  net: ["base", "os", "wire"],
  remote: disks,
  server: [...disks, "access"],
  migrate: [...disks, "access", "remote", "server"],
  control: [...disks, "access", "config", "remote", "server", "migrate"],
  "open_channel.ts": ["base", "os", "config", "net"],
  "open_tls.ts": ["base", "os", "net", "remote"],
  "open_disk.ts": ["base", "os", "config", "net", "device", "remote", "open_channel.ts", "open_tls.ts"],
  commands: [...disks, "access", "config", "remote", "server", "migrate", "control", "open_disk.ts"],
};

/** Folders that reach nothing outside the program: no runtime globals, and of Node only what computes. */
const withoutIo = ["wire", "access", "config"];
const runtimeGlobals =
  /\b(Deno|fetch|WebSocket|EventSource|Worker|setTimeout|setInterval|navigator|localStorage)\b/;
const computingModules = ["node:zlib", "node:crypto", "node:buffer"];

interface SourceFile {
  /** Relative to the project's root. */
  readonly path: string;
  readonly text: string;
}

const root = new URL("..", import.meta.url);

function* sourceFiles(folder: string): Generator<SourceFile> {
  for (const entry of Deno.readDirSync(new URL(folder, root))) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) yield* sourceFiles(path);
    else if (/\.(ts|js)$/.test(path)) yield { path, text: Deno.readTextFileSync(new URL(path, root)) };
  }
}

/** Every specifier that a file imports or re-exports, statically or not. The formatter fixes where they stand. */
function importsOf({ text }: SourceFile): string[] {
  const statements =
    /^(?:import|export)\b[^;"']*?\bfrom\s*"([^"]+)"|^import\s*"([^"]+)"|\bimport\(\s*["'`]([^"'`]+)/gm;
  return [...text.matchAll(statements)].map(([, from, bare, dynamic]) => from ?? bare ?? dynamic);
}

/** The layer of a path such as `src/wire/nbd/option.ts`: `wire`. */
function layerOf(path: string): string {
  return path.split("/")[1];
}

/** The path, from the project's root, that a relative specifier in a file means. */
function resolve(from: string, specifier: string): string {
  return new URL(specifier, new URL(from, "file:///")).pathname.slice(1);
}

const files = [...sourceFiles("src")];

Deno.test("every folder of src has a layer", () => {
  const unknown = files.map(({ path }) => layerOf(path)).filter((layer) => !(layer in mayImport));
  assertEquals([...new Set(unknown)], []);
});

Deno.test("a file imports only from its own layer and those below", () => {
  const wrong: string[] = [];
  for (const file of files) {
    const layer = layerOf(file.path);
    for (const specifier of importsOf(file).filter((specifier) => specifier.startsWith("."))) {
      const target = resolve(file.path, specifier);
      const targetLayer = layerOf(target);
      const allowed = target.startsWith("src/")
        ? targetLayer === layer || mayImport[layer]?.includes(targetLayer)
        : target === "deno.json" && layer === "commands"; // For the version.
      if (!allowed) wrong.push(`${file.path} imports ${target}`);
    }
  }
  assertEquals(wrong, []);
});

Deno.test("wire, access and config do no input or output", () => {
  const wrong: string[] = [];
  for (const file of files.filter(({ path }) => withoutIo.includes(layerOf(path)))) {
    for (const specifier of importsOf(file)) {
      if (specifier.startsWith("node:") && !computingModules.includes(specifier)) {
        wrong.push(`${file.path} imports ${specifier}`);
      }
    }
    for (const [index, line] of file.text.split("\n").entries()) {
      const code = line.replace(/^\s*(\*|\/\*).*/, "").replace(/(^|\s)\/\/.*/, "").replace(/"[^"]*"/g, '""');
      const found = runtimeGlobals.exec(code);
      if (found) wrong.push(`${file.path}:${index + 1} uses ${found[0]}`);
    }
  }
  assertEquals(wrong, []);
});

Deno.test("modules of Node are loaded where they are used, not when the program starts", () => {
  const main = { path: "main.ts", text: Deno.readTextFileSync(new URL("main.ts", root)) };
  const wrong = [main, ...files].flatMap(({ path, text }) =>
    [...text.matchAll(/^import (?!type).*"node:.*/gm)].map(([statement]) => `${path}: ${statement}`)
  );
  assertEquals(wrong, []);
});

Deno.test("V57: disks are tested without a network, and transports without a disk", () => {
  const connected = ["net", "remote", "server", "migrate", "control", "open_disk.ts", "wire"];
  const diskless = ["device", "server", "migrate", "control", "commands", "open_disk.ts"];
  const rules: [string, readonly string[]][] = [
    ["tests/device", connected],
    ["tests/net", diskless],
    ["tests/wire", [...diskless, "net", "os", "remote"]],
  ];
  const wrong: string[] = [];
  for (const [folder, strangers] of rules) {
    const tests = [...sourceFiles(folder)];
    assert(tests.length > 5);
    for (const file of tests) {
      for (const specifier of importsOf(file).filter((specifier) => specifier.startsWith("."))) {
        const target = resolve(file.path, specifier);
        if (target.startsWith("src/") && strangers.includes(layerOf(target))) {
          wrong.push(`${file.path} imports ${target}`);
        }
      }
      if (folder !== "tests/net" && /\bDeno\.(connect|listen)/.test(file.text)) {
        wrong.push(`${file.path} connects`);
      }
    }
  }
  assertEquals(wrong, []);
});

Deno.test("src has no barrel files", () => {
  const barrels = files.filter(({ path }) => /\/(mod|index)\.ts$/.test(path)).map(({ path }) => path);
  assertEquals(barrels, []);
});

Deno.test("importsOf() sees every form of import", () => {
  const text = [
    'import "./a.ts";',
    'import { b } from "./b.ts";',
    "import type {",
    "  C,",
    '} from "./c.ts";',
    'export { d } from "./d.ts";',
    'const e = await import("./e.ts");',
    'export * from "./f.ts";',
    'import * as g from "./g.ts";',
  ].join("\n");
  const names = importsOf({ path: "src/x.ts", text });
  assertEquals(names, ["./a.ts", "./b.ts", "./c.ts", "./d.ts", "./e.ts", "./f.ts", "./g.ts"]);
});
