/** What a migration owes to its destination: what is to be sent, and what is to be compared. */
import { DirtyMap } from "./dirty_map.ts";

export class Debt {
  /** What the destination lacks. */
  readonly pending: DirtyMap;
  /** What has not been compared since it was written; all that is pending is in it. */
  readonly uncompared: DirtyMap;

  /** @param sizeBytes Of what moves. @param blockBytesMin The least that can be sent. */
  constructor(sizeBytes: number, blockBytesMin: number) {
    this.pending = new DirtyMap(sizeBytes, { blockBytesMin });
    this.uncompared = new DirtyMap(sizeBytes, { blockBytesMin });
  }

  /** A range has changed; what of it does not move is left out. */
  mark(offset: number, length: number): void {
    const moving = Math.min(length, this.pending.sizeBytes - offset);
    this.pending.mark(offset, moving);
    this.uncompared.mark(offset, moving);
  }

  markAll(): void {
    this.pending.markAll();
    this.uncompared.markAll();
  }
}
