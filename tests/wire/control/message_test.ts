import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import {
  type ControlRequest,
  decodeAnswer,
  encodeAnswer,
  encodeRequest,
  LINE_BYTES_MAX,
  REQUEST_BYTES_MAX,
  RequestDecoder,
} from "../../../src/wire/control/message.ts";
import { randomFrom } from "../../testing/random.ts";
import { WireError } from "../../../src/wire/wire_error.ts";

const pure = { permissions: "none" } as const;
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (data: Uint8Array) => new TextDecoder().decode(data);

/** All requests of a stream that arrives in the given pieces and then ends. */
function decode(...pieces: string[]): ControlRequest[] {
  const decoder = new RequestDecoder();
  const requests: ControlRequest[] = [];
  for (const piece of pieces) {
    decoder.push(bytes(piece));
    for (let request; (request = decoder.next()) !== null;) {
      requests.push(request);
      if (request.form === "lines") return requests;
    }
  }
  const last = decoder.end();
  return last === null ? requests : [...requests, last];
}

const lines = (command: string, ...args: string[]): ControlRequest => ({ form: "lines", command, args });
const json = (command: string, ...args: string[]): ControlRequest => ({ form: "json", command, args });

const STREAMS: [string, ControlRequest[]][] = [
  ["status\n\n", [lines("status")]],
  ["acl\n127.0.0.1\n::1\n\n", [lines("acl", "127.0.0.1", "::1")]],
  ["status\n", [lines("status")]],
  ["status\r\n\r\n", [lines("status")]],
  ["acl\n10.0.0.0/2", [lines("acl")]],
  ["status", [lines("")]],
  ["\n", [lines("")]],
  ["", [lines("")]],
  ["status\n\njunk\n", [lines("status")]],
  ['{"command":"status"}\n', [json("status")]],
  ['{"command":"status"}', [json("status")]],
  [
    '{"version":1,"command":"acl","arguments":["::1"]}\n\n{"command":"status"}\n',
    [json("acl", "::1"), json("status")],
  ],
  ['acl\n{"x"}\n\n', [lines("acl", '{"x"}')]],
];

for (const [stream, requests] of STREAMS) {
  Deno.test(`${JSON.stringify(stream)} is understood however it is cut`, pure, () => {
    assertEquals(decode(stream), requests);
    assertEquals(decode(...stream), requests);
    for (let cut = 1; cut < stream.length; cut++) {
      assertEquals(decode(stream.slice(0, cut), stream.slice(cut)), requests, `cut at ${cut}`);
    }
  });
}

const REFUSED: [string, string][] = [
  ["{\n", "the request is no JSON"],
  ["{}\n", `the request's "command" is no string`],
  ['{"command":1}\n', `the request's "command" is no string`],
  ['{"command":"x","arguments":"y"}\n', `the request's "arguments" are no array of strings`],
  ['{"command":"x","arguments":[1]}\n', `the request's "arguments" are no array of strings`],
  ['{"command":"x"}\nstatus\n', `a JSON request starts with "{", not "s"`],
  [`${"x".repeat(LINE_BYTES_MAX + 1)}\n`, "a line is longer than 4096 bytes"],
  ["x".repeat(LINE_BYTES_MAX + 1), "a line is longer than 4096 bytes"],
  [`{${"x".repeat(REQUEST_BYTES_MAX)}`, "the request is longer than 1048576 bytes"],
];

for (const [stream, message] of REFUSED) {
  Deno.test(`${JSON.stringify(stream.slice(0, 50))} is refused: ${message}`, pure, () => {
    assertStringIncludes(assertThrows(() => decode(stream), WireError).message, message);
  });
}

Deno.test(
  "V56: a request to the control socket of a later version is refused, and both are named",
  pure,
  () => {
    const { message } = assertThrows(() => decode('{"command":"x","version":2}\n'), WireError);
    assertEquals(message, "the request has version 2, not 1");
  },
);

Deno.test("a request of many short lines is bounded too", pure, () => {
  const decoder = new RequestDecoder();
  assertThrows(
    () => {
      for (let count = 0; count < 20; count++) {
        decoder.push(bytes("10.0.0.1\n".repeat(10_000)));
        decoder.next();
      }
    },
    WireError,
    "longer than 1048576 bytes",
  );
});

Deno.test("bytes that are no UTF-8 are refused", pure, () => {
  const decoder = new RequestDecoder();
  decoder.push(new Uint8Array([0x73, 0xff, 0x0a]));
  assertThrows(() => decoder.next(), WireError, "no UTF-8");
});

Deno.test("a random stream gives requests or a WireError, whatever it holds", pure, () => {
  const { seed, below: random } = randomFrom();
  const alphabet = bytes('{}[]",:ac \n\n\r\xff\x00');
  for (let round = 0; round < 2000; round++) {
    const decoder = new RequestDecoder();
    try {
      for (let count = random(4); count >= 0; count--) {
        decoder.push(Uint8Array.from({ length: random(30) }, () => alphabet[random(alphabet.length)]));
        while (decoder.next() !== null);
      }
      decoder.end();
    } catch (error) {
      if (!(error instanceof WireError)) throw new Error(`seed ${seed}`, { cause: error });
    }
  }
});

Deno.test("encodeRequest() writes what the decoder reads", pure, () => {
  assertEquals(text(encodeRequest(lines("acl", "::1"))), "acl\n::1\n\n");
  assertEquals(
    text(encodeRequest(json("acl", "::1"))),
    '{"version":1,"command":"acl","arguments":["::1"]}\n',
  );
  for (const request of [lines("acl", "::1", "10.0.0.0/8"), json("status"), json("x", "", "a\nb")]) {
    assertEquals(decode(text(encodeRequest(request))), [request]);
  }
});

Deno.test("encodeRequest() refuses words that lines cannot carry", pure, () => {
  for (const word of ["", "a\nb", "a\r"]) {
    assertThrows(() => encodeRequest(lines("acl", word)), RangeError, "empty, or with a line break");
  }
});

Deno.test("encodeAnswer() is one line in either form", pure, () => {
  assertEquals(text(encodeAnswer({ code: 10, text: "unknown command" }, "lines")), "10: unknown command\n");
  assertEquals(text(encodeAnswer({ code: 1, text: "a\n\nb" }, "lines")), "1: a b\n");
  assertEquals(
    text(encodeAnswer({ code: 0, text: "pid=1 ", result: { pid: 1 } }, "json")),
    '{"version":1,"code":0,"text":"pid=1","result":{"pid":1}}\n',
  );
});

Deno.test("decodeAnswer() reads both forms and refuses anything else", pure, () => {
  assertEquals(decodeAnswer("0: pid=1 size=2 "), { code: 0, text: "pid=1 size=2 " });
  assertEquals(decodeAnswer("9: missing command"), { code: 9, text: "missing command" });
  assertEquals(decodeAnswer('{"version":1,"code":0,"text":"x","result":[1]}'), {
    code: 0,
    text: "x",
    result: [1],
  });
  for (const line of ["", "hello", "-1: x", "1000: x", "{", "{}", '{"code":0}', '{"version":7,"code":0}']) {
    assertThrows(() => decodeAnswer(line), WireError);
  }
});
