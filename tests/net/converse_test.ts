import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { type Conversation, need, send, wait } from "../../src/wire/conversation.ts";
import { ConversationCutError, converse } from "../../src/net/converse.ts";
import type { Connection } from "../../src/net/connection.ts";
import { connectionPair } from "../testing/connection_pair.ts";

const pure = { permissions: "none" } as const;
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (data: Uint8Array) => new TextDecoder().decode(data);

function* asking(): Conversation<string> {
  yield* send(bytes("who"));
  yield* send(bytes(" are you"));
  const length = (yield* need(1))[0];
  return text(yield* need(length));
}

function* answering(): Conversation<string> {
  const question = text(yield* need(11));
  yield* send(new Uint8Array([5]));
  yield* send(bytes(yield* wait(Promise.resolve("denbd"))));
  return question;
}

for (const bytesPerRead of [1, 2, 7, Infinity]) {
  Deno.test(`converse() carries both sides, ${bytesPerRead} bytes per read`, pure, async () => {
    const [here, there] = connectionPair(bytesPerRead);
    const [asked, answered] = await Promise.all([converse(asking(), here), converse(answering(), there)]);
    assertEquals(asked.result, "denbd");
    assertEquals(answered.result, "who are you");
    assertEquals(asked.rest.length, 0);
  });
}

Deno.test("converse() gathers what is sent into one write", pure, async () => {
  const [here, there] = connectionPair();
  const writes: string[] = [];
  const counting: Connection = {
    ...here,
    peer: here.peer,
    read: (into) => here.read(into),
    write: (data) => (writes.push(text(data)), here.write(data)),
    close: () => here.close(),
  };
  await Promise.all([converse(asking(), counting), converse(answering(), there)]);
  assertEquals(writes, ["who are you"]);
});

Deno.test("converse() returns bytes beyond the end, and takes bytes read before", pure, async () => {
  const [here, there] = connectionPair();
  there.write(bytes("bdTRANSMISSION"));
  const { result, rest } = await converse(asking(), here, { received: bytes("\x05den") });
  assertEquals(result, "denbd");
  assertEquals(text(rest), "TRANSMISSION");
});

Deno.test("converse() reads a large need whole and keeps what follows", pure, async () => {
  const [here, there] = connectionPair();
  const large = new Uint8Array(100_000).fill(7);
  there.write(large);
  there.write(bytes("next"));
  const conversation = (function* (): Conversation<Uint8Array> {
    yield* need(1);
    return yield* need(large.length - 1);
  })();
  const { result, rest } = await converse(conversation, here);
  assertEquals(result, large.subarray(1));
  const surplus = rest.length > 0 ? rest : new Uint8Array(4);
  if (rest.length === 0) await here.read(surplus);
  assertEquals(text(surplus), "next");
});

Deno.test("who says nothing costs half a kilobyte of buffers", pure, async () => {
  const [here, there] = connectionPair();
  let bufferedBytes = 0;
  const counting: Connection = {
    ...here,
    peer: here.peer,
    write: (bytes) => here.write(bytes),
    close: () => here.close(),
    read(into) {
      bufferedBytes += into.buffer.byteLength;
      return here.read(into);
    },
  };
  const conversation = converse(need(4), counting);
  there.close();
  await assertRejects(() => conversation, ConversationCutError);
  assertEquals(bufferedBytes, 512);
});

Deno.test("converse() fails clearly when the peer closes", pure, async () => {
  for (const [sent, message] of [["", "before it said anything"], ["\x05de", "3 bytes short"]]) {
    const [here, there] = connectionPair();
    there.write(bytes(sent));
    there.close();
    await assertRejects(() => converse(asking(), here), ConversationCutError, message);
  }
});

Deno.test("a conversation may catch the peer's close", pure, async () => {
  const [here, there] = connectionPair();
  there.close();
  const conversation = (function* (): Conversation<string> {
    try {
      yield* need(1);
      return "answered";
    } catch (error) {
      return error instanceof ConversationCutError ? "cut" : "strange";
    }
  })();
  assertEquals((await converse(conversation, here)).result, "cut");
});

Deno.test("converse() ends with the signal's reason and closes the connection", pure, async () => {
  const [here, there] = connectionPair();
  const controller = new AbortController();
  const reason = new Error("too late");
  let tidied = false;
  const conversation = (function* (): Conversation<void> {
    try {
      yield* need(1);
    } finally {
      tidied = true;
    }
  })();
  const running = converse(conversation, here, { signal: controller.signal });
  controller.abort(reason);
  const error = await assertRejects(() => running);
  assertStrictEquals(error, reason);
  assertEquals(tidied, true);
  assertEquals(await there.read(new Uint8Array(1)), null);
});

Deno.test("converse() does not wait for a promise beyond the signal", pure, async () => {
  const [here] = connectionPair();
  const controller = new AbortController();
  const conversation = (function* (): Conversation<void> {
    yield* wait(new Promise<void>(() => {}));
  })();
  const running = converse(conversation, here, { signal: controller.signal });
  controller.abort(new Error("too late"));
  await assertRejects(() => running, Error, "too late");
});

Deno.test("converse() passes on what the conversation throws", pure, async () => {
  const [here] = connectionPair();
  // deno-lint-ignore require-yield
  const conversation = (function* (): Conversation<void> {
    throw new Error("not my protocol");
  })();
  await assertRejects(() => converse(conversation, here), Error, "not my protocol");
});
