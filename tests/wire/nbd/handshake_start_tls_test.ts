/** STARTTLS at the client: what a server, or somebody in between, may say before TLS, and what comes of it. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  listContexts,
  listExports,
  negotiateClient,
  startTls,
} from "../../../src/wire/nbd/handshake_client.ts";
import {
  greetNewstyle,
  greetOldstyle,
  resumeNewstyle,
  type StartTls,
} from "../../../src/wire/nbd/handshake_server.ts";
import { RefusedError } from "../../../src/wire/nbd/refused_error.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { carry, newTrace, play } from "../../testing/carry.ts";
import { bytes, hex, u32 } from "../../testing/hex.ts";
import { anOffer, hallOf } from "../../testing/nbd_hall.ts";

const ABORT = 2, STARTTLS = 5;
const ACK = 1, SERVER = 2, UNSUP = 0x80000001, POLICY = 0x80000002, SHUTDOWN = 0x80000007;

const greeting = (flags = "0003") => "4e42444d41474943" + "49484156454f5054" + flags;
const reply = (option: number, type: number, data = "") =>
  "0003e889045565a9" + u32(option) + u32(type) + u32(data.length / 2) + data;
const option = (number: number) => "49484156454f5054" + u32(number) + u32(0);
const startsTls = "00000003" + option(STARTTLS);

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("STARTTLS is the first thing that is asked for, and bytes behind its ACK are left over", () => {
  const injected = reply(STARTTLS, ACK) + "dead";
  const { result, sent, rest } = carry(startTls(), bytes(greeting() + reply(STARTTLS, ACK) + injected));
  assertEquals(result, { style: "fixed-newstyle", noZeroes: true });
  assertEquals([hex(sent), hex(rest)], [startsTls, injected]);
});

for (const [name, type] of Object.entries({ UNSUP, POLICY })) {
  test(`a server that answers STARTTLS with ${name} is left, whatever it says (TL-7)`, () => {
    const trace = newTrace();
    const words = hex(new TextEncoder().encode("go on in clear"));
    const script = bytes(greeting() + reply(STARTTLS, type, words) + reply(ABORT, ACK));
    const error = assertThrows(() => carry(startTls(), script, trace), RefusedError, "refused STARTTLS");
    assertEquals([error.reply, error.reason], [type, "go on in clear"]);
    assertEquals(trace.sent.map(hex).join(""), startsTls + option(ABORT));
  });
}

test("what else may come instead of TLS is no way into the clear", () => {
  const cases: [string, string][] = [
    [greeting("0000"), "newstyle, which has no TLS"],
    [greeting() + reply(STARTTLS, SERVER), "SERVER in reply to STARTTLS"],
    [greeting() + reply(STARTTLS, ACK, "00"), "ACK of STARTTLS with 1 bytes"],
    [greeting() + reply(ABORT, ACK), "reply to ABORT when STARTTLS was asked"],
  ];
  for (const [script, message] of cases) {
    assertThrows(() => carry(startTls(), bytes(script)), WireError, message);
  }
  const { client } = play(startTls(), greetOldstyle(anOffer()));
  assert(
    client.error instanceof WireError &&
      client.error.message === "the server speaks oldstyle, which has no TLS",
  );
  const shutdown = bytes(greeting() + reply(STARTTLS, SHUTDOWN));
  assertThrows(() => carry(startTls(), shutdown), RefusedError, "ERR_SHUTDOWN");
});

test("no more is taken before TLS than a refusal in words (TL-5)", () => {
  const trace = newTrace();
  const script = bytes(greeting() + reply(STARTTLS, POLICY, "61".repeat(4097)));
  assertThrows(() => carry(startTls(), script, trace), WireError, "bytes of replies");
  assertEquals(trace.takenBytes, 18 + 20, "the text itself is not read");
});

test("inside TLS every conversation goes on without a greeting", () => {
  const hall = () => hallOf([anOffer()], { tls: "required" });
  const before = play(startTls(), greetNewstyle(hall()));
  const greeted = before.client.result!;
  const inside = () => resumeNewstyle(hall(), before.server.result as StartTls);
  const wishes = { exportName: "disk", contexts: ["base:allocation"] };
  const { client } = play(negotiateClient(wishes, greeted), inside());
  assertEquals([client.result?.sizeBytes, client.result?.extended], [1 << 26, true]);
  const listing = play(listExports({ greeted }), inside()).client.result;
  assertEquals(listing?.exports.map(({ name }) => name), ["disk"]);
  assertEquals(play(listContexts("disk", greeted), inside()).client.result?.length, 2);
});
