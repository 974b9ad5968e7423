import { assertEquals, assertThrows } from "@std/assert";
import { ConfigError } from "../../src/config/config_error.ts";
import { acquaintance, parseKnownServers } from "../../src/config/known_servers.ts";

const key = (value: number) => new Uint8Array(32).fill(value).toBase64();

Deno.test({
  name: "parseKnownServers() reads servers with their keys and lines",
  permissions: "none",
  fn() {
    const text = `# met\nstore:10811 denbd-x25519 ${key(1)}\n\n[::1]:10811 denbd-x25519 ${
      key(2)
    } old comment\n`;
    assertEquals(parseKnownServers(text, "known"), [
      { server: "store:10811", key: key(1), line: 2 },
      { server: "[::1]:10811", key: key(2), line: 4 },
    ]);
    assertThrows(
      () => parseKnownServers("store:1", "known"),
      ConfigError,
      "known:1: a line is HOST:PORT and",
    );
    assertThrows(
      () => parseKnownServers(`\nx ssh-rsa AAAA`, "known"),
      ConfigError,
      "known:2: a public key begins",
    );
  },
});

Deno.test({
  name: "acquaintance() tells known, new and changed servers apart",
  permissions: "none",
  fn() {
    const servers = [
      { server: "store:1", key: key(1), line: 1 },
      { server: "store:2", key: key(2), line: 2 },
      { server: "store:1", key: key(3), line: 3 },
    ];
    assertEquals(acquaintance(servers, "store:1", key(1)), { kind: "known" });
    assertEquals(acquaintance(servers, "store:1", key(3)), { kind: "known" });
    assertEquals(acquaintance(servers, "store:1", key(2)), { kind: "changed", line: 1 });
    assertEquals(acquaintance(servers, "store:2", key(1)), { kind: "changed", line: 2 });
    assertEquals(acquaintance(servers, "store:3", key(1)), { kind: "new" });
  },
});
