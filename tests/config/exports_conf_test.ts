import { assertEquals, assertThrows } from "@std/assert";
import { ConfigError } from "../../src/config/config_error.ts";
import { parseExportsConf } from "../../src/config/exports_conf.ts";

const pure = { permissions: "none" } as const;
const parse = (text: string) => parseExportsConf(text, { file: "exports.conf", directory: "/etc/denbd" });

Deno.test("a section of exports.conf is an export, with defaults for what it does not say", pure, () => {
  const text = `# disks
[root]
disk = /srv/root.img
description = the root disk; really
default = true
[lab/tools]
disk = tools.img
readonly = yes
discard = ignore
writers = any
[far]
disk = nbd://192.0.2.1/x
[image]
disk = dnbd3://192.0.2.1/pool/win?rid=2
readonly = true
`;
  const plain = {
    readOnly: false,
    isDefault: false,
    description: "",
    discard: undefined,
    writers: "one-session" as const,
  };
  const [root, tools, far, image] = parse(text);
  assertEquals(root, {
    ...plain,
    name: "root",
    line: 2,
    disk: { kind: "file", path: "/srv/root.img" },
    description: "the root disk; really",
    isDefault: true,
  });
  assertEquals(tools, {
    ...plain,
    name: "lab/tools",
    line: 6,
    disk: { kind: "file", path: "/etc/denbd/tools.img" },
    readOnly: true,
    discard: "ignore",
    writers: "any",
  });
  assertEquals([far.disk.kind, far.readOnly, image.disk.kind], ["nbd", false, "image"]);
  assertEquals(parse(""), []);
});

const refused: [string, number, string][] = [
  ["disk = x\n", 1, "a key in front of the first [export]"],
  ["[]\ndisk = x\n", 1, "an export needs a name"],
  ["[a]\n", 1, 'export "a" has no disk'],
  ["[a]\ndisk =\n", 2, "disk: a value is missing"],
  ["[a]\ndisk = x\ndisk = y\n", 3, "disk has a value already, in line 2"],
  ["[a]\ndisk = x\n[a]\ndisk = y\n", 3, 'export "a" is in line 1 already'],
  ["[a]\ndisk = x\nreadOnly = true\n", 3, "unknown key readOnly in [a]: there are disk, readonly"],
  ["[a]\ndisk = x\nreadonly = 1\n", 3, 'readonly: "1" is neither true nor false'],
  ["[a]\ndisk = x\ndiscard = perhaps\n", 3, 'discard: "perhaps" is not one of unmap, ignore'],
  ["[a]\ndisk = x\nwriters = 2\n", 3, 'writers: "2" is not one of any, one-session'],
  ["[a]\ndisk = nbd://h/x\ndiscard = unmap\n", 3, "discard is for files"],
  ["[a]\ndisk = nbx://h/x\n", 2, "the scheme is none of"],
  ["[a]\ndisk = dnbd3://h/x\n", 2, "an image of dnbd3 is to be readonly = true"],
  ["[a]\ndisk = x\ndefault = yes\n[b]\ndisk = y\ndefault = yes\n", 6, 'the default export is "a" already'],
  ["[a]\ndisk = x\n  readonly = true\n", 3, "indented, and so read as another value of disk"],
  ["[a]\ndisk x\n", 2, "neither a [section] nor key=value"],
  ["[a\ndisk = x\n", 1, "section without its closing bracket"],
  [`[${"a".repeat(4097)}]\ndisk = x\n`, 1, "the name of an export has at most 4096 bytes"],
  [`[a]\ndisk = x\ndescription = ${"ä".repeat(2049)}\n`, 3, "description: it has at most 4096 bytes"],
];

for (const [text, line, message] of refused) {
  Deno.test(`exports.conf is refused with its line: ${message}`, pure, () => {
    const error = assertThrows(() => parse(text), ConfigError, message);
    assertEquals([error.file, error.line], ["exports.conf", line]);
  });
}
