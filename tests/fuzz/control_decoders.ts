/** Fuzzers of what is said over the control socket and of access list entries. */
import { assert, assertEquals } from "@std/assert";
import { AccessList, parseAclEntry } from "../../src/access/acl.ts";
import {
  type ControlRequest,
  decodeAnswer,
  encodeRequest,
  RequestDecoder,
} from "../../src/wire/control/message.ts";
import { WireError } from "../../src/wire/wire_error.ts";
import { accepts, damaged, pick } from "./damage.ts";
import type { Fuzzer, Random } from "./fuzzer.ts";

const decoder = new TextDecoder();

function someEntry(random: Random): string {
  const address = pick(random, [
    "10.0.0.1",
    "0",
    "::",
    "2001:db8::1",
    "::ffff:192.0.2.1",
    "[::1]",
    "unix",
    "unix:7",
  ]);
  const bits = random.chance(0.5) ? `/${random.below(140)}` : "";
  return address + bits + pick(random, ["", "=read", "=write", "=none"]);
}

function someRequest(random: Random): ControlRequest {
  const args = Array.from({ length: random.below(5) }, () => someEntry(random));
  return { form: pick(random, ["lines", "json"]), command: pick(random, ["status", "acl", "x"]), args };
}

/** All requests of a stream that arrives in random pieces, or the message of the refusal. */
function decodeStream(bytes: Uint8Array, pieceMax: number, random: Random): (ControlRequest | string)[] {
  const stream = new RequestDecoder();
  const results: (ControlRequest | string)[] = [];
  try {
    for (let at = 0; at < bytes.length;) {
      const length = Math.min(1 + random.below(pieceMax), bytes.length - at);
      stream.push(bytes.subarray(at, at + length));
      at += length;
      for (let request; (request = stream.next()) !== null;) {
        results.push(request);
        if (request.form === "lines") return results;
      }
    }
    const last = stream.end();
    if (last !== null) results.push(last);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    results.push(error.message);
  }
  return results;
}

/** How a stream is cut makes no difference to what is heard, and answers are read or refused. */
export const controlMessages: Fuzzer = {
  name: "control-messages",
  summary: "control requests and answers: the same however they are cut, a request or a WireError",
  round(random) {
    const bytes = damaged(encodeRequest(someRequest(random)), random);
    assertEquals(decodeStream(bytes, 7, random), decodeStream(bytes, 65536, random));
    const answer = random.chance(0.5) ? "0: updated" : '{"version":1,"code":0,"text":"x","result":{}}';
    accepts(() => decodeAnswer(decoder.decode(damaged(new TextEncoder().encode(answer), random))), WireError);
  },
};

/** What is accepted as an entry means the same when it is shown and given again. */
export const accessEntries: Fuzzer = {
  name: "access-entries",
  summary: "access list entries: a SyntaxError of one line, or an entry whose text means the same",
  round(random) {
    const text = decoder.decode(damaged(new TextEncoder().encode(someEntry(random)), random));
    try {
      const entry = parseAclEntry(text);
      assertEquals(parseAclEntry(entry.text), entry);
      for (const address of ["10.0.0.1", "2001:db8::1", "unix:uid=7"]) {
        const { rights } = new AccessList([text]).rightsFor(address);
        assertEquals(new AccessList([entry.text]).rightsFor(address).rights, rights);
      }
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      assert(!error.message.includes("\n"));
    }
  },
};
