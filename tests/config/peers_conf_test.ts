import { assertEquals, assertThrows } from "@std/assert";
import { ConfigError } from "../../src/config/config_error.ts";
import { parsePeersConf } from "../../src/config/peers_conf.ts";

const pure = { permissions: "none" } as const;
const key = new Uint8Array(32).fill(7).toBase64();

Deno.test("a section of peers.conf is a peer, its rights in the order of their lines", pure, () => {
  const [peer, ...others] = parsePeersConf(
    `[backup host]
key = denbd-x25519 ${key} backup@vault
key = ${key.replaceAll("+", "-").replaceAll("/", "_").replace("=", "")}
certificate = vault.example.org
address = 10.0.0.0/8
read = a
write = b
none = c
read = *
`,
    "peers.conf",
  );
  assertEquals(others, []);
  assertEquals([peer.name, peer.line], ["backup host", 1]);
  assertEquals(peer.keys, [{ key, comment: "backup@vault" }, { key, comment: "" }]);
  assertEquals(peer.certificateNames, ["vault.example.org"]);
  assertEquals(peer.addresses.length, 1);
  assertEquals(peer.rights, [
    { rights: "read", exports: "a", line: 6 },
    { rights: "write", exports: "b", line: 7 },
    { rights: "none", exports: "c", line: 8 },
    { rights: "read", exports: "*", line: 9 },
  ]);
});

const refused: [string, number, string][] = [
  ["read = x\n", 1, "a key in front of the first [peer]"],
  ["[]\naddress = ::\nread = x\n", 1, "a peer needs a name"],
  ["[a]\nread = x\n", 1, 'peer "a" has no address, key or certificate to know it by'],
  ["[a]\naddress = 10.0.0.1\n", 1, 'peer "a" has no none, read or write'],
  ["[a]\naddress = ::\nread = x\n[a]\naddress = ::\nread = x\n", 4, 'peer "a" is in line 1 already'],
  ["[a]\naddress = host\nread = x\n", 2, "address: this is no IP address"],
  ["[a]\naddress = 10.0.0.0/33\nread = x\n", 2, "address: its prefix has at most 32 bits"],
  ["[a]\nkey = abc\nread = x\n", 2, "key: the key has"],
  [`[a]\nkey = denbd-x25519-private ${key}\nread = x\n`, 2, "key: a public key is wanted"],
  ["[a]\ncertificate =\nread = x\n", 2, "certificate: a value is missing"],
  ["[a]\naddress = ::\nread =\n", 3, "read: a value is missing"],
  ["[a]\naddress = ::\nrw = x\n", 3, "unknown key rw in [a]"],
  ["[a]\naddress = ::\n read = x\n", 3, "indented, and so read as another value of address"],
  // Taken for another export to read, the first would let everybody in, and the second would protect nothing.
  [
    "[a]\naddress = ::1\nread = *\n [b]\naddress = ::/0\nread = x\n",
    4,
    "indented, and so read as another value of read",
  ],
  ["[a]\naddress = ::\nread = x\n none: y*\nread = *\n", 4, "indented, and so read as another value of read"],
];

for (const [text, line, message] of refused) {
  Deno.test(`peers.conf is refused with its line: ${message}`, pure, () => {
    const error = assertThrows(() => parsePeersConf(text, "peers.conf"), ConfigError, message);
    assertEquals([error.file, error.line], ["peers.conf", line]);
  });
}

Deno.test("a private key in peers.conf is not quoted in the error", pure, () => {
  const error = assertThrows(() =>
    parsePeersConf(`[a]\nkey = denbd-x25519-private ${key}\nread = x\n`, "peers.conf")
  );
  assertEquals((error as Error).message.includes(key), false);
});
