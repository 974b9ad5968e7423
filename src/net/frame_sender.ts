/** The sending half of a channel: bytes in, frames out. */
import { concat } from "@std/bytes";
import { type Frame, PAYLOAD_BYTES_MAX, type Sealer } from "../wire/channel/frame.ts";
import type { BufferPool, PooledBuffer } from "./buffer_pool.ts";
import type { Connection } from "./connection.ts";
import { giveBack } from "./give_back.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** Frames that may be with the crypto threads, or wait for the transport. Beyond, writes queue up unsealed. */
const FRAMES_UNDER_WAY_MAX = 8;
/** Shorter writes are gathered, as one frame costs about as much as 16 KiB in it; longer ones are sealed at once. */
const GATHERED_BYTES_MAX = 16 * 1024;
/** How much goes to the transport in one write: several of the longest frames. */
const OUTBOX_BYTES = 256 * 1024;
/** How long what was taken, and the close frame, may take to leave. */
const FINISH_MS = 1000;

/** Bytes that a caller handed over and that nobody has taken yet. */
interface QueuedWrite {
  bytes: Bytes;
  readonly done: PromiseWithResolvers<void>;
}

/** A frame that was handed to the sealer, which has copied its payload. */
interface FrameUnderWay {
  readonly header: Bytes;
  /** Undefined until it is sealed. */
  body: Bytes | undefined;
}

/**
 * Gathers what is written in one turn of the event loop into as few frames as it needs, cuts what is large so
 * that its first frame leaves while the last is being sealed, and keeps the frames in order.
 */
export class FrameSender {
  readonly #connection: Connection;
  readonly #sealer: Sealer;
  readonly #pool: BufferPool;
  /** Short writes of this turn, behind each other. */
  #gathered: PooledBuffer | null = null;
  #gatheredBytes = 0;
  #sealingSoon = false;
  /** Writes for which there was no room. */
  readonly #queue: QueuedWrite[] = [];
  readonly #underWay: FrameUnderWay[] = [];
  #transmitting = false;
  /** Why nothing further is taken. */
  #failure: { readonly error: unknown } | undefined;
  #over = false;
  /** Wakes who waits until everything has left. */
  #onEmpty: (() => void) | undefined;

  /** @param pool Where short writes, and frames for the transport, are put together. */
  constructor(connection: Connection, sealer: Sealer, pool: BufferPool) {
    this.#connection = connection;
    this.#sealer = sealer;
    this.#pool = pool;
  }

  /** See {@linkcode Connection.write}. What is taken may still be on its way through here: half a megabyte. */
  write(bytes: Bytes): void | Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.error;
    const rest = this.#queue.length > 0 ? bytes : this.#take(bytes);
    if (rest.length === 0) return;
    const done = Promise.withResolvers<void>();
    this.#queue.push({ bytes: rest, done });
    return done.promise;
  }

  /** Ends what is outstanding with this error, and everything that follows. */
  fail(error: unknown): void {
    this.#failure ??= { error };
    this.#drop();
  }

  /**
   * Says goodbye: sends the close frame behind what was taken, unless something that was written had not been taken.
   * Then the peer must not take the end for a good one. Sends nothing afterwards. Never throws.
   */
  async finish(): Promise<void> {
    const complete = this.#failure === undefined && this.#queue.length === 0;
    this.#failure ??= { error: new Error("the connection is closed") };
    if (complete) {
      const late = Promise.withResolvers<void>();
      const timer = setTimeout(late.resolve, FINISH_MS);
      await Promise.race([late.promise, this.#sayGoodbye()]);
      clearTimeout(timer);
    }
    this.#drop();
  }

  async #sayGoodbye(): Promise<void> {
    try {
      this.#sealGathered();
      if (this.#underWay.length > 0) await new Promise<void>((resolve) => this.#onEmpty = resolve);
      if (this.#over) return;
      const sealed = this.#sealer.seal("close", new Uint8Array(0)).map(async ({ header, body }) => {
        return concat([header, await body]);
      });
      await this.#connection.write(concat(await Promise.all(sealed)));
    } catch {
      // The transport is gone, and with it whoever could have been told.
    }
  }

  /** Nothing leaves from here on. */
  #drop(): void {
    this.#over = true;
    this.#underWay.length = 0;
    this.#dropGathered();
    for (const { done } of this.#queue.splice(0)) done.reject(this.#failure!.error);
    this.#onEmpty?.();
  }

  #hasRoom(): boolean {
    return this.#underWay.length < FRAMES_UNDER_WAY_MAX;
  }

  /** Takes what there is room for. Returns the rest. */
  #take(bytes: Bytes): Bytes {
    while (bytes.length > 0 && this.#hasRoom()) {
      const waiting = this.#gatheredBytes;
      if (waiting > 0 || bytes.length < GATHERED_BYTES_MAX) {
        const part = bytes.subarray(0, PAYLOAD_BYTES_MAX - waiting);
        this.#gather(part);
        bytes = bytes.subarray(part.length);
        continue;
      }
      // Frames of equal size: a short one at the end would cost as much as a long one.
      const frameCount = Math.ceil(bytes.length / PAYLOAD_BYTES_MAX);
      const payload = bytes.subarray(0, Math.ceil(bytes.length / frameCount));
      this.#seal(payload);
      bytes = bytes.subarray(payload.length);
    }
    return bytes;
  }

  #gather(part: Bytes): void {
    this.#gathered ??= this.#pool.take(PAYLOAD_BYTES_MAX);
    this.#gathered.bytes.set(part, this.#gatheredBytes);
    this.#gatheredBytes += part.length;
    if (this.#gatheredBytes >= PAYLOAD_BYTES_MAX) this.#sealGathered();
    else this.#sealSoon();
  }

  /** Seals once the current turn is over, so that all that was written in it goes together. */
  #sealSoon(): void {
    if (this.#sealingSoon) return;
    this.#sealingSoon = true;
    queueMicrotask(() => {
      this.#sealingSoon = false;
      this.#sealGathered();
    });
  }

  #sealGathered(): void {
    if (this.#gathered === null) return;
    this.#seal(this.#gathered.bytes.subarray(0, this.#gatheredBytes));
    this.#dropGathered();
  }

  #dropGathered(): void {
    if (this.#gathered !== null) this.#pool.give(this.#gathered);
    this.#gathered = null;
    this.#gatheredBytes = 0;
  }

  #seal(payload: Bytes): void {
    for (const frame of this.#sealer.seal("data", payload)) this.#launch(frame);
  }

  #launch({ header, body }: Frame): void {
    const frame: FrameUnderWay = { header, body: undefined };
    this.#underWay.push(frame);
    const sealed = (body: Bytes) => {
      frame.body = body;
      if (frame === this.#underWay[0] && !this.#transmitting) {
        this.#transmitting = true;
        // Frames that the crypto threads finished together resolve together: let the others come in too.
        queueMicrotask(() => void this.#transmit());
      }
    };
    if (body instanceof Promise) body.then(sealed, (error) => this.fail(error));
    else sealed(body);
  }

  /** Hands sealed frames to the transport, in order, until the next one is not sealed yet. */
  async #transmit(): Promise<void> {
    const outbox = this.#pool.take(OUTBOX_BYTES);
    try {
      while (this.#underWay[0]?.body !== undefined) {
        let filled = 0;
        let frameCount = 0;
        for (const { header, body } of this.#underWay) {
          if (body === undefined || filled + header.length + body.length > OUTBOX_BYTES) break;
          outbox.bytes.set(header, filled);
          outbox.bytes.set(body, filled + header.length);
          filled += header.length + body.length;
          giveBack(body);
          frameCount++;
        }
        const taken = this.#connection.write(outbox.bytes.subarray(0, filled));
        if (taken instanceof Promise) await taken;
        this.#underWay.splice(0, frameCount);
        this.#takeQueued();
      }
      if (this.#underWay.length === 0) this.#onEmpty?.();
    } catch (error) {
      this.fail(error);
    } finally {
      this.#pool.give(outbox);
      this.#transmitting = false;
    }
  }

  #takeQueued(): void {
    for (let first; (first = this.#queue[0]) !== undefined && this.#hasRoom();) {
      first.bytes = this.#take(first.bytes);
      if (first.bytes.length > 0) return;
      this.#queue.shift();
      first.done.resolve();
    }
  }
}
