/** Certificates that were good in the handshake, when time has passed or the authorities are others. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { certificateFault, type ShownCertificate } from "../../src/net/shown_certificate.ts";
import { connectTls } from "../../src/net/tls_client.ts";
import { prepareTlsServer } from "../../src/net/tls_server.ts";
import { peerTest } from "../interop/peers.ts";
import { Authority } from "../testing/certificates.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { temporaryDirectory } from "../testing/process.ts";

const DAY_MS = 24 * 60 * 60 * 1000;

interface World extends Disposable {
  readonly good: Authority;
  readonly other: Authority;
  file(name: string): string;
}

async function makeWorld(): Promise<World> {
  const directory = temporaryDirectory();
  const good = await Authority.create(directory.file("good"));
  const other = await Authority.create(directory.file("other"));
  await good.issue("server", { names: "DNS:localhost" });
  return {
    good,
    other,
    file: (name) => directory.file(name),
    [Symbol.dispose]: () => directory[Symbol.dispose](),
  };
}

function ca(authority: Authority): string {
  return authority.read("ca-cert.pem");
}

/** What a server that trusts some authorities knows of a client, after a handshake with it. */
async function shown(
  { good }: World,
  trusted: string,
  issuer: Authority,
  { who = "client", beside = "" } = {},
): Promise<ShownCertificate> {
  const [here, there] = connectionPair();
  const identity = {
    certificate: issuer.read(`${who}-cert.pem`) + beside,
    privateKey: issuer.read(`${who}-key.pem`),
  };
  const [client, server] = await Promise.all([
    connectTls(here, { serverName: "localhost", authorities: ca(good), identity }),
    prepareTlsServer({
      certificate: good.read("server-cert.pem"),
      privateKey: good.read("server-key.pem"),
      clientAuthorities: trusted,
    })(there),
  ]);
  client.close();
  server.close();
  return server.peer.certificate!;
}

peerTest("a certificate counts as long as one of the authorities has signed it", ["openssl"], async () => {
  using world = await makeWorld();
  const { good, other } = world;
  await good.issue("client", { usage: "clientAuth" });
  const certificate = await shown(world, ca(good), good);
  assertEquals(certificateFault(certificate, ca(good)), null);
  assertEquals(certificateFault(certificate, ca(other) + ca(good)), null);
  assertEquals(certificateFault(certificate, "For people.\n" + ca(good)), null);
  const fault = "its certificate is signed by none of the authorities that are trusted now";
  assertEquals(certificateFault(certificate, ca(other)), fault);
  assertEquals(certificateFault(certificate, ""), fault);
  assertEquals(certificateFault(certificate, undefined), "client certificates are not looked at any more");
});

peerTest("an authority of the same name with another key has signed nothing", ["openssl"], async () => {
  using world = await makeWorld();
  const { good } = world;
  await good.issue("client");
  const certificate = await shown(world, ca(good), good);
  Deno.mkdirSync(world.file("elsewhere"));
  const namesake = await Authority.create(world.file("elsewhere/good"));
  assertStringIncludes(certificateFault(certificate, ca(namesake)) ?? "", "signed by none");
});

peerTest("a certificate counts until it expires, whatever the authorities", ["openssl"], async () => {
  using world = await makeWorld();
  const { good, other } = world;
  await good.issue("client", { days: 1 });
  const certificate = await shown(world, ca(good), good);
  const soonMs = Date.now() + DAY_MS / 2;
  const lateMs = Date.now() + 2 * DAY_MS;
  assertEquals(certificateFault(certificate, ca(good), soonMs), null);
  for (const authorities of [ca(good), ca(other) + ca(good)]) {
    assertStringIncludes(certificateFault(certificate, authorities, lateMs) ?? "", "has expired on");
  }
});

peerTest("a certificate counts by way of those that were shown with it", ["openssl"], async () => {
  using world = await makeWorld();
  const { good, other } = world;
  const between = await good.createBelow(world.file("between"), { days: 1 });
  const lower = await between.createBelow(world.file("lower"));
  await lower.issue("client", { usage: "clientAuth" });
  const certificate = await shown(world, ca(good), lower, { beside: ca(lower) + ca(between) });
  assertEquals(certificateFault(certificate, ca(good)), null);
  assertEquals(certificateFault(certificate, ca(other) + ca(good)), null);
  assertEquals(certificateFault(certificate, ca(between)), null);
  assertEquals(certificateFault(certificate, ca(lower)), null);
  assertStringIncludes(certificateFault(certificate, ca(other)) ?? "", "signed by none");
  // The one in the middle holds for a day.
  const lateMs = Date.now() + 1.5 * DAY_MS;
  assertStringIncludes(certificateFault(certificate, ca(good), lateMs) ?? "", "signed by none");
  assertEquals(certificateFault(certificate, ca(lower), lateMs), null);
});

peerTest("a certificate that may sign none leads nowhere", ["openssl"], async () => {
  using world = await makeWorld();
  const { good, other } = world;
  // Whoever holds it has signed another one with its key.
  await other.issue("rogue");
  const rogue = await good.createBelow(world.file("rogue"));
  Deno.copyFileSync(`${other.path}/rogue-cert.pem`, `${rogue.path}/ca-cert.pem`);
  Deno.copyFileSync(`${other.path}/rogue-key.pem`, `${rogue.path}/ca-key.pem`);
  await rogue.issue("client", { usage: "clientAuth" });
  const certificate = await shown(world, ca(rogue), rogue, { beside: ca(rogue) });
  assertStringIncludes(certificateFault(certificate, ca(other)) ?? "", "signed by none");
});

peerTest(
  "what only a handshake can weigh counts as no path when the authorities change",
  ["openssl"],
  async () => {
    using world = await makeWorld();
    const { good, other } = world;
    const extensions = ["nameConstraints=permitted;DNS:example.org"];
    const narrow = await good.createBelow(world.file("narrow"), { extensions });
    await narrow.issue("client", { names: "DNS:a.example.org" });
    const certificate = await shown(world, ca(good), narrow, { beside: ca(narrow) });
    assertEquals(certificateFault(certificate, ca(good)), null);
    for (const authorities of [ca(other) + ca(good), ca(narrow)]) {
      assertStringIncludes(certificateFault(certificate, authorities) ?? "", "signed by none");
    }
  },
);
