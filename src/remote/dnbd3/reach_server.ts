/** One attempt to reach a server and have it offer an image. */
import type { TcpEndpoint } from "../../base/endpoint.ts";
import type { Connection } from "../../net/connection.ts";
import { ConversationCutError, converse } from "../../net/converse.ts";
import type { Clock } from "../../os/clock.ts";
import type { Conversation } from "../../wire/conversation.ts";
import type { ChecksumList } from "../../wire/dnbd3/checksum_list.ts";
import { BLOCK_BYTES, PROTOCOL_VERSION } from "../../wire/dnbd3/constants.ts";
import { getBlock, getChecksums, selectImage, selectSameImage } from "../../wire/dnbd3/handshake_client.ts";
import type { SelectedImage } from "../../wire/dnbd3/message.ts";
import { WireError } from "../../wire/wire_error.ts";

export type Dial = (server: TcpEndpoint, signal: AbortSignal) => Promise<Connection>;

/** What must be the same on every server. */
export interface KnownImage {
  readonly image: SelectedImage;
  /** Null as long as no server had a list. */
  readonly checksums: ChecksumList | null;
}

/** A server that offers the image, ready to be asked for blocks. */
export interface ReachedServer extends KnownImage {
  readonly connection: Connection;
  /** What came behind the handshake. */
  readonly rest: Uint8Array;
  /** From before the connection was made to the last byte of the block, or of the image's description. */
  readonly roundTripMs: number;
}

/** The server has another image under the same name and revision. */
export class MismatchError extends Error {
  override readonly name = "MismatchError";
}

export interface ReachOptions {
  readonly dial: Dial;
  readonly clock: Clock;
  /** Bits of the selection: none for a client. */
  readonly flags: number;
  /** To the connection; in ms. */
  readonly dialMs: number;
  /** From the connection to the end of the handshake; in ms. */
  readonly handshakeMs: number;
  readonly signal: AbortSignal;
}

/**
 * Reaches a server for an image that has not been seen yet.
 *
 * @param wanted Revision 0: the newest.
 * @param refuse Looks at the image before more is asked for; says why it is not wanted, or null.
 * @throws {MismatchError} If it is not.
 */
export async function reachFirst(
  server: TcpEndpoint,
  wanted: { name: string; revision: number },
  options: ReachOptions,
  refuse: (image: SelectedImage) => string | null = () => null,
): Promise<ReachedServer> {
  try {
    return await reach(server, options, function* (measured) {
      const { name, revision } = wanted;
      const image = yield* selectImage({ version: PROTOCOL_VERSION, name, revision, flags: options.flags });
      measured();
      const refusal = refuse(image);
      if (refusal !== null) throw new MismatchError(refusal);
      return { image, checksums: yield* getChecksums(image.sizeBytes) };
    });
  } catch (error) {
    if (!(error instanceof ConversationCutError) || error.answered) throw error;
    // The protocol has no other way to refuse.
    throw new Error("it has no such image, or does not give it to us", { cause: error });
  }
}

/**
 * Reaches another server for an image that is known, and reads a block from it to see that it can.
 *
 * @param block Which; by default the first 4096 bytes.
 * @throws {MismatchError} If what it offers is not the same.
 */
export function reachAgain(
  server: TcpEndpoint,
  known: KnownImage,
  options: ReachOptions,
  block: { offset: number; sizeBytes: number } = { offset: 0, sizeBytes: BLOCK_BYTES },
): Promise<ReachedServer> {
  return reach(server, options, function* (measured) {
    let image: SelectedImage;
    try {
      image = yield* selectSameImage(known.image, PROTOCOL_VERSION, options.flags);
    } catch (error) {
      if (error instanceof WireError && !(error instanceof ConversationCutError)) {
        throw new MismatchError(error.message, { cause: error });
      }
      throw error;
    }
    yield* getBlock({ ...block, hops: image.version < 3 ? 0 : 1 });
    measured();
    const checksums = yield* getChecksums(image.sizeBytes);
    if (checksums !== null && known.checksums !== null && !checksums.equals(known.checksums)) {
      throw new MismatchError("it has other checksums for the same revision");
    }
    return { image, checksums };
  });
}

async function reach(
  server: TcpEndpoint,
  options: ReachOptions,
  handshake: (measured: () => void) => Conversation<KnownImage>,
): Promise<ReachedServer> {
  const { clock } = options;
  const startedMs = clock.now();
  const controller = new AbortController();
  const abort = () => controller.abort(options.signal.reason);
  options.signal.addEventListener("abort", abort);
  options.signal.throwIfAborted();
  const late = (doing: string, ms: number) =>
    clock.timer(ms, () => controller.abort(new Error(`${doing} for ${ms / 1000} s`)));
  let connection: Connection | undefined;
  let timer = late("no connection", options.dialMs);
  try {
    const dialling = options.dial(server, controller.signal);
    // A dial that cannot be ended comes too late, and its connection is of no use.
    dialling.then((made) => controller.signal.aborted && made.close(), () => {});
    connection = await unlessAborted(dialling, controller.signal);
    timer[Symbol.dispose]();
    timer = late("no answer", options.handshakeMs);
    let roundTripMs = 0;
    const conversation = handshake(() => roundTripMs = clock.now() - startedMs);
    const { result, rest } = await converse(conversation, connection, { signal: controller.signal });
    return { ...result, connection, rest, roundTripMs };
  } catch (error) {
    connection?.close();
    throw error;
  } finally {
    timer[Symbol.dispose]();
    options.signal.removeEventListener("abort", abort);
  }
}

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = () => reject(signal.reason);
  signal.addEventListener("abort", abort);
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
