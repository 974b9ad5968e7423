/**
 * Who owns a disk that moves between hosts, as each of the two keeps it beside the image.
 *
 * | state | where | means |
 * | --- | --- | --- |
 * | owner | anywhere | this image is the disk |
 * | receiving | destination | an unfinished copy, good for nothing yet |
 * | prepared | destination | a whole, synced copy; it becomes the disk when the source says so |
 * | in-doubt | source | the destination was told to take over, and has not confirmed it |
 * | moved | source | the destination has confirmed: this image is history |
 *
 * Only an owner is served. No state changes because time passes: what is unfinished ends by contact with the other
 * host, or by a decision of the operator ({@linkcode claim}).
 */

import type { DiskIdentity } from "./device.ts";

/** One attempt to hand a disk over. */
export interface Migration {
  /** A UUID. */
  readonly id: string;
  /** The disk's. */
  readonly uuid: string;
  /** The disk's at the source; the destination goes on with the next one. */
  readonly generation: number;
  /** How often the disk has changed hands, this time included. */
  readonly epoch: number;
  /** The other host, for people and, at the source, to be dialled: a URI or an address. */
  readonly peer: string;
  /** When this host last wrote down something about it: ISO 8601. */
  readonly at: string;
}

/** What is known of who owns an image. */
export interface Ownership {
  readonly state: "owner" | "receiving" | "prepared" | "in-doubt" | "moved";
  /** How often the disk has changed hands, or has been claimed. */
  readonly epoch: number;
  /**
   * The attempt that the state is about. Of an owner: the one by which the disk came here (`cameBy`), or one that
   * was begun and whose end the other host may not know (`leaving`).
   */
  readonly migration?: Migration;
  /** Of an owner with a migration: which of the two it was. */
  readonly role?: "cameBy" | "leaving";
}

/** What is kept of one disk. */
export interface DiskRecord {
  readonly uuid: string;
  readonly generation: number;
  readonly ownership: Ownership;
}

/** Where a disk's record is kept. */
export interface RecordStore {
  /** What was read or written last; `null` before. */
  readonly latest: DiskRecord | null;
  /** `null`: there is none. */
  read(): Promise<DiskRecord | null>;
  /** Durable when this resolves. */
  write(record: DiskRecord): Promise<void>;
}

/** The ownership of a disk that has never moved. */
export const FIRST_OWNERSHIP: Ownership = { state: "owner", epoch: 1 };

/**
 * Why an image that is not owned must not be served, and what to do; `null` for an owner.
 *
 * @param path For the message.
 */
export function whyNotOwned(path: string, { state, migration }: Ownership): string | null {
  if (state === "owner") return null;
  const { peer, at, id } = migration!;
  const claimHint = `denbd own --claim ${path}`;
  switch (state) {
    case "moved":
      return `${path} has moved to ${peer} (${at}, migration ${id}); serve it there. ` +
        `To take it back as it was then, losing what was written there since: ${claimHint}`;
    case "in-doubt":
      return `${path} is in doubt: ${peer} was told to take it over (${at}, migration ${id}) and has not ` +
        `confirmed it. It settles when that host can be reached. If it is gone for good: ${claimHint}`;
    case "prepared":
      return `${path} holds a whole copy of a disk from ${peer} (${at}, migration ${id}) which has not been ` +
        `handed over: receive again with denbd listen, and it settles when the source can be reached. ` +
        `If it is gone for good: ${claimHint}`;
    case "receiving":
      return `${path} holds an unfinished copy of a disk from ${peer} (${at}, migration ${id}): receive it ` +
        `again with denbd listen. To use it as it is, most likely damaged: ${claimHint}`;
  }
}

/** What a disk with this record is for its peers. */
export function identityOf({ uuid, generation, ownership }: DiskRecord): DiskIdentity {
  const { migration, role, epoch } = ownership;
  const arrived = role === "cameBy" ? { arrived: { id: migration!.id, epoch } } : {};
  return { uuid, generation, durable: true, ...arrived };
}

/** What the operator who claims an image should know he may lose. */
export function riskOfClaim({ state, migration }: Ownership): string {
  const peer = migration?.peer ?? "";
  switch (state) {
    case "owner":
      return "it is owned already";
    case "moved":
      return `everything written at ${peer} since the hand-over is lost; if the disk is still served there, ` +
        "there are two owners from now on: stop it there first";
    case "in-doubt":
      return `${peer} may have taken it over: what was written there since is lost, and if it is served there, ` +
        "there are two owners from now on: stop it there first";
    case "prepared":
      return `${peer} may still own it and serve it: what was written there since the copy was finished is ` +
        "lost, and there may be two owners from now on: make sure that it is not served there";
    case "receiving":
      return "the copy is not finished: parts of it are missing or old";
  }
}

/**
 * The record after the operator has decided that this image is the disk.
 *
 * The epoch is raised past the one that the other host may have, so that whoever compares the two knows the later
 * decision. A copy takes the disk's UUID with it only when it was whole.
 */
export function claim(record: DiskRecord, newUuid: () => string): DiskRecord {
  const { state, epoch, migration } = record.ownership;
  if (state === "owner") return record;
  if (state === "receiving") {
    return { uuid: newUuid(), generation: 1, ownership: FIRST_OWNERSHIP };
  }
  return {
    uuid: migration!.uuid,
    generation: Math.max(record.generation, migration!.generation) + 1,
    // A source that was in doubt still has to tell the destination, should that come back.
    ownership: {
      state: "owner",
      epoch: Math.max(epoch, migration!.epoch) + 1,
      migration,
      role: state === "prepared" ? "cameBy" : "leaving",
    },
  };
}
