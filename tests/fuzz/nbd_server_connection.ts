/** Fuzzers of a whole NBD server: a disk in memory, clients over connections in memory. */
import { assert, assertEquals } from "@std/assert";
import { concat } from "@std/bytes";
import { MemoryDisk } from "../../src/device/memory.ts";
import type { Connection } from "../../src/net/connection.ts";
import {
  AllocationStatus,
  BASE_ALLOCATION,
  ChunkType,
  Command,
  CommandFlag,
  ReplyFlag,
  WireErrno,
} from "../../src/wire/nbd/constants.ts";
import type { ClientAgreement } from "../../src/wire/nbd/handshake_client.ts";
import { encodeInfoRequest, encodeMetaRequest, encodeOption } from "../../src/wire/nbd/option.ts";
import { encodeClientFlags } from "../../src/wire/nbd/greeting.ts";
import { encodeRequest, type Request, requestBytes } from "../../src/wire/nbd/transmission.ts";
import { Option } from "../../src/wire/nbd/constants.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { type Answer, RawClient } from "../testing/raw_client.ts";
import { type ServedDisk, serveDisk } from "../testing/served_disk.ts";
import { viewOf } from "../testing/hex.ts";
import { awkwardU53, damaged, pick } from "./damage.ts";
import { DiskModel } from "./disk_model.ts";
import type { Fuzzer, Random } from "./fuzzer.ts";
import { MoodyConnection } from "./moody_connection.ts";
import { MoodyDisk } from "./moody_disk.ts";
import { settled, turns } from "./turns.ts";

const DRAIN_MS = 5_000;

/** A served disk and what a round knows about it. */
interface Stage extends AsyncDisposable {
  readonly served: ServedDisk;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Whether operations may fail. */
  readonly failing: boolean;
  /** The client's end of a new connection. */
  dial(breaksAfterBytes?: number): Connection;
}

function someStage(random: Random): Stage {
  const sizeBytes = pick(random, [1, 512, 65536, 100_000, 1 << 20, (1 << 20) + 7]);
  const failing = random.chance(0.2);
  const readOnly = random.chance(0.1);
  const slow = pick(random, [0, 0, 0.3, 1]);
  const disk = new MoodyDisk(new MemoryDisk(sizeBytes), random, { slow, failing: failing ? 0.1 : 0 });
  const served = serveDisk(disk, { readOnly, oldstyle: random.chance(0.1) });
  return {
    served,
    sizeBytes,
    readOnly,
    failing,
    dial(breaksAfterBytes = Infinity) {
      const [here, there] = connectionPair();
      served.server.handle(new MoodyConnection(there, random, { slow: 0.2, breaksAfterBytes }));
      return here;
    },
    async [Symbol.asyncDispose]() {
      assert(await settled(served.server.drain(DRAIN_MS), "the server's drain"), "a session does not end");
    },
  };
}

/** A request, mostly within the disk, and its payload. */
function someRequest(random: Random, sizeBytes: number, agreed: ClientAgreement): {
  request: Omit<Request, "cookie">;
  payload?: Uint8Array;
} {
  const type = random.chance(0.95)
    ? pick(random, [0, 0, 1, 1, 1, 3, 4, 5, 6, 6, 7])
    : pick(random, [8, 9, 42, 65535]);
  let offset = random.below(sizeBytes);
  let length = 1 + random.below(Math.min(sizeBytes - offset, random.chance(0.8) ? 8192 : sizeBytes));
  if (random.chance(0.05)) length = sizeBytes - offset + random.below(3);
  if (random.chance(0.1)) offset = awkwardU53(random);
  if (random.chance(0.05) && type !== Command.WRITE) length = random.chance(0.5) ? 0 : random.below(2 ** 32);
  let flags = random.chance(0.8) ? 0 : random.chance(0.5) ? CommandFlag.FUA : 1 << random.below(5);
  if (random.chance(0.02)) flags |= 1 << random.below(16);
  flags &= ~CommandFlag.PAYLOAD_LEN;
  if (type === Command.WRITE) {
    if (agreed.extended && random.chance(0.9)) flags |= CommandFlag.PAYLOAD_LEN;
    const payload = random.chance(0.3) ? new Uint8Array(length) : random.bytes(length);
    return { request: { type, flags, offset, length }, payload };
  }
  if (!agreed.extended || !random.chance(0.1)) {
    return { request: { type, flags, offset, length }, payload: undefined };
  }
  flags |= CommandFlag.PAYLOAD_LEN;
  const payload = random.bytes(type === Command.BLOCK_STATUS ? 12 + 4 * random.below(2) : random.below(600));
  if (payload.length >= 12) {
    const view = viewOf(payload);
    view.setBigUint64(0, BigInt(length));
    view.setUint32(8, 1 + (random.chance(0.1) ? 1 : 0));
  }
  return { request: { type, flags, offset, length: payload.length }, payload };
}

/** The error that the specification wants, or 0: written anew, in its own words. */
function rightError(
  request: Omit<Request, "cookie">,
  payload: Uint8Array | undefined,
  stage: Stage,
  agreed: ClientAgreement,
): number {
  const { type, flags, offset } = request;
  const { FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN } = CommandFlag;
  const { READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS } = Command;
  const changes = type === WRITE || type === TRIM || type === WRITE_ZEROES;
  const own = ({
    [READ]: agreed.structured ? DF : 0,
    [WRITE]: agreed.extended ? PAYLOAD_LEN : 0,
    [FLUSH]: 0,
    [TRIM]: 0,
    [CACHE]: 0,
    [WRITE_ZEROES]: NO_HOLE | (stage.readOnly ? 0 : FAST_ZERO),
    [BLOCK_STATUS]: REQ_ONE | (agreed.extended ? PAYLOAD_LEN : 0),
  } as Record<number, number>)[type];
  if (own === undefined || (flags & ~(own | FUA)) !== 0) return WireErrno.EINVAL;
  if (changes && stage.readOnly) return WireErrno.EPERM;
  if (type === FLUSH) return 0;
  let { length } = request;
  if (type === BLOCK_STATUS) {
    if (agreed.contexts.length === 0) return WireErrno.EINVAL;
    if ((flags & PAYLOAD_LEN) !== 0) {
      const view = viewOf(payload!);
      if (payload!.length !== 12 || view.getUint32(8) !== agreed.contexts[0].id) return WireErrno.EINVAL;
      length = Number(view.getBigUint64(0));
    }
  }
  if (length === 0) return WireErrno.EINVAL;
  if (offset + length > stage.sizeBytes) {
    return type === WRITE || type === WRITE_ZEROES ? WireErrno.ENOSPC : WireErrno.EINVAL;
  }
  return 0;
}

/** Requests of all kinds, well and badly formed, every answer held against a plain array and the specification. */
export const nbdServerRequests: Fuzzer = {
  name: "nbd-server-requests",
  summary: "a served disk answers every request once, as a plain array and the table of errors would",
  async round(random) {
    await using stage = someStage(random);
    const agreedTo = {
      exportName: "disk",
      structured: random.chance(0.8),
      extended: random.chance(0.5),
      contexts: random.chance(0.8) ? [BASE_ALLOCATION] : [],
    };
    const client = await settled(RawClient.open(stage.dial(), agreedTo), "the handshake");
    const model = new DiskModel(stage.sizeBytes);
    const checks: (() => Promise<void>)[] = [];
    for (let count = random.below(40); count > 0; count--) {
      const { request, payload } = someRequest(random, stage.sizeBytes, client.agreement);
      const error = rightError(request, payload, stage, client.agreement);
      const cookie = await client.send(request, payload);
      const check = expectation(request, payload, error, stage, model);
      checks.push(async () => {
        const answer = await client.answer(cookie);
        try {
          check(answer);
        } catch (error) {
          const what = `${
            JSON.stringify({ ...request, sizeBytes: stage.sizeBytes })
          } answered ${answer.error}`;
          throw new Error(`${what}: ${error instanceof Error ? error.message : error}`, { cause: error });
        }
      });
      // What failed changes what is known, so nothing may be on its way then.
      const alone = stage.failing;
      if (alone || random.chance(0.1)) {
        for (const check of checks.splice(0)) await settled(check(), "an answer");
      }
    }
    for (const check of checks) await settled(check(), "an answer");
    await client.send({ type: Command.DISC });
    assertEquals(await settled(client.receive(), "the end"), null);
    client.connection.close();
  },
};

/** Performs the request on the model and tells how its answer is held against it. */
function expectation(
  request: Omit<Request, "cookie">,
  payload: Uint8Array | undefined,
  error: number,
  stage: Stage,
  model: DiskModel,
): (answer: Answer) => void {
  const { type, offset, length, flags } = request;
  const changes = type === Command.WRITE || type === Command.TRIM || type === Command.WRITE_ZEROES;
  if (error !== 0) return (answer) => assertEquals(answer.error, error);
  const statusLength = (flags & CommandFlag.PAYLOAD_LEN) !== 0 && type === Command.BLOCK_STATUS
    ? Number(viewOf(payload!).getBigUint64(0))
    : length;
  const before = type === Command.READ
    ? model.expect(offset, length)
    : type === Command.BLOCK_STATUS
    ? model.expect(offset, statusLength)
    : null;
  if (type === Command.WRITE) model.write(offset, payload!);
  else if (changes) model.zero(offset, length);
  return (answer) => {
    if (answer.error !== 0) {
      assert(stage.failing, "fails without reason");
      assertEquals(answer.error, WireErrno.EIO);
      if (changes) model.forget(offset, length);
    } else if (type === Command.READ) {
      before!.checkData(answer.data);
    } else if (type === Command.BLOCK_STATUS) {
      let at = 0;
      for (const { length, status } of extentsOf(answer)) {
        assert(length > 0 && at < statusLength && at + length <= statusLength, "extents leave the request");
        if ((status & AllocationStatus.ZERO) !== 0) before!.checkZero(at, length);
        at += length;
      }
      assert(at > 0 && ((flags & CommandFlag.REQ_ONE) === 0 || extentsOf(answer).length === 1));
    }
    if ((flags & CommandFlag.DF) !== 0 && type === Command.READ && answer.error === 0) {
      assertEquals(answer.chunks.filter(({ header }) => header.type !== ChunkType.NONE).length, 1);
    }
  };
}

/** The extents of the one status chunk of an answer, read by a decoder of this test's own. */
function extentsOf(answer: Answer): { length: number; status: number }[] {
  const chunks = answer.chunks.filter(({ header }) => header.type !== ChunkType.NONE);
  assertEquals(chunks.length, 1);
  const [{ header, payload }] = chunks;
  const wide = header.type === ChunkType.BLOCK_STATUS_EXT;
  const view = viewOf(payload);
  const found = [];
  for (let at = wide ? 8 : 4; at < payload.length; at += wide ? 16 : 8) {
    found.push({
      length: wide ? Number(view.getBigUint64(at)) : view.getUint32(at),
      status: wide ? Number(view.getBigUint64(at + 8)) : view.getUint32(at + 4),
    });
  }
  return found;
}

/** All that a client says, from its flags to its last request, as bytes; mostly damaged after the handshake. */
function someClientBytes(random: Random, sizeBytes: number): Uint8Array {
  const extended = random.chance(0.5);
  const said = [encodeClientFlags(3)];
  if (random.chance(0.8)) {
    said.push(encodeOption(extended ? Option.EXTENDED_HEADERS : Option.STRUCTURED_REPLY));
  }
  if (random.chance(0.5)) {
    const contexts = encodeMetaRequest({ exportName: "disk", queries: [BASE_ALLOCATION] });
    said.push(encodeOption(Option.SET_META_CONTEXT, contexts));
  }
  said.push(encodeOption(Option.GO, encodeInfoRequest({ exportName: "disk", types: [3] })));
  const agreed = {
    extended,
    structured: true,
    contexts: [{ id: 1, name: BASE_ALLOCATION }],
  } as unknown as ClientAgreement;
  const requests: Uint8Array[] = [];
  for (let count = random.below(20); count > 0; count--) {
    const { request, payload } = someRequest(random, sizeBytes, agreed);
    const header = new Uint8Array(requestBytes(extended));
    encodeRequest(viewOf(header), 0, extended, { ...request, cookie: BigInt(count) });
    requests.push(header);
    if (payload !== undefined) requests.push(payload);
  }
  const handshake = random.chance(0.8) ? concat(said) : damaged(concat(said), random);
  return concat([handshake, damaged(concat(requests), random)]);
}

/** Whole conversations of several clients, damaged, some of which vanish; a last client finds all in order. */
export const nbdServerConnection: Fuzzer = {
  name: "nbd-server-connection",
  summary: "a server survives damaged clients and those that vanish, and serves the next one",
  async round(random) {
    await using stage = someStage(random);
    const lingering: Connection[] = [];
    for (let count = 1 + random.below(3); count > 0; count--) {
      const breaksAfterBytes = random.chance(0.3) ? random.below(2000) : Infinity;
      const connection = stage.dial(breaksAfterBytes);
      const said = random.chance(0.1)
        ? random.bytes(random.below(300))
        : someClientBytes(random, stage.sizeBytes);
      connection.write(said);
      await turns(random.below(300));
      if (random.chance(0.8)) connection.close();
      else lingering.push(connection);
    }
    const client = await settled(RawClient.open(stage.dial(), { exportName: "disk" }), "the handshake");
    const length = Math.min(4096, stage.sizeBytes);
    const answer = await settled(client.read(0, length), "a read");
    assert(answer.error === 0 || stage.failing && answer.error === WireErrno.EIO);
    for (const connection of [...lingering, client.connection]) connection.close();
  },
};

/** A server that goes down while requests are on their way. */
export const nbdServerDrain: Fuzzer = {
  name: "nbd-server-drain",
  summary: "a server that goes down answers what it has, refuses the rest or says nothing, and ends in time",
  async round(random) {
    await using stage = someStage(random);
    const wishes = { exportName: "disk", structured: random.chance(0.7), extended: random.chance(0.5) };
    const client = await settled(RawClient.open(stage.dial(), wishes), "the handshake");
    const right = new Map<bigint, number>();
    const send = async () => {
      const { request, payload } = someRequest(random, stage.sizeBytes, client.agreement);
      const cookie = BigInt(right.size + 1);
      right.set(cookie, rightError(request, payload, stage, client.agreement));
      await client.send({ ...request, cookie }, payload);
    };
    for (let count = random.below(30); count > 0; count--) await send();
    await turns(random.below(100));
    const draining = stage.served.server.drain(DRAIN_MS);
    for (let count = random.below(5); count > 0; count--) await send();
    const answered = new Set<bigint>();
    for (let reply; (reply = await settled(client.receive(), "the end")) !== null;) {
      const { header, payload } = reply;
      const last = header.form === "simple" || (header.flags & ReplyFlag.DONE) !== 0;
      const isError = header.type === ChunkType.ERROR || header.type === ChunkType.ERROR_OFFSET;
      const error = isError ? viewOf(payload).getUint32(0) : header.error;
      const expected = right.get(header.cookie);
      if (error !== WireErrno.ESHUTDOWN && !(stage.failing && error === WireErrno.EIO)) {
        assert(!last || error === expected, `answered ${error}, not ${expected}`);
      }
      assert(!answered.has(header.cookie), "answered twice");
      if (last) answered.add(header.cookie);
    }
    assert(await settled(draining, "the server's drain"), "somebody had to be cut off");
    client.connection.close();
  },
};
