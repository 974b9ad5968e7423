import { assertEquals, assertThrows } from "@std/assert";
import { openTls } from "../../src/commands/tls_options.ts";
import { temporaryDirectory } from "../testing/process.ts";

Deno.test("files that hold no certificate or no key are named", () => {
  using directory = temporaryDirectory();
  const [certificate, key, authorities] = ["server-cert.pem", "server-key.pem", "ca-cert.pem"].map(
    directory.file,
  );
  const complaint = () =>
    assertThrows(
      () => openTls({ tls: "require", tlsCertificates: directory.path, tlsVerifyPeer: true }),
      Error,
    )
      .message;
  const pem = (kind: string) => `-----BEGIN ${kind}-----\r\nAAAA\r\n-----END ${kind}-----\r\n`;
  assertEquals(complaint(), `cannot read ${certificate}: it does not exist`);
  Deno.writeTextFileSync(certificate, "grocery list");
  assertEquals(complaint(), `cannot use ${certificate}: there is no certificate in it`);
  Deno.writeTextFileSync(certificate, `a comment\n${pem("CERTIFICATE")}`);
  Deno.writeTextFileSync(key, pem("PUBLIC KEY"));
  assertEquals(complaint(), `cannot use ${key}: there is no private key in it`);
  Deno.writeTextFileSync(key, pem("RSA PRIVATE KEY"));
  Deno.writeTextFileSync(authorities, "");
  assertEquals(complaint(), `cannot use ${authorities}: there is no certificate in it`);
});
