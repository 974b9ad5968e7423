/** A dnbd3 client that says exactly what it is told to, sensible or not. */
import { assertEquals } from "@std/assert";
import type { Connection } from "../../src/net/connection.ts";
import { Command } from "../../src/wire/dnbd3/constants.ts";
import {
  decodeReply,
  decodeSelectedImage,
  encodeRequest,
  encodeSelection,
  type Reply,
  type SelectedImage,
  viewOf,
} from "../../src/wire/dnbd3/message.ts";

export class RawImageClient {
  constructor(readonly connection: Connection) {}

  async send(bytes: Uint8Array): Promise<void> {
    await this.connection.write(bytes);
  }

  /** Exactly so many bytes, or `null` at the end of the stream. */
  async receive(byteCount: number): Promise<Uint8Array | null> {
    const bytes = new Uint8Array(byteCount);
    let filled = 0;
    while (filled < byteCount) {
      const count = await this.connection.read(bytes.subarray(filled));
      if (count === null) {
        assertEquals(filled, 0, "the stream ends in the middle of a message");
        return null;
      }
      filled += count;
    }
    return bytes;
  }

  /** The next reply with its payload, or `null` at the end of the stream. */
  async reply(): Promise<Reply & { payload: Uint8Array } | null> {
    const header = await this.receive(16);
    if (header === null) return null;
    const reply = decodeReply(viewOf(header));
    const payload = reply.sizeBytes === 0 ? new Uint8Array(0) : await this.receive(reply.sizeBytes);
    if (payload === null) throw new Error("the stream ends before a payload");
    return { ...reply, payload };
  }

  /** Selects an image; `null` if the server closes instead. */
  async select(name: string, revision = 0, flags = 0, version = 3): Promise<SelectedImage | null> {
    await this.send(encodeSelection({ version, name, revision, flags }));
    const reply = await this.reply();
    if (reply === null) return null;
    assertEquals(reply.command, Command.SelectImage);
    return decodeSelectedImage(reply.payload);
  }

  async ask(offset: number, sizeBytes: number, handle: bigint, hops = 0): Promise<void> {
    await this.send(encodeRequest({ command: Command.GetBlock, offset, sizeBytes, hops, handle }));
  }

  /** Asks for one block and takes the next reply for its answer. */
  async block(offset: number, sizeBytes: number, hops = 0): Promise<Uint8Array | null> {
    const handle = BigInt(offset) << 8n | 0xabn;
    await this.ask(offset, sizeBytes, handle, hops);
    const reply = await this.reply();
    if (reply === null) return null;
    assertEquals([reply.command, reply.handle], [Command.GetBlock, handle]);
    return reply.payload;
  }
}
