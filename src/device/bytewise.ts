import { RangeOrder } from "../base/range_order.ts";
import type {
  Abilities,
  BlockDevice,
  BlockSizes,
  DiskIdentity,
  Extent,
  WriteOptions,
  ZeroOptions,
} from "./device.ts";

/**
 * A disk of larger blocks that takes ranges of any bytes: blocks that are changed in part are read, changed and
 * written. Meanwhile nobody else touches them, as far as they come through here.
 */
class BytewiseDisk implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes: BlockSizes;
  readonly can: Abilities;
  readonly #disk: BlockDevice;
  readonly #blockBytes: number;
  readonly #order = new RangeOrder();

  /** @param disk Owned. Its size is a multiple of its block. */
  constructor(disk: BlockDevice) {
    this.#disk = disk;
    this.#blockBytes = disk.blockSizes.minimum;
    this.sizeBytes = disk.sizeBytes;
    this.blockSizes = { ...disk.blockSizes, minimum: 1 };
    this.can = disk.can;
  }

  get identity(): DiskIdentity | undefined {
    return this.#disk.identity;
  }

  get syncFailure(): string | null {
    return this.#disk.syncFailure ?? null;
  }

  read(offset: number, into: Uint8Array): Promise<void> {
    return this.#inOrder(false, offset, into.length, async (start, length) => {
      if (length === into.length) return await this.#disk.read(offset, into);
      const blocks = new Uint8Array(length);
      await this.#disk.read(start, blocks);
      into.set(blocks.subarray(offset - start, offset - start + into.length));
    });
  }

  write(offset: number, data: Uint8Array, options?: WriteOptions): Promise<void> {
    return this.#inOrder(true, offset, data.length, async () => {
      const { head, body } = this.#cut(offset, data.length);
      if (body > 0) await this.#disk.write(offset + head, data.subarray(head, head + body), options);
      if (head > 0) await this.#patch(offset, data.subarray(0, head), options);
      const tail = data.subarray(head + body);
      if (tail.length > 0) await this.#patch(offset + head + body, tail, options);
    });
  }

  zero(offset: number, length: number, options?: ZeroOptions): Promise<void> {
    return this.#inOrder(true, offset, length, async () => {
      const { head, body } = this.#cut(offset, length);
      // First, because it may be refused.
      if (body > 0) await this.#disk.zero(offset + head, body, options);
      if (head > 0) await this.#patch(offset, new Uint8Array(head), options);
      const tail = length - head - body;
      if (tail > 0) await this.#patch(offset + head + body, new Uint8Array(tail), options);
    });
  }

  /** Whole blocks only: the rest is still needed. */
  trim(offset: number, length: number, options?: WriteOptions): Promise<void> {
    return this.#inOrder(true, offset, length, async () => {
      const { head, body } = this.#cut(offset, length);
      if (body > 0) await this.#disk.trim(offset + head, body, options);
    });
  }

  flush(): void | Promise<void> {
    return this.#disk.flush();
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#inOrder(false, offset, length, async (start, blocksLength) => {
      const extents: Extent[] = [];
      let at = start;
      for (const { kind, length: whole } of await this.#disk.extents(start, blocksLength)) {
        const from = Math.max(at, offset);
        const end = Math.min(at + whole, offset + length);
        if (end > from) extents.push({ kind, length: end - from });
        at += whole;
      }
      return extents;
    });
  }

  cache(offset: number, length: number): Promise<void> {
    return this.#inOrder(false, offset, length, async (start, blocksLength) => {
      await this.#disk.cache(start, blocksLength);
    });
  }

  close(): Promise<void> {
    return this.#disk.close();
  }

  /** Runs `work` with the range widened to whole blocks, and these in order. */
  #inOrder<Result>(
    writes: boolean,
    offset: number,
    length: number,
    work: (start: number, length: number) => Promise<Result>,
  ): Promise<Result> {
    const start = offset - offset % this.#blockBytes;
    const end = this.#roundUp(offset + length);
    return this.#order.run(writes, start, end - start, () => work(start, end - start));
  }

  /** Bytes before the first block boundary, and bytes of whole blocks behind it. */
  #cut(offset: number, length: number): { head: number; body: number } {
    const head = Math.min(length, this.#roundUp(offset) - offset);
    const body = length - head;
    return { head, body: body - body % this.#blockBytes };
  }

  #roundUp(offset: number): number {
    return Math.ceil(offset / this.#blockBytes) * this.#blockBytes;
  }

  /** Changes part of one block. */
  async #patch(offset: number, data: Uint8Array, options: WriteOptions | undefined): Promise<void> {
    const from = offset % this.#blockBytes;
    const block = new Uint8Array(this.#blockBytes);
    await this.#disk.read(offset - from, block);
    block.set(data, from);
    await this.#disk.write(offset - from, block, { fua: options?.fua });
  }
}

/** The disk itself, or where its blocks are larger than a byte, one that takes any range. */
export function bytewise(disk: BlockDevice): BlockDevice {
  return disk.blockSizes.minimum === 1 ? disk : new BytewiseDisk(disk);
}
