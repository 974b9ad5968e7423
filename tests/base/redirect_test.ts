import { assertEquals, assertStringIncludes } from "@std/assert";
import { publicLocator, redirected, type RedirectRules } from "../../src/base/redirect.ts";
import { formatDiskLocator, type NbdLocator, parseDiskLocator } from "../../src/base/uri.ts";

const [ONE, OTHER] = [1, 2].map((byte) => new Uint8Array(32).fill(byte).toBase64());
const encoded = (key: string) => encodeURIComponent(key).replaceAll("%2F", "/");

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

function nbd(text: string): NbdLocator {
  const locator = parseDiskLocator(text);
  if (locator.kind !== "nbd") throw new Error(text);
  return locator;
}

const told: [uri: string, told: string | null][] = [
  ["nbd://b:4779/x", "nbd://b:4779/x"],
  ["nbd+unix:///x?socket=/run/x", null],
  ["nbds+unix:///x?socket=/run/x", null],
  [
    "nbds://b/x?tls-certificates=/etc/pki&tls-hostname=disks&tls-verify-peer=0",
    "nbds://b/x?tls-hostname=disks",
  ],
  [
    `nbd+noise://b/x?key=${encoded(ONE)}&identity=/root/id&psk=/root/psk`,
    `nbd+noise://b/x?key=${encoded(ONE)}`,
  ],
  ["nbd+noise://b/?identity=/root/id", "nbd+noise://b/"],
  ["nbd+crc://b/x", "nbd+crc://b/x"],
];

for (const [uri, expected] of told) {
  test(`publicLocator() tells ${expected ?? "nothing"} of ${uri}`, () => {
    const locator = publicLocator(nbd(uri));
    assertEquals(locator && formatDiskLocator(locator), expected);
  });
}

interface Case extends Partial<Pick<RedirectRules, "authenticated">> {
  readonly from: string;
  readonly to: string;
  /** `--follow`. */
  readonly named?: string;
  /** The URI that is followed, or a part of why none is. */
  readonly gives: string;
}

const notProven = "has not proven who it is, and the place is none of --follow";

const cases: Case[] = [
  // Who may send us elsewhere.
  { from: "nbd://a/", to: "nbd://b/", gives: notProven },
  { from: "nbd://a/", to: "nbd://b/y", named: "nbd://b/", gives: "nbd://b/y" },
  { from: "nbd://a/", to: "nbd://b:1/", named: "nbd://b/", gives: notProven },
  { from: "nbd://a,b/", to: "nbd://b/", gives: "nbd://b/" },
  { from: "nbds://a/", to: "nbds://b/", gives: notProven },
  { from: "nbds://a/", to: "nbds://b/", authenticated: true, gives: "nbds://b/" },
  { from: "nbds://a/?tls-verify-peer=0", to: "nbds://b/", authenticated: true, gives: notProven },
  { from: "nbd+noise://a/", to: "nbd+noise://b/", authenticated: true, gives: "nbd+noise://b/" },
  // Never to less protection, whoever says so, and whoever wished for it.
  {
    from: "nbds://a/",
    to: "nbd://b/",
    authenticated: true,
    gives: "plain NBD, which protects less than TLS",
  },
  { from: "nbds://a/", to: "nbd://b/", named: "nbd://b/", gives: "plain NBD, which protects less than TLS" },
  {
    from: "nbd+noise://a/",
    to: "nbd://b/",
    authenticated: true,
    gives: "plain NBD, which protects less than an encrypted channel",
  },
  {
    from: "nbd+noise://a/",
    to: "nbd+crc://b/",
    authenticated: true,
    gives: "over a channel that is not encrypted, which protects less than an encrypted channel",
  },
  { from: "nbd+crc://a/", to: "nbd://b/", named: "nbd://b/", gives: "plain NBD, which protects less" },
  { from: "nbds://a/", to: "nbd+noise://b/", authenticated: true, gives: "instead of TLS" },
  // What is ours stays ours, and is not taken from others.
  {
    from: "nbds://a/?tls-certificates=/ours&tls-hostname=a.example",
    to: "nbds://b/?tls-certificates=/theirs&tls-hostname=b.example&tls-verify-peer=0",
    authenticated: true,
    gives: "nbds://b/?tls-certificates=/ours&tls-hostname=b.example",
  },
  {
    from: `nbd+noise://a/?key=${encoded(ONE)}&identity=/ours&psk=/our-psk`,
    to: `nbd+noise://b/?key=${encoded(OTHER)}&identity=/theirs&psk=/their-psk`,
    authenticated: true,
    gives: `nbd+noise://b/?key=${encoded(OTHER)}&identity=/ours&psk=/our-psk`,
  },
  // Who has proven nothing does not say by what the other is known.
  {
    from: "nbd://a/",
    to: "nbds://b/?tls-hostname=evil",
    named: "nbd://b/",
    gives: "nbds://b/",
  },
  {
    from: "nbd://a/",
    to: `nbd+noise://b/?key=${encoded(OTHER)}`,
    named: "nbd://b:10811/",
    gives: "nbd+noise://b/",
  },
  // What the user said of the place counts.
  {
    from: "nbd://a/",
    to: "nbd://b:10811/x",
    named: `nbd+noise://b/?key=${encoded(ONE)}&identity=/ours`,
    gives: `nbd+noise://b/x?key=${encoded(ONE)}&identity=/ours`,
  },
  {
    from: "nbds://a/",
    to: `nbd+noise://b/?key=${encoded(OTHER)}`,
    authenticated: true,
    named: `nbd+noise://b/?key=${encoded(ONE)}`,
    gives: `nbd+noise://b/?key=${encoded(ONE)}`,
  },
  // No address.
  {
    from: "nbd://a/",
    to: "nbd+unix:///?socket=/run/x",
    named: "nbd://b/",
    gives: "no address of an NBD server",
  },
  { from: "nbds://a/", to: "/etc/passwd", authenticated: true, gives: "no address of an NBD server" },
  { from: "nbds://a/", to: "nbds://b/?x=y", authenticated: true, gives: "no address of an NBD server" },
];

for (const { from, to, named, authenticated = false, gives } of cases) {
  const who = `${authenticated ? "who has proven it" : "whoever"}${
    named === undefined ? "" : `, following ${named}`
  }`;
  test(`redirected() from ${from} to ${to} by ${who}`, () => {
    const rules = { from: nbd(from), authenticated, named: named === undefined ? [] : [nbd(named)] };
    const result = redirected(to, rules);
    if (typeof result === "string") assertStringIncludes(result, gives);
    else assertEquals(formatDiskLocator(result), gives);
  });
}
