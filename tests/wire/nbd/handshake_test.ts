/** Client against server, both ours: what they agree on, and that neither waits for the other. */
import { assertEquals } from "@std/assert";
import { type ClientWishes, listExports, negotiateClient } from "../../../src/wire/nbd/handshake_client.ts";
import { greetOldstyle, negotiateNewstyle, type ServerHall } from "../../../src/wire/nbd/handshake_server.ts";
import { RefusedError } from "../../../src/wire/nbd/refused_error.ts";
import { TransmissionFlag } from "../../../src/wire/nbd/constants.ts";
import { ALL_FLAGS, anOffer, hallOf } from "../../testing/nbd_hall.ts";
import { play } from "../../testing/carry.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

function refusal({ error }: { error?: unknown }): RefusedError {
  if (error instanceof RefusedError) return error;
  throw new Error("not refused", { cause: error });
}

const wishes: ClientWishes = { exportName: "disk", contexts: ["base:allocation"] };

function negotiate(wishes: ClientWishes, hall: ServerHall) {
  const { client, server } = play(negotiateClient(wishes), negotiateNewstyle(hall));
  if (client.error !== undefined) throw client.error;
  if (server.error !== undefined) throw server.error;
  return { client: client.result!, server: server.result! };
}

test("a client gets extended headers, its contexts, block sizes and all flags", () => {
  const { client, server } = negotiate(wishes, hallOf([anOffer({ name: "disk", description: "a disk" })]));
  assertEquals(client, {
    style: "fixed-newstyle",
    structured: true,
    extended: true,
    contexts: [{ id: 1, name: "base:allocation" }],
    sizeBytes: 1 << 26,
    transmissionFlags: ALL_FLAGS,
    blockSizes: { minimum: 1, preferred: 4096, maximumPayload: 33554432 },
    canonicalName: "disk",
    description: "a disk",
  });
  assertEquals(server.transmissionFlags, client.transmissionFlags);
  assertEquals(server.contexts, client.contexts);
  assertEquals([server.structured, server.extended, server.style], [true, true, "fixed-newstyle"]);
});

test("a client without wishes gets simple replies and no flag that needs more", () => {
  const { client, server } = negotiate(
    { exportName: "disk", structured: false, extended: false, contexts: ["base:allocation"] },
    hallOf([anOffer()]),
  );
  assertEquals([client.structured, client.extended, client.contexts], [false, false, []]);
  const flags = ALL_FLAGS & ~(TransmissionFlag.SEND_DF | TransmissionFlag.BLOCK_STATUS_PAYLOAD);
  assertEquals([client.transmissionFlags, server.transmissionFlags], [flags, flags]);
});

test("a client that wants structured replies only gets them, and the DF flag", () => {
  const { client, server } = negotiate({ ...wishes, extended: false }, hallOf([anOffer()]));
  assertEquals([client.structured, client.extended], [true, false]);
  assertEquals([server.structured, server.extended], [true, false]);
  assertEquals(client.transmissionFlags, ALL_FLAGS & ~TransmissionFlag.BLOCK_STATUS_PAYLOAD);
});

test("a client of an oldstyle server gets its only export", () => {
  const { client, server } = play(negotiateClient(wishes), greetOldstyle(anOffer()));
  const flags = ALL_FLAGS & ~(TransmissionFlag.SEND_DF | TransmissionFlag.BLOCK_STATUS_PAYLOAD);
  assertEquals(client.result, {
    style: "oldstyle",
    sizeBytes: 1 << 26,
    transmissionFlags: flags,
    structured: false,
    extended: false,
    contexts: [],
  });
  assertEquals(server.result?.transmissionFlags, flags);
});

test("a client hears why it is refused, and leaves politely", () => {
  for (const [refused, reply] of [["unknown", 0x80000006], ["policy", 0x80000002]] as const) {
    const hall = hallOf([], { find: () => ({ refused, reason: "because\x1b of\nthat" }) });
    const { client, server } = play(negotiateClient(wishes), negotiateNewstyle(hall));
    assertEquals(refusal(client).reply, reply);
    assertEquals(refusal(client).reason, "because\\x1b of\\nthat");
    assertEquals(server.result, null);
  }
});

test("a client of a server that goes down is refused at its first option", () => {
  const hall = hallOf([anOffer()], { shuttingDown: () => "shutting down" });
  const { client, server } = play(negotiateClient(wishes), negotiateNewstyle(hall));
  assertEquals(refusal(client).message, "the server refused EXTENDED_HEADERS: ERR_SHUTDOWN (shutting down)");
  assertEquals(server.result, null);
});

test("listExports() tells all about every export", () => {
  const hall = hallOf([anOffer({ name: "a", description: "first" }), anOffer({ name: "b", sizeBytes: 512 })]);
  const { client, server } = play(listExports(), negotiateNewstyle(hall));
  const blockSizes = { minimum: 1, preferred: 4096, maximumPayload: 33554432 };
  const facts = { transmissionFlags: ALL_FLAGS & ~TransmissionFlag.BLOCK_STATUS_PAYLOAD, blockSizes };
  const contexts = ["base:allocation", "qemu:dirty-bitmap:b0"];
  assertEquals(client.result, {
    style: "fixed-newstyle",
    structured: true,
    extended: true,
    exports: [
      { name: "a", description: "first", sizeBytes: 1 << 26, ...facts, contexts },
      { name: "b", description: "", sizeBytes: 512, ...facts, contexts },
    ],
  });
  assertEquals(server.result, null);
});

test("listExports() without details asks for names alone", () => {
  const { client, server } = play(
    listExports({ details: false }),
    negotiateNewstyle(hallOf([anOffer({ name: "a", description: "first" })])),
  );
  assertEquals(client.result?.exports, [{ name: "a", description: "first" }]);
  assertEquals(server.result, null);
});

test("listExports() says which export is refused and goes on with the next", () => {
  const b = anOffer({ name: "b" });
  const hall = hallOf([anOffer({ name: "a" }), b], {
    find: (name) => name === "b" ? b : { refused: "policy", reason: "not for you" },
  });
  const { client } = play(listExports(), negotiateNewstyle(hall));
  assertEquals(client.result?.exports[0].refused?.reason, "not for you");
  assertEquals(client.result?.exports[0].sizeBytes, undefined);
  assertEquals(client.result?.exports[1].sizeBytes, 1 << 26);
});

test("listExports() of a server that does not list is refused", () => {
  const hall = hallOf([anOffer()], { list: () => ({ refused: "policy", reason: "no lists" }) });
  const { client, server } = play(listExports(), negotiateNewstyle(hall));
  assertEquals(refusal(client).reason, "no lists");
  assertEquals(server.result, null);
});

test("listExports() of an oldstyle server shows its export without a name", () => {
  const { client } = play(listExports(), greetOldstyle(anOffer({ sizeBytes: 1024 })));
  assertEquals(client.result?.exports.map(({ name, sizeBytes }) => ({ name, sizeBytes })), [
    { name: "", sizeBytes: 1024 },
  ]);
});
