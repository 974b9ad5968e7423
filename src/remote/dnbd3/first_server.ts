/** The first server of an image: all are tried, a little apart, and the first that offers the image is taken. */
import type { Clock } from "../../os/clock.ts";
import type { SelectedImage } from "../../wire/dnbd3/message.ts";
import { type Dial, type ReachedServer, reachFirst } from "./reach_server.ts";
import type { KnownServer, ServerBook } from "./server_book.ts";

/** The first servers are tried this far apart, each while those before may still succeed. */
const STAGGER_MS = 200;
const DIAL_MS = 1500;
const HANDSHAKE_MS = 13_000;

export interface FirstServerOptions {
  readonly name: string;
  /** 0: the newest there is at the start. */
  readonly revision: number;
  readonly dial: Dial;
  readonly clock: Clock;
  /** Bits of the selection. Default: a client. */
  readonly flags?: number;
  /** Looks at what a server offers; says why it is not wanted, or null. */
  readonly refuse?: (image: SelectedImage) => string | null;
  /** How long the first server may take, in ms. Default: as dnbd3's own client has it. */
  readonly dialMs?: number;
  readonly handshakeMs?: number;
}

/**
 * @param book Told of those that failed.
 * @throws {AggregateError} If none offers it: an error for each server, and all of them in the message.
 * @throws The signal's reason.
 */
export async function findFirstServer(
  book: ServerBook,
  options: FirstServerOptions,
  signal: AbortSignal | undefined,
): Promise<{ server: KnownServer; reached: ReachedServer }> {
  const { clock, dial, flags = 0, name, revision, refuse } = options;
  const { dialMs = DIAL_MS, handshakeMs = HANDSHAKE_MS } = options;
  const won = new AbortController();
  const abort = () => won.abort(signal!.reason);
  signal?.addEventListener("abort", abort);
  signal?.throwIfAborted();
  const limits = { dial, clock, flags, dialMs, handshakeMs, signal: won.signal };
  const attempts = book.all.map(async (server, index) => {
    if (index > 0) await pause(clock, index * STAGGER_MS, won.signal);
    won.signal.throwIfAborted();
    try {
      const reached = await reachFirst(server.endpoint, { name, revision }, limits, refuse);
      if (won.signal.aborted) {
        reached.connection.close();
        won.signal.throwIfAborted();
      }
      won.abort(new Error("another server was first"));
      return { server, reached };
    } catch (error) {
      if (!won.signal.aborted) book.failed(server);
      throw new Error(`${server.text}: ${(error as Error).message}`, { cause: error });
    }
  });
  try {
    return await Promise.any(attempts);
  } catch (error) {
    signal?.throwIfAborted();
    if (!(error instanceof AggregateError)) throw error;
    throw new AggregateError(error.errors, error.errors.map((each) => (each as Error).message).join("; "));
  } finally {
    signal?.removeEventListener("abort", abort);
    await Promise.allSettled(attempts);
  }
}

/** Waits, but no longer than until the signal fires. */
function pause(clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = clock.timer(delayMs, done);
    signal.addEventListener("abort", done);
    function done() {
      timer[Symbol.dispose]();
      signal.removeEventListener("abort", done);
      resolve();
    }
  });
}
