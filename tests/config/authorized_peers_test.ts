import { assertEquals, assertThrows } from "@std/assert";
import { parseAuthorizedPeers } from "../../src/config/authorized_peers.ts";
import { ConfigError } from "../../src/config/config_error.ts";

const key = (value: number) => new Uint8Array(32).fill(value).toBase64();

Deno.test({
  name: "parseAuthorizedPeers() reads keys with what they give, in order",
  permissions: "none",
  fn() {
    const text = [
      "\uFEFF# who may come in",
      `denbd-x25519 ${key(1)} alice@desk`,
      "",
      `  read   denbd-x25519 ${key(2)}`,
      `write denbd-x25519 ${key(3)} two words\r`,
      `none denbd-x25519 ${key(4)}`,
    ].join("\n");
    assertEquals(parseAuthorizedPeers(text, "peers"), [
      { key: key(1), comment: "alice@desk", rights: "write" },
      { key: key(2), comment: "", rights: "read" },
      { key: key(3), comment: "two words", rights: "write" },
      { key: key(4), comment: "", rights: "none" },
    ]);
    assertEquals(parseAuthorizedPeers("", "peers"), []);
  },
});

Deno.test({
  name: "parseAuthorizedPeers() names file and line of what is wrong",
  permissions: "none",
  fn() {
    const good = `denbd-x25519 ${key(1)}`;
    const cases: [string, string][] = [
      [`${good}\n\nnonsense`, 'peers:3: a public key begins with denbd-x25519, not with "nonsense"'],
      [`delete ${good}`, "peers:1: a public key begins with denbd-x25519"],
      [`${good}\nread denbd-x25519 AAAA`, "peers:2: the key has 3 bytes and not 32"],
      [`denbd-x25519-private ${key(1)}`, "peers:1: a public key is wanted, and this is a private key"],
      [`${good}\n#\nnone ${good}`, "peers:3: the key of line 1 once more"],
    ];
    for (const [text, message] of cases) {
      assertThrows(() => parseAuthorizedPeers(text, "peers"), ConfigError, message);
    }
  },
});
