/**
 * Pipes through which the payload of a large WRITE goes from the client's socket to the disk without being copied to
 * us and back.
 */
import type { BufferPool } from "../../net/buffer_pool.ts";
import type { Connection } from "../../net/connection.ts";
import { type Pipe, pipes } from "../../os/pipe.ts";
import type { Intake } from "./intake.ts";

/** What goes through a pipe at once, at most; so much memory is counted for it, be it the system's. */
export const PIECE_BYTES = 256 * 1024;

export class PayloadPipes {
  readonly #connection: Connection;
  readonly #memory: BufferPool;

  constructor(connection: Connection, memory: BufferPool) {
    this.#connection = connection;
    this.#memory = memory;
  }

  /** Whether the connection can move what arrives into a pipe. */
  get canFill(): boolean {
    return this.#connection.moveNow !== undefined;
  }

  /** An empty pipe; `null` if there is none to be had, or others need the memory. */
  take(): Pipe | null {
    if (this.#memory.isCrowded) return null;
    const pipe = pipes.take();
    if (pipe !== null) this.#memory.expect(PIECE_BYTES);
    return pipe;
  }

  give(pipe: Pipe): void {
    this.#memory.expect(-PIECE_BYTES);
    pipes.give(pipe);
  }

  /**
   * Fills a pipe until it holds `byteCount` bytes, with unused bytes of the intake first.
   *
   * @param patient As {@linkcode Connection.readNow} has it.
   * @returns `whole`: it holds them. `waiting`: the rest is not there. `full`: it holds as many small pieces as it can.
   */
  fill(pipe: Pipe, byteCount: number, intake: Intake, patient: boolean): "whole" | "waiting" | "full" {
    while (pipe.heldBytes < byteCount) {
      const missing = byteCount - pipe.heldBytes;
      let count: number | undefined;
      if (intake.available > 0) {
        const end = intake.start + Math.min(missing, intake.available);
        count = pipe.put(intake.bytes.subarray(intake.start, end));
        intake.start += count;
      } else {
        count = this.#connection.moveNow?.(pipe, missing, patient);
      }
      if (count === undefined) return "waiting";
      if (count === 0) return "full";
    }
    return "whole";
  }
}
