/**
 * The threads on which files and devices do what waits: reads that are not in memory, large writes, allocation.
 *
 * They are threads of the runtime's pool, of which there is one for the whole program, with 32 of them. Syncs, name
 * look-ups and cryptography run there too. So that none of these waits behind reads of a slow disk, not all are for data.
 */
import { Slots } from "../base/slots.ts";

/** What is left of the pool's 32 is enough for a sync of each of some disks, and for everybody else. */
export const DISK_THREADS_MAX = 24;

/**
 * Threads that wait for a disk need no processor, but what they bring does: enough for a disk that likes many requests
 * at a time, and more where there are processors to take it.
 */
export const DISK_THREADS_DEFAULT = Math.min(DISK_THREADS_MAX, 16 + 4 * navigator.hardwareConcurrency);

/** The places; their number may change at any time. */
export const diskThreads = new Slots(DISK_THREADS_DEFAULT);

/** What the threads are doing, for status. */
export interface DiskThreads {
  /** How many there may be. */
  readonly count: number;
  /** With a call under way; after a change more than there may be, for a moment. */
  readonly busy: number;
  /** Calls that wait for one. */
  readonly waiting: number;
}

export function describeDiskThreads(): DiskThreads {
  const { count, taken, waiting } = diskThreads;
  return { count, busy: taken, waiting };
}

/** Runs `work`, one call on the pool after the other, when a thread is free; it must not come here again. */
export async function onDiskThread<Result>(work: () => Promise<Result>): Promise<Result> {
  await diskThreads.take();
  try {
    return await work();
  } finally {
    diskThreads.give();
  }
}
