/** Bytes of a disk from and to a stream, in order, with several requests under way. */
import type { Log } from "../base/log.ts";
import type { BlockDevice } from "../device/device.ts";
import { DeviceError } from "../device/device_error.ts";
import { pieces, type Segment, segments } from "../device/segments.ts";
import type { Input, Output } from "./command.ts";

/** One request. */
const PIECE_BYTES = 1024 * 1024;
/** Requests under way. */
const DEPTH = 8;

const zeroes = new Uint8Array(PIECE_BYTES);

/** A piece of a disk that is being read. */
interface Reading {
  readonly bytes: Uint8Array;
  readonly done: void | Promise<void>;
}

/**
 * Writes a range of a disk to a stream. What the disk knows to be zero is not read.
 *
 * @param onBytes Told how many more bytes have left.
 * @throws Whatever reading or writing throws; then no more than a part was written.
 */
export async function sendRange(
  disk: BlockDevice,
  offset: number,
  length: number,
  output: Output,
  onBytes: (byteCount: number) => void = () => {},
): Promise<void> {
  const plan = pieces(segments(disk, offset, length), PIECE_BYTES, PIECE_BYTES);
  const buffers = Array.from({ length: DEPTH }, () => new Uint8Array(0));
  const ahead: Reading[] = [];
  let planned = false;
  let next = 0;
  try {
    while (true) {
      while (!planned && ahead.length < DEPTH) {
        const { value: piece, done } = await plan.next();
        if (done) planned = true;
        else ahead.push(startReading(disk, piece, buffers, next++ % DEPTH));
      }
      const reading = ahead[0];
      if (reading === undefined) return;
      if (reading.done !== undefined) await reading.done;
      await output.write(reading.bytes);
      onBytes(reading.bytes.length);
      ahead.shift();
    }
  } finally {
    await Promise.allSettled(ahead.map((reading) => reading.done));
  }
}

function startReading(disk: BlockDevice, piece: Segment, buffers: Uint8Array[], slot: number): Reading {
  if (piece.kind !== "data") return { bytes: zeroes.subarray(0, piece.length), done: undefined };
  // Small reads, which are the common ones, take small buffers.
  if (buffers[slot].length < piece.length) buffers[slot] = new Uint8Array(piece.length);
  const bytes = buffers[slot].subarray(0, piece.length);
  const done = disk.read(piece.offset, bytes);
  done?.catch(() => {}); // Thrown where it is awaited.
  return { bytes, done };
}

/**
 * Writes a stream to a disk, up to `length` bytes or the end of the stream.
 *
 * @param length At most this many bytes are taken; what follows them stays in the stream.
 * @returns How many bytes were written, all of them answered.
 * @throws Whatever reading or writing throws.
 */
export async function receiveRange(
  disk: BlockDevice,
  offset: number,
  length: number,
  input: Input,
  onBytes: (byteCount: number) => void = () => {},
): Promise<number> {
  const slots = Array.from({ length: DEPTH }, () => ({ bytes: new Uint8Array(0), done: Promise.resolve() }));
  let failure: { readonly error: unknown } | null = null;
  let taken = 0;
  for (let turn = 0; taken < length && failure === null; turn++) {
    const slot = slots[turn % DEPTH];
    await slot.done;
    const wanted = Math.min(PIECE_BYTES, length - taken);
    if (slot.bytes.length < wanted) slot.bytes = new Uint8Array(wanted);
    const data = slot.bytes.subarray(0, await fill(input, slot.bytes.subarray(0, wanted)));
    if (data.length > 0) {
      const at = offset + taken;
      slot.done = (async () => {
        try {
          await disk.write(at, data);
          onBytes(data.length);
        } catch (error) {
          failure ??= { error };
        }
      })();
      taken += data.length;
    }
    if (data.length < wanted) break;
  }
  await Promise.all(slots.map((slot) => slot.done));
  if (failure !== null) throw (failure as { readonly error: unknown }).error;
  return taken;
}

/** Makes what was written durable, or says that nobody can tell whether it is. `name` is the disk's. */
export async function flushIfPossible(disk: BlockDevice, name: string, log: Log): Promise<void> {
  if (disk.can.flush) await disk.flush();
  else log.warn(`${name} cannot flush: nobody can tell when the data are durable`);
}

/** Adds to an error of a disk which one it was. `name` is the disk's. */
export function namingDisk(error: unknown, name: string): unknown {
  if (!(error instanceof DeviceError)) return error;
  return new Error(`${name}: ${error.message}`, { cause: error.cause });
}

/** Reads until the buffer is full or the input has ended. Returns the bytes read. */
async function fill(input: Input, into: Uint8Array): Promise<number> {
  let filled = 0;
  while (filled < into.length) {
    const count = await input.read(into.subarray(filled));
    if (count === null) break;
    filled += count;
  }
  return filled;
}
