/** From a connection in clear to one inside TLS, when somebody in between says more than he should. */
import { assertEquals, assertRejects } from "@std/assert";
import { openTls } from "../../src/remote/start_tls.ts";
import { RefusedError } from "../../src/wire/nbd/refused_error.ts";
import { WireError } from "../../src/wire/wire_error.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { bytes } from "../testing/hex.ts";

const GREETING = "4e42444d41474943 49484156454f5054 0003";
const ACK = "0003e889045565a9 00000005 00000001 00000000";
const POLICY = "0003e889045565a9 00000005 80000002 00000000";
const ACK_OF_ABORT = "0003e889045565a9 00000002 00000001 00000000";
/** Client flags, STARTTLS. */
const REQUEST_BYTES = 4 + 16;

/** What the client does with a server that says this, and how much it sent. */
async function attempt(script: string): Promise<{ failure: unknown; sentBytes: number }> {
  const [here, there] = connectionPair();
  await there.write(bytes(script));
  const failure = await openTls(here, { serverName: "localhost" }).catch((error) => error);
  let sentBytes = 0;
  for (let count; (count = await there.read(new Uint8Array(4096))) !== null;) sentBytes += count;
  return { failure, sentBytes };
}

Deno.test("what is injected in clear behind the answer to STARTTLS ends the connection (TL-3)", async () => {
  // The reply to an option that the client would ask for next.
  const injected = "0003e889045565a9 0000000b 00000001 00000000";
  const { failure, sentBytes } = await attempt(GREETING + ACK + injected);
  await assertRejects(
    () => Promise.reject(failure),
    WireError,
    "20 bytes in clear behind the answer to STARTTLS",
  );
  assertEquals(sentBytes, REQUEST_BYTES, "not even a handshake of TLS is begun");
});

Deno.test("a server that refuses STARTTLS is asked for nothing else (TL-7)", async () => {
  const { failure, sentBytes } = await attempt(GREETING + POLICY + ACK_OF_ABORT);
  await assertRejects(() => Promise.reject(failure), RefusedError, "refused STARTTLS");
  assertEquals(sentBytes, REQUEST_BYTES + 16, "an ABORT, and the end");
});

Deno.test("a server that answers in clear where TLS begins is not understood", async () => {
  const [here, there] = connectionPair();
  await there.write(bytes(GREETING + ACK));
  const opening = openTls(here, { serverName: "localhost" });
  const hello = new Uint8Array(4096);
  let received = 0;
  while (received <= REQUEST_BYTES) received += await there.read(hello) ?? 0;
  await there.write(bytes("0003e889045565a9 00000007 00000001 00000000"));
  await assertRejects(() => opening, Error, "the TLS handshake failed");
});
