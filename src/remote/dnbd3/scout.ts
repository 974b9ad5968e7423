/**
 * Looks at the servers of an image: which is faster than the present one, and which can take its place.
 *
 * A server is asked for the image and a block of it, over a connection with which one can go on.
 */
import type { Log } from "../../base/log.ts";
import { BlockRefusedError } from "../../wire/dnbd3/handshake_client.ts";
import {
  type KnownImage,
  MismatchError,
  reachAgain,
  type ReachedServer,
  type ReachOptions,
} from "./reach_server.ts";
import { type KnownServer, roundTripMs, type ServerBook } from "./server_book.ts";

/** Limits of a measurement. */
const MEASURE_DIAL_MS = 333;
/** A server in whose place we have nothing gets a little longer. */
const PANIC_DIAL_MS = 1000;
const HANDSHAKE_MS = 1000;

/** A part of the image, in bytes. */
export interface Block {
  readonly offset: number;
  readonly sizeBytes: number;
}

export interface ScoutOptions extends Pick<ReachOptions, "dial" | "clock" | "flags"> {
  readonly log: Log;
  /** The image, for the log. */
  readonly name: string;
  /** What a server must have. */
  known(): KnownImage;
}

export class Scout {
  readonly #book: ServerBook;
  readonly #options: ScoutOptions;

  /** @param book Told of what comes of each look. */
  constructor(book: ServerBook, options: ScoutOptions) {
    this.#book = book;
    this.#options = options;
  }

  /**
   * Measures the most promising servers.
   *
   * @param take Called with one that is much faster than the present one, if there is one.
   * @param signal Ends the look.
   */
  async measure(
    current: KnownServer | null,
    take: (server: KnownServer, reached: ReachedServer) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const servers = this.#book.toMeasure(current);
    if (servers.length < 2) return;
    for (const server of servers) {
      if (signal.aborted) return;
      const reached = await this.#reach(server, MEASURE_DIAL_MS, signal);
      reached?.connection.close();
    }
    if (current === null || signal.aborted) return;
    const better = this.#book.better(current);
    if (better === null) return;
    const reached = await this.#reach(better, MEASURE_DIAL_MS, signal);
    if (reached === null) return;
    if (signal.aborted) return reached.connection.close();
    const { log, name } = this.#options;
    const [from, to] = [roundTripMs(current).toFixed(1), roundTripMs(better).toFixed(1)];
    log.info(`${name}: from ${current.text} (${from} ms) to ${better.text} (${to} ms)`);
    take(better, reached);
  }

  /**
   * Tries all servers but the present one at once.
   *
   * @param block What they have to deliver; by default the first one of the image.
   * @param take Called with the first that does.
   * @param refused Called for each that refuses it.
   * @param signal Ends the look.
   */
  async findAny(
    current: KnownServer | null,
    block: Block | undefined,
    take: (server: KnownServer, reached: ReachedServer) => void,
    refused: () => void,
    signal: AbortSignal,
  ): Promise<void> {
    const found = new AbortController();
    const either = AbortSignal.any([found.signal, signal]);
    await Promise.all(
      this.#book.toTurnTo(current).map(async (server) => {
        const reached = await this.#reach(server, PANIC_DIAL_MS, either, block, refused);
        if (reached === null) return;
        if (either.aborted) return reached.connection.close();
        found.abort(new Error("another server was first"));
        take(server, reached);
      }),
    );
  }

  async #reach(
    server: KnownServer,
    dialMs: number,
    signal: AbortSignal,
    block?: Block,
    refused?: () => void,
  ): Promise<ReachedServer | null> {
    const { log, name, known, ...how } = this.#options;
    try {
      const options = { ...how, dialMs, handshakeMs: HANDSHAKE_MS, signal };
      const reached = await reachAgain(server.endpoint, known(), options, block);
      this.#book.succeeded(server, reached.roundTripMs);
      return reached;
    } catch (error) {
      if (signal.aborted) return null;
      if (server.failures === 0) {
        log.warn(`${name}: ${server.text} cannot be used: ${(error as Error).message}`);
      }
      this.#book.failed(server);
      if (error instanceof MismatchError) this.#book.mismatched(server);
      if (error instanceof BlockRefusedError) refused?.();
      return null;
    }
  }
}
