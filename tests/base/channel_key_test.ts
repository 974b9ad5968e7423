import { assertEquals, assertThrows } from "@std/assert";
import { decodeKey, formatKey, parsePublicKey, parseSecretKey } from "../../src/base/channel_key.ts";

const BYTES = Uint8Array.from({ length: 32 }, (_, index) => 255 - index);
const BASE64 = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

Deno.test({
  name: "a public key is one line, with or without a comment",
  permissions: "none",
  fn() {
    assertEquals(formatKey("public", BYTES), `denbd-x25519 ${BASE64}`);
    assertEquals(formatKey("public", BYTES, "a b"), `denbd-x25519 ${BASE64} a b`);
    for (const line of [`denbd-x25519 ${BASE64} a b`, `  denbd-x25519\t${BASE64}   a  b \r`]) {
      assertEquals(parsePublicKey(line), { key: BASE64, comment: "a b" });
    }
    assertEquals(parsePublicKey(`denbd-x25519 ${BASE64}`).comment, "");
    assertEquals(parsePublicKey(`denbd-x25519 ${BASE64} \x1b[31m`).comment, "\\x1b[31m");
  },
});

Deno.test({
  name: "a key decodes in either alphabet, with or without padding, to the same bytes",
  permissions: "none",
  fn() {
    const url = BASE64.replaceAll("+", "-").replaceAll("/", "_");
    for (const text of [BASE64, BASE64.slice(0, -1), url, url.slice(0, -1)]) {
      assertEquals(decodeKey(text), BYTES);
    }
  },
});

Deno.test({
  name: "what is no public key is refused with a reason",
  permissions: "none",
  fn() {
    const cases = [
      ["", 'begins with denbd-x25519, not with ""'],
      ["ssh-ed25519 AAAA", 'not with "ssh-ed25519"'],
      ["denbd-x25519", "the key has 0 bytes and not 32"],
      [`denbd-x25519 ${BASE64.slice(4)}`, "29 bytes"],
      [`denbd-x25519 AAAA${BASE64}`, "35 bytes"],
      ["denbd-x25519 !!!!", "not written in Base64"],
      [`denbd-x25519-private ${BASE64}`, "a public key is wanted, and this is a private key"],
      [`denbd-psk ${BASE64}`, "a public key is wanted, and this is a preshared key"],
    ];
    for (const [line, message] of cases) assertThrows(() => parsePublicKey(line), SyntaxError, message);
  },
});

Deno.test({
  name: "a secret key is the one line of its file, and nothing of a wrong one is quoted",
  permissions: "none",
  fn() {
    const line = formatKey("private", BYTES);
    assertEquals(line, `denbd-x25519-private ${BASE64}`);
    for (const text of [line, `${line}\n`, `# mine\n\n${line}\r\n`]) {
      assertEquals(parseSecretKey("private", text), BYTES);
    }
    assertEquals(parseSecretKey("preshared", `denbd-psk ${BASE64}`), BYTES);
    const cases = ["", "\n", `${line}\n${line}`, `denbd-x25519 ${BASE64}`, `secret ${BASE64}`, `${line}AAAA`];
    for (const text of cases) {
      const error = assertThrows(() => parseSecretKey("private", text), SyntaxError);
      assertEquals(/secret|\/\/79/.test(error.message), false, error.message);
    }
  },
});
