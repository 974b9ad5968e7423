import { assertEquals, assertStringIncludes } from "@std/assert";
import { matchesName, type PeerFacts, PeerRules } from "../../src/access/peer_rules.ts";
import { parsePeersConf } from "../../src/config/peers_conf.ts";

const pure = { permissions: "none" } as const;
const [key, otherKey] = [1, 2].map((byte) => new Uint8Array(32).fill(byte).toBase64());

function decide(text: string, peer: PeerFacts, exportName = "disk") {
  return new PeerRules(parsePeersConf(text, "peers.conf")).rightsFor(peer, exportName);
}

const peers: Record<string, { readonly line: string; readonly is: PeerFacts; readonly isNot: PeerFacts[] }> =
  {
    address: {
      line: "address = 192.0.2.7",
      is: { address: "192.0.2.7" },
      isNot: [{ address: "192.0.2.8" }, { address: "unix" }],
    },
    prefix: {
      line: "address = 2001:db8::/32",
      is: { address: "2001:db8:1::5" },
      isNot: [{ address: "2001:db9::5" }, { address: "192.0.2.7" }],
    },
    key: {
      line: `key = denbd-x25519 ${key} somebody`,
      is: { address: "203.0.113.1", key },
      isNot: [{ address: "203.0.113.1", key: otherKey }, { address: "203.0.113.1" }],
    },
    certificate: {
      line: "certificate = vault.example.org",
      is: { address: "203.0.113.1", certificateName: "vault.example.org" },
      isNot: [{ address: "203.0.113.1", certificateName: "Vault.example.org" }, { address: "203.0.113.1" }],
    },
  };

for (const [kind, { line, is, isNot }] of Object.entries(peers)) {
  for (const rights of ["none", "read", "write"] as const) {
    Deno.test(`a peer known by its ${kind} has ${rights}, and nobody else has anything`, pure, () => {
      const text = `[peer]\n${line}\n${rights} = disk\n`;
      assertEquals(decide(text, is).rights, rights);
      assertEquals(decide(text, is, "disk2").rights, "none");
      for (const other of isNot) assertEquals(decide(text, other).rights, "none");
    });
  }
}

const text = `
[barred]
address = 10.0.0.66
none = *
[alice]
key = ${key}
write = home
[office]
address = 10.0.0.0/8
address = unix:1000
none = secret*
write = scratch
read = *
[both]
address = 192.0.2.0/24
key = ${otherKey}
write = *
`;

const decisions: [PeerFacts, string, "none" | "read" | "write", string][] = [
  [{ address: "10.0.0.66" }, "home", "none", "[barred] has none = *"],
  [{ address: "10.0.0.66", key }, "home", "none", "[barred] has none = *"],
  [{ address: "10.0.0.1", key }, "home", "write", "[alice] has write = home"],
  [{ address: "10.0.0.1", key }, "tools", "read", "[office] has read = *"],
  [{ address: "10.0.0.1" }, "home", "read", "[office] has read = *"],
  [{ address: "10.0.0.1" }, "scratch", "write", "[office] has write = scratch"],
  [{ address: "10.0.0.1" }, "secret/2", "none", "[office] has none = secret*"],
  [{ address: "unix:uid=1000" }, "home", "read", "[office] has read = *"],
  [{ address: "unix:uid=0" }, "home", "none", "no rule for unix:uid=0"],
  [{ address: "203.0.113.9", key }, "home", "write", "[alice] has write = home"],
  [{ address: "203.0.113.9", key }, "tools", "none", `no rule for 203.0.113.9 with key ${key}`],
  [{ address: "192.0.2.1", key: otherKey }, "home", "write", "[both] has write = *"],
  [{ address: "192.0.2.1" }, "home", "none", "no rule for 192.0.2.1"],
  [{ address: "203.0.113.9", key: otherKey }, "home", "none", "no rule for 203.0.113.9"],
  [{ address: "203.0.113.9", certificateName: 'a"b' }, "home", "none", 'with certificate "a\\"b"'],
  [{ address: "nonsense" }, "home", "none", 'no rule for "nonsense"'],
];

for (const [peer, exportName, rights, reason] of decisions) {
  const who = Object.values(peer).map((each) => each.slice(0, 20)).join(" ");
  Deno.test(`the first rule that speaks of both decides: ${who} has ${rights} of ${exportName}`, pure, () => {
    const decision = decide(text, peer, exportName);
    assertEquals(decision.rights, rights);
    assertStringIncludes(decision.reason, reason);
  });
}

Deno.test("without any rule nobody may do anything", pure, () => {
  for (const { is } of Object.values(peers)) assertEquals(decide("", is).rights, "none");
});

Deno.test("speaksOf() tells whether anybody may have an export", pure, () => {
  const rules = new PeerRules(parsePeersConf(text.replace("write = *", "write = x"), "peers.conf"));
  assertEquals(rules.speaksOf("home"), true);
  assertEquals(rules.speaksOf("anything"), true);
  assertEquals(rules.speaksOf("secret1"), false);
  assertEquals(new PeerRules([]).speaksOf("home"), false);
});

Deno.test("matchesName() agrees with a slow matcher on all short patterns and names", pure, () => {
  const words = (letters: string, length: number): string[] =>
    length === 0
      ? [""]
      : words(letters, length - 1).flatMap((word) => [...letters].map((each) => word + each));
  const slow = (pattern: string, name: string): boolean => {
    if (pattern === "") return name === "";
    if (pattern[0] !== "*") return name[0] === pattern[0] && slow(pattern.slice(1), name.slice(1));
    return slow(pattern.slice(1), name) || name !== "" && slow(pattern, name.slice(1));
  };
  for (const pattern of [0, 1, 2, 3, 4].flatMap((length) => words("ab*", length))) {
    for (const name of [0, 1, 2, 3, 4].flatMap((length) => words("ab", length))) {
      assertEquals(matchesName(pattern, name), slow(pattern, name), `${pattern} and ${name}`);
    }
  }
});
