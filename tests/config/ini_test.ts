import { assertEquals, assertThrows } from "@std/assert";
import { ConfigError } from "../../src/config/config_error.ts";
import { parse, stringify } from "../../src/config/ini.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

/** Sections as `[name, [key, value], …]`: what the text means, without lines. */
function meaning(text: string): unknown[] {
  return parse(text, { file: "t" }).map((section) => [
    section.name,
    ...section.entries.map(({ key, value }) => [key, value]),
  ]);
}

pure("parse() reads sections and keys in order", () => {
  assertEquals(meaning("[a]\nx=1\ny = two words \n\n[b]\nz: 3\n"), [
    ["a", ["x", "1"], ["y", "two words"]],
    ["b", ["z", "3"]],
  ]);
});

pure("parse() keeps repeated keys and repeated sections", () => {
  assertEquals(meaning("[a]\nn=1\nn=2\n[a]\nn=3\n"), [["a", ["n", "1"], ["n", "2"]], ["a", ["n", "3"]]]);
});

pure("parse() keeps a section without keys", () => {
  assertEquals(meaning("[a]\n[b]\nx=1\n"), [["a"], ["b", ["x", "1"]]]);
});

pure("parse() puts entries before the first section in one named nothing", () => {
  assertEquals(meaning("x=1\n[a]\ny=2\n"), [["", ["x", "1"]], ["a", ["y", "2"]]]);
});

pure("parse() gives the line of each section and entry", () => {
  const [section] = parse("\n; comment\n[a]\n\nx=1\n# more\ny=2", { file: "t" });
  assertEquals([section.line, ...section.entries.map((entry) => entry.line)], [3, 5, 7]);
});

pure("parse() takes brackets inside a section name", () => {
  assertEquals(meaning("[[2001:db8::17]:6000]\nx=1\n[10.0.0.1:5003]\n[::1] ; here\n"), [
    ["[2001:db8::17]:6000", ["x", "1"]],
    ["10.0.0.1:5003"],
    ["::1"],
  ]);
});

pure("parse() ends a value at a comment sign after white space only", () => {
  assertEquals(meaning("[a]\np=/srv/x # root\nq=1;2#3\nr=5\t; five\ns=#7\nt=8#\n"), [
    ["a", ["p", "/srv/x"], ["q", "1;2#3"], ["r", "5"], ["s", "#7"], ["t", "8#"]],
  ]);
});

pure("parse() prefers = to : as separator and keeps later ones in the value", () => {
  assertEquals(meaning("[a]\nu:v=nbd://h:1/x?y=z\nw: a:b\n"), [
    ["a", ["u:v", "nbd://h:1/x?y=z"], ["w", "a:b"]],
  ]);
});

pure("parse() takes an indented line as another value of the key before it, and marks it", () => {
  const [section] = parse("[a]\nmode=hashblock\n  sparse=true\n\n\tmore\n", { file: "t" });
  assertEquals(section.entries.map(({ key, value, continued }) => [key, value, continued]), [
    ["mode", "hashblock", false],
    ["mode", "sparse=true", true],
    ["mode", "more", true],
  ]);
});

pure("parse() takes an indented first line of a section as a key", () => {
  assertEquals(meaning("[a]\nx=1\n[b]\n  y=2\n"), [["a", ["x", "1"]], ["b", ["y", "2"]]]);
});

pure("parse() skips a byte order mark and carriage returns", () => {
  assertEquals(meaning("\uFEFF[a]\r\nx=1\r\n"), [["a", ["x", "1"]]]);
});

pure("parse() takes an empty value, and an empty text as no sections", () => {
  assertEquals(meaning("[a]\nx=\n"), [["a", ["x", ""]]]);
  assertEquals(meaning(""), []);
  assertEquals(meaning("; nothing\n\n  # here\n"), []);
});

for (
  const [text, line, reason] of [
    ["[a]\nx=1\n[b\n", 3, "section without its closing bracket: [b"],
    ["[a]\n\nnonsense\n", 3, "neither a [section] nor key=value: nonsense"],
    ["[a]\n=1\n", 2, "value without a key: =1"],
    ["[a] b\n", 1, "section without its closing bracket: [a] b"],
  ] as const
) {
  pure(`parse() refuses ${JSON.stringify(text)} with file and line`, () => {
    const error = assertThrows(() => parse(text, { file: "some.conf" }), ConfigError);
    assertEquals([error.file, error.line, error.reason], ["some.conf", line, reason]);
    assertEquals(error.message, `some.conf:${line}: ${reason}`);
  });
}

pure("parse() goes on after a malformed line when told to whom to report it", () => {
  const lines: number[] = [];
  const sections = parse("[a]\nbad\nx=1\n[b\ny=2\n", { file: "t", onMalformed: (e) => lines.push(e.line) });
  assertEquals(lines, [2, 4]);
  assertEquals(sections.map((section) => [section.name, section.entries.length]), [["a", 2]]);
});

pure("stringify() writes what parse() reads back", () => {
  const sections: [string, Record<string, string | string[]>][] = [
    ["", { top: "1" }],
    ["[::1]:5003", { comment: "a = b: c;d#e", namespace: ["x/", "y/"], colour: "#ff0000" }],
    ["empty", {}],
  ];
  const text = stringify(sections);
  assertEquals(
    text,
    "top=1\n[[::1]:5003]\ncomment=a = b: c;d#e\nnamespace=x/\nnamespace=y/\ncolour=#ff0000\n[empty]\n",
  );
  assertEquals(meaning(text), [
    ["", ["top", "1"]],
    ["[::1]:5003", ["comment", "a = b: c;d#e"], ["namespace", "x/"], ["namespace", "y/"], [
      "colour",
      "#ff0000",
    ]],
    ["empty"],
  ]);
});

pure("stringify() refuses what would not be read back", () => {
  for (const name of ["a]", "[a", " a", "a\nb"]) {
    assertThrows(() => stringify([[name, {}]]), RangeError, "section name");
  }
  for (const key of ["", " k", "a=b", "a:b", ";k", "#k", "[k", "k #", "k\n"]) {
    assertThrows(() => stringify([["s", { [key]: "v" }]]), RangeError, "key");
  }
  for (const value of [" v", "v ", "a ; b", "a #b", "a\nb", "a\rb"]) {
    assertThrows(() => stringify([["s", { k: value }]]), RangeError, "value");
  }
});
