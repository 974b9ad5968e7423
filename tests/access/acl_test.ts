import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { randomFrom } from "../testing/random.ts";
import { AccessList, parseAclEntry } from "../../src/access/acl.ts";

const pure = { permissions: "none" } as const;

function rights(entries: string[], address: string, defaultDeny = false): string {
  return new AccessList(entries, { defaultDeny }).rightsFor(address).rights;
}

Deno.test("the empty list allows everybody, and nobody under default-deny", pure, () => {
  assertEquals(rights([], "192.0.2.1"), "write");
  assertEquals(rights([], "2001:db8::1"), "write");
  assertEquals(rights([], "192.0.2.1", true), "none");
  assertEquals(rights([], "2001:db8::1", true), "none");
  assert(new AccessList([]).isOpen);
  assert(!new AccessList([], { defaultDeny: true }).isOpen);
  assert(!new AccessList(["::/0"]).isOpen);
});

for (const defaultDeny of [false, true]) {
  Deno.test(`a list allows only what it matches, default-deny ${defaultDeny}`, pure, () => {
    assertEquals(rights(["192.0.2.1"], "192.0.2.1", defaultDeny), "write");
    assertEquals(rights(["192.0.2.1"], "192.0.2.2", defaultDeny), "none");
    assertEquals(rights(["192.0.2.1"], "2001:db8::1", defaultDeny), "none");
  });
}

const CASES: [string[], string, string][] = [
  [["10.0.0.0/8=read"], "10.255.0.1", "read"],
  [["10.0.0.0/8=read"], "11.0.0.0", "none"],
  [["10.0.0.0/8=read", "10.1.2.3"], "10.1.2.3", "read"],
  [["10.1.2.3", "10.0.0.0/8=read"], "10.1.2.3", "write"],
  [["10.0.0.66=none", "10.0.0.0/8"], "10.0.0.66", "none"],
  [["10.0.0.66=none", "10.0.0.0/8=write"], "10.0.0.67", "write"],
  [["192.0.2.129/25"], "192.0.2.200", "write"],
  [["192.0.2.129/25"], "192.0.2.127", "none"],
  [["0.0.0.0/0"], "203.0.113.9", "write"],
  [["0.0.0.0/0"], "2001:db8::1", "none"],
  [["0/0"], "203.0.113.9", "write"],
  [["::/0=read"], "2001:db8::1", "read"],
  [["::/0=read"], "203.0.113.9", "read"],
  [["2001:db8::/33"], "2001:db8:7fff::1", "write"],
  [["2001:db8::/33"], "2001:db8:8000::1", "none"],
  [["[2001:db8::1]"], "2001:db8::1", "write"],
  [["192.0.2.1"], "::ffff:192.0.2.1", "write"],
  [["::ffff:192.0.2.1"], "192.0.2.1", "write"],
  [["::ffff:192.0.2.0/120"], "192.0.2.77", "write"],
  [["::ffff:192.0.2.0/120"], "192.0.3.77", "none"],
  [["0"], "0.0.0.0", "write"],
  [["0"], "127.0.0.1", "none"],
  [["127.0.0.1"], "unix", "write"],
  [["127.0.0.1"], "unix:uid=7", "write"],
  [["unix:7=read"], "unix:uid=7", "read"],
  [["unix:7=read"], "unix:uid=8", "none"],
  [["unix:7=read"], "unix", "none"],
  [["unix=read"], "unix:uid=8", "read"],
  [["::/0"], "nonsense", "none"],
];

for (const [entries, address, expected] of CASES) {
  Deno.test(`${address} has ${expected} under ${entries.join(" ")}`, pure, () => {
    assertEquals(rights(entries, address), expected);
  });
}

Deno.test("Unix peers need an entry of their own under default-deny", pure, () => {
  assertEquals(rights([], "unix:uid=0"), "write");
  assertEquals(rights([], "unix:uid=0", true), "none");
  assertEquals(rights(["::/0"], "unix:uid=0", true), "none");
  assertEquals(rights(["unix"], "unix:uid=0", true), "write");
});

Deno.test("the reason names the entry that decided, or that none did", pure, () => {
  const list = new AccessList(["10.0.0.66=none", "10.0.0.0/8"]);
  assertEquals(list.rightsFor("10.0.0.66").reason, "10.0.0.66=none matches");
  assertEquals(list.rightsFor("10.0.0.67").reason, "10.0.0.0/8 matches");
  assertEquals(list.rightsFor("192.0.2.1").reason, "no entry matches 192.0.2.1");
});

for (
  const text of [
    "",
    "=read",
    "nobody",
    "10.0.0.0/33",
    "::/129",
    "10.0.0.0/",
    "10.0.0.0/-1",
    "10.0.0.0/8/8",
    "10.0.0.1:80",
    "10.0.0.1=all",
    "10.0.0.1 ",
    "010.0.0.1",
    "1.2.3",
    "unix/8",
    "unix:",
    "unix:x",
    "unixoid",
    "a\nb",
  ]
) {
  Deno.test(`the entry ${JSON.stringify(text)} is refused`, pure, () => {
    const error = assertThrows(() => parseAclEntry(text), SyntaxError);
    assertStringIncludes(error.message, "bad spec: ");
    assert(!error.message.includes("\n"));
  });
}

Deno.test("a replacement takes effect as a whole, or not at all", pure, () => {
  const list = new AccessList(["10.0.0.1"]);
  assertThrows(() => list.replace(["10.0.0.2", "junk"]), SyntaxError, "bad spec: junk (");
  assertEquals(list.entries, ["10.0.0.1"]);
  list.replace(["10.0.0.2", "[::FFFF:1]/64=read"]);
  assertEquals(list.entries, ["10.0.0.2", "::ffff:1/64=read"]);
  list.replace([]);
  assertEquals(list.entries, []);
  assertEquals(list.rightsFor("10.0.0.1").rights, "write");
});

Deno.test("random lists decide as a slow matcher over text of bits does", pure, () => {
  const { seed, below: random } = randomFrom();
  // Few different bytes, so that entries and peers meet.
  const byte = () => [0, 1, 127, 128, 254, 255][random(6)];
  const v4 = () => [10, random(2), byte(), byte()];
  const v6 = () => [0x20, 0x01, 0x0d, 0xb8, ...Array.from({ length: 12 }, () => random(3) ? 0 : byte())];
  const bitsOf = (bytes: number[]) => bytes.map((each) => each.toString(2).padStart(8, "0")).join("");
  const wideBits = (bytes: number[]) =>
    bytes.length === 16 ? bitsOf(bytes) : "0".repeat(80) + "1".repeat(16) + bitsOf(bytes);
  const textOf = (bytes: number[]) => {
    if (bytes.length === 4) {
      return random(3) === 0 ? { text: `::ffff:${bytes.join(".")}`, width: 128 } : {
        text: bytes.join("."),
        width: 32,
      };
    }
    const groups = Array.from({ length: 8 }, (_, i) => (bytes[2 * i] * 256 + bytes[2 * i + 1]).toString(16));
    return { text: groups.join(":"), width: 128 };
  };
  let matches = 0;
  for (let round = 0; round < 500; round++) {
    const slow: { prefix: string; rights: string }[] = [];
    const entries: string[] = [];
    for (let count = random(6); count > 0; count--) {
      const bytes = random(2) ? v4() : v6();
      const { text, width } = textOf(bytes);
      const bits = random(4) === 0 ? width : random(width + 1);
      const given = ["none", "read", "write"][random(3)];
      entries.push(`${text}/${bits}=${given}`);
      slow.push({ prefix: wideBits(bytes).slice(0, bits + 128 - width), rights: given });
    }
    const defaultDeny = random(2) === 1;
    const list = new AccessList(entries, { defaultDeny });
    for (let count = 0; count < 8; count++) {
      const bytes = random(2) ? v4() : v6();
      const found = slow.find((each) => wideBits(bytes).startsWith(each.prefix));
      if (found !== undefined) matches++;
      const expected = found?.rights ?? (slow.length === 0 && !defaultDeny ? "write" : "none");
      const { text } = textOf(bytes);
      assertEquals(list.rightsFor(text).rights, expected, `${text} under ${entries.join(" ")}, seed ${seed}`);
    }
  }
  assert(matches > 100, `only ${matches} matches, seed ${seed}`);
});
