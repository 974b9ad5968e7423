/**
 * What a client says before it reads: which image, and what else it wants to know of the server while no block is
 * on its way. A server that refuses says nothing and closes, so a refusal shows as an end of the stream.
 */
import { type Conversation, need, send } from "../conversation.ts";
import { WireError } from "../wire_error.ts";
import { type ChecksumList, checksumListBytes, decodeChecksumList } from "./checksum_list.ts";
import { Command, PAYLOAD_BYTES_MAX, REPLY_HEADER_BYTES } from "./constants.ts";
import {
  decodeReply,
  decodeSelectedImage,
  encodeRequest,
  encodeSelection,
  type Reply,
  type SelectedImage,
  type Selection,
  viewOf,
} from "./message.ts";

/** The longest list of checksums that is taken: of an image of 64 TiB. */
const LIST_BYTES_MAX = 16 * 1024 * 1024;

/** The server offers the image, but not this block of it. */
export class BlockRefusedError extends WireError {
  constructor() {
    super("it refuses the block");
  }
}

/** Selects the image of a connection; the first thing to say, and only once. */
export function* selectImage(selection: Selection): Conversation<SelectedImage> {
  yield* send(encodeSelection(selection));
  const reply = yield* replyTo(Command.SelectImage);
  if (reply.sizeBytes > PAYLOAD_BYTES_MAX) throw new WireError(`selected image of ${reply.sizeBytes} bytes`);
  const image = decodeSelectedImage(yield* need(reply.sizeBytes));
  if (selection.revision !== 0 && image.revision !== selection.revision) {
    throw new WireError(`revision ${image.revision} where ${selection.revision} was selected`);
  }
  return image;
}

/** Selects an image known from another connection. */
export function* selectSameImage(
  known: SelectedImage,
  version: number,
  flags = 0,
): Conversation<SelectedImage> {
  const { name, revision } = known;
  const image = yield* selectImage({ version, name, revision, flags });
  if (image.name !== name) {
    throw new WireError(`image ${JSON.stringify(image.name)} instead of ${JSON.stringify(name)}`);
  }
  if (image.sizeBytes !== known.sizeBytes) {
    throw new WireError(`image of ${image.sizeBytes} bytes where ${known.sizeBytes} were known`);
  }
  return image;
}

/**
 * Asks for the checksums of the image.
 *
 * @returns The list, or null if the server has none.
 * @throws {WireError} If the answer is no list of an image of this size.
 */
export function* getChecksums(imageBytes: number): Conversation<ChecksumList | null> {
  yield* send(plainRequest(Command.GetChecksums));
  const reply = yield* replyTo(Command.GetChecksums);
  if (reply.sizeBytes === 0) return null;
  if (reply.sizeBytes > LIST_BYTES_MAX) throw new WireError(`checksum list of ${reply.sizeBytes} bytes`);
  if (reply.sizeBytes !== checksumListBytes(imageBytes)) {
    throw new WireError(
      `checksum list of ${reply.sizeBytes} bytes, ${checksumListBytes(imageBytes)} are needed`,
    );
  }
  return decodeChecksumList(yield* need(reply.sizeBytes), imageBytes);
}

/**
 * Reads one block.
 *
 * @param request Its offset, size and hop byte. The caller vouches for the size.
 * @throws {BlockRefusedError} If the server says so.
 */
export function* getBlock(
  request: { offset: number; sizeBytes: number; hops: number },
): Conversation<Uint8Array> {
  yield* send(encodeRequest({ command: Command.GetBlock, ...request, handle: 0n }));
  const reply = decodeReply(viewOf(yield* need(REPLY_HEADER_BYTES)));
  if (reply.command === Command.Error) throw new BlockRefusedError();
  checkCommand(reply, Command.GetBlock);
  if (reply.sizeBytes !== request.sizeBytes || reply.handle !== 0n) {
    throw new WireError(`block of ${reply.sizeBytes} bytes where ${request.sizeBytes} were asked for`);
  }
  return reply.sizeBytes === 0 ? new Uint8Array() : yield* need(reply.sizeBytes);
}

/** A request without payload, offset and handle. */
export function plainRequest(command: number): Uint8Array {
  return encodeRequest({ command, sizeBytes: 0, offset: 0, hops: 0, handle: 0n });
}

function* replyTo(command: number): Conversation<Reply> {
  const reply = decodeReply(viewOf(yield* need(REPLY_HEADER_BYTES)));
  checkCommand(reply, command);
  return reply;
}

function checkCommand(reply: Reply, command: number): void {
  if (reply.command !== command) {
    throw new WireError(`reply to command ${reply.command} instead of ${command}`);
  }
}
