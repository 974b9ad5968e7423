/** The sending half of a channel: bytes in, frames out. */
import { concat } from "@std/bytes";
import { type Frame, PAYLOAD_BYTES_MAX, type Sealer } from "../wire/channel/frame.ts";
import type { BufferPool } from "./buffer_pool.ts";
import type { Connection } from "./connection.ts";
import { giveBack } from "./give_back.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** Frames that may be with the crypto threads, or wait for the transport. Beyond, writes queue up unsealed. */
const FRAMES_UNDER_WAY_MAX = 8;
/** How much goes to the transport in one write: several of the longest frames. */
const OUTBOX_BYTES = 256 * 1024;
/** How long a close frame may take to leave. */
const FINISH_MS = 1000;

/** Bytes that a caller handed over. */
interface QueuedWrite {
  readonly bytes: Bytes;
  readonly done: PromiseWithResolvers<void>;
}

/** A frame that was handed to the sealer. */
interface FrameUnderWay {
  readonly header: Bytes;
  /** Undefined until it is sealed. */
  body: Bytes | undefined;
  /** The writes whose last byte is in it. */
  readonly ends: readonly QueuedWrite[];
}

/**
 * Gathers what is written in one turn of the event loop into as few frames as it needs, cuts what is large so
 * that its first frame leaves while the last is being sealed, and keeps the frames in order.
 */
export class FrameSender {
  readonly #connection: Connection;
  readonly #sealer: Sealer;
  readonly #pool: BufferPool;
  readonly #queue: QueuedWrite[] = [];
  /** Bytes of the queue's first write that are in frames already. */
  #taken = 0;
  #queuedBytes = 0;
  readonly #underWay: FrameUnderWay[] = [];
  #sealing = false;
  #transmitting = false;
  #failure: { readonly error: unknown } | undefined;

  /** @param pool Where frames are put together for the transport. */
  constructor(connection: Connection, sealer: Sealer, pool: BufferPool) {
    this.#connection = connection;
    this.#sealer = sealer;
    this.#pool = pool;
  }

  /** See {@linkcode Connection.write}. */
  write(bytes: Bytes): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure.error);
    if (bytes.length === 0) return Promise.resolve();
    const done = Promise.withResolvers<void>();
    this.#queue.push({ bytes, done });
    this.#queuedBytes += bytes.length;
    this.#sealSoon();
    return done.promise;
  }

  /** Ends what is outstanding with this error, and everything that follows. */
  fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { error };
    const ended = [...this.#underWay.flatMap(({ ends }) => ends), ...this.#queue];
    this.#underWay.length = 0;
    this.#queue.length = 0;
    this.#queuedBytes = 0;
    for (const { done } of ended) done.reject(error);
  }

  /**
   * Says goodbye: sends the close frame, unless something that was written has not left. Then the peer must not
   * take the end for a good one. Sends nothing afterwards. Never throws.
   */
  async finish(): Promise<void> {
    const complete = this.#failure === undefined && this.#queue.length === 0 && this.#underWay.length === 0;
    this.fail(new Error("the connection is closed"));
    if (!complete) return;
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, FINISH_MS);
    try {
      const sent = this.#sealer.seal("close", new Uint8Array(0)).map(async ({ header, body }) => {
        return concat([header, await body]);
      });
      await Promise.race([
        late.promise,
        Promise.all(sent).then((frames) => this.#connection.write(concat(frames))),
      ]);
    } catch {
      // The transport is gone, and with it whoever could have been told.
    } finally {
      clearTimeout(timer);
    }
  }

  /** Seals once the current turn is over, so that all that was written in it goes together. */
  #sealSoon(): void {
    if (this.#sealing) return;
    this.#sealing = true;
    queueMicrotask(() => {
      this.#sealing = false;
      this.#seal();
    });
  }

  #seal(): void {
    while (this.#queuedBytes > 0 && this.#underWay.length < FRAMES_UNDER_WAY_MAX) {
      // Frames of equal size: a short one at the end would cost as much as a long one.
      const frameCount = Math.ceil(this.#queuedBytes / PAYLOAD_BYTES_MAX);
      const { payload, ends } = this.#takePayload(Math.ceil(this.#queuedBytes / frameCount));
      const frames = this.#sealer.seal("data", payload);
      for (const frame of frames) this.#launch(frame, frame === frames.at(-1) ? ends : []);
    }
  }

  /** Takes bytes off the front of the queue. */
  #takePayload(byteCount: number): { payload: Bytes; ends: QueuedWrite[] } {
    const parts: Bytes[] = [];
    const ends: QueuedWrite[] = [];
    this.#queuedBytes -= byteCount;
    for (let missing = byteCount; missing > 0;) {
      const first = this.#queue[0];
      const part = first.bytes.subarray(this.#taken, this.#taken + missing);
      parts.push(part);
      missing -= part.length;
      this.#taken += part.length;
      if (this.#taken === first.bytes.length) {
        ends.push(first);
        this.#queue.shift();
        this.#taken = 0;
      }
    }
    return { payload: parts.length === 1 ? parts[0] : concat(parts), ends };
  }

  #launch({ header, body }: Frame, ends: readonly QueuedWrite[]): void {
    const frame: FrameUnderWay = { header, body: undefined, ends };
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
        const ends: QueuedWrite[] = [];
        let filled = 0;
        let frameCount = 0;
        for (const { header, body, ends: finished } of this.#underWay) {
          if (body === undefined || filled + header.length + body.length > OUTBOX_BYTES) break;
          outbox.bytes.set(header, filled);
          outbox.bytes.set(body, filled + header.length);
          filled += header.length + body.length;
          giveBack(body);
          ends.push(...finished);
          frameCount++;
        }
        const taken = this.#connection.write(outbox.bytes.subarray(0, filled));
        if (taken instanceof Promise) await taken;
        this.#underWay.splice(0, frameCount);
        for (const { done } of ends) done.resolve();
        this.#seal();
      }
    } catch (error) {
      this.fail(error);
    } finally {
      this.#pool.give(outbox);
      this.#transmitting = false;
    }
  }
}
