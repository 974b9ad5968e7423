/**
 * A stream of bytes to a peer.
 *
 * As with disks, `void | Promise` is the point: a transport that can answer at once does so without a promise.
 * A simulation implements the same interface over a virtual clock.
 */

import type { OpenFile } from "../os/file_calls.ts";
import type { Pipe } from "../os/pipe.ts";
import type { ShownCertificate } from "./shown_certificate.ts";

/** Who is at the other end. */
export interface Peer {
  readonly transport: "tcp" | "unix" | "memory";
  /** IP address without port and without `::ffff:`, or `unix` with the peer's uid. */
  readonly address: string;
  /** For log lines: `127.0.0.1:43210`, `[::1]:43210`, `unix:uid=0,pid=123`. */
  readonly text: string;
  /** The public key that the peer has proven to hold, in Base64; only of a channel. */
  readonly key?: string;
  /**
   * The common name in the certificate that the peer has proven to hold and that our authority has signed; only
   * of TLS, and only where client certificates are asked for.
   */
  readonly certificateName?: string;
  /** That certificate, where it can be judged again. */
  readonly certificate?: ShownCertificate;
  /**
   * What protects the bytes on their way: version and suite of TLS (`TLSv1.3 TLS_AES_256_GCM_SHA384`), or what the channel
   * does (`noise`, `checksum`). Absent: nothing.
   */
  readonly protection?: string;
}

export interface Connection {
  readonly peer: Peer;
  /**
   * Reads at least one byte into the front of `into` (which must not be empty).
   *
   * @returns The number of bytes, or `null` when the peer has finished sending or reset the connection.
   *   At most one read may be outstanding.
   */
  read(into: Uint8Array): number | null | Promise<number | null>;
  /**
   * Takes bytes that have already arrived. Transports that cannot tell do without.
   *
   * @param patient The caller has nothing else to do: a few microseconds of looking again are better than sleep.
   * @returns As {@linkcode read}, or `undefined` if nothing is there or it is others' turn. Not to be called
   *   while a read is outstanding.
   */
  readNow?(into: Uint8Array, patient: boolean): number | null | undefined;
  /**
   * Moves bytes that have already arrived into a pipe, without reading them. Transports that change or frame what they
   * carry do without, and so does one that turned out not to know how.
   *
   * @param length The most that is moved, above zero.
   * @param patient As {@linkcode readNow} has it, and so is what may be called when.
   * @returns The number of bytes; 0 if the pipe takes no more; `undefined` if nothing is there, it is others' turn, or
   *   the connection is over, as {@linkcode read} will say.
   */
  moveNow?(pipe: Pipe, length: number, patient: boolean): number | undefined;
  /**
   * Writes all of `bytes`, which belong to the connection until then. Writes may be called without waiting;
   * they go out in order.
   *
   * @throws If the connection is closed or breaks before the transport took the last byte.
   */
  write(bytes: Uint8Array): void | Promise<void>;
  /** Who has more than so many bytes together should write them, and go on: the rest of the work is done meanwhile. */
  readonly eagerBytes?: number;
  /**
   * Writes as much of `bytes` as can leave without waiting, if nothing waits before them.
   *
   * @param more More follows at once: it is better to let both leave together.
   * @returns How much that was; 0 also if the connection is over, as {@linkcode write} will say.
   */
  writeNow?(bytes: Uint8Array, more: boolean): number;
  /**
   * Writes `bytes`, then a range of a file that is in the page cache, without reading it. Otherwise like
   * {@linkcode write}. If the range cannot be sent to its end (the file was cut short, or cannot be read any more)
   * the connection is closed: the peer cannot be told any other way. Transports that change or frame what they carry
   * do without.
   */
  sendFile?(bytes: Uint8Array, file: OpenFile, offset: number, length: number): void | Promise<void>;
  /** Writes all that a pipe holds, which is the connection's until then. Otherwise like {@linkcode write}. */
  sendPipe?(pipe: Pipe): void | Promise<void>;
  /** Closes both directions and ends every outstanding read and write. Idempotent, never throws. */
  close(): void;
  /**
   * Resolves, never rejects, when what {@linkcode close} still sends has left: a program that ends before then leaves
   * the peer with a cut connection. Transports whose end needs no bytes do without.
   */
  readonly left?: Promise<void>;
}
