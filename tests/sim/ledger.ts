/**
 * What the user of a disk has been promised, held against what it sees and against what is on the medium.
 *
 * The disk is looked at in sectors, each of which was written by one numbered write. For each sector the ledger keeps
 * which content a read may see, which content a flush that succeeds now would promise, and which content power loss
 * may leave. One is certain most of the time; after an error there are several.
 */
import { SECTOR_BYTES } from "./disk.ts";

/** The content of a sector that was never written, or zeroed. */
export const ZERO = 0;
/** It was trimmed: anything. */
export const ANYTHING = -1;

/** A guarantee was broken. */
export class BrokenPromise extends Error {}

/** A change that was asked for, of so many sectors. */
export interface Change {
  readonly number: number;
  readonly first: number;
  readonly count: number;
  /** What it writes. */
  readonly content: number;
  /** Power losses before it was asked for. */
  readonly losses: number;
  /** Clients that were gone before it was asked for. */
  readonly clientsGone: number;
  /** Asked for by another writer than the user. */
  readonly byRival: boolean;
  /** Changes of the other writer that were under way at the same time: which one comes last is open. */
  readonly beside: Change[];
}

interface Written {
  /** Of the change. */
  readonly number: number;
  readonly content: number;
}

interface Sector {
  /** What a read may see when all that was asked for has ended. */
  visible: readonly number[];
  /** What a flush that succeeds promises to be durable, if nothing else is asked for. */
  claimed: readonly number[];
  /** What power loss may leave. */
  possible: readonly Written[];
  /** Of the last change that has ended. */
  endedNumber: number;
  /** There is a change that failed since the last that succeeded: it may happen yet. */
  unsure: boolean;
  /** Grows when another writer changes it. */
  rivalry: number;
}

/** What a flush will have promised. */
export interface FlushClaim {
  readonly claimed: readonly (readonly number[])[];
  readonly endedNumbers: readonly number[];
  readonly tellings: number;
  readonly losses: number;
}

export class Ledger {
  readonly #sectors: Sector[];
  /** Nothing that was acknowledged is ever lost; otherwise the next flush tells. */
  readonly #kept: boolean;
  #changes = 0;
  /** How often the user was told that something may be lost. */
  #tellings = 0;
  /** Crashes that may set back what reads see. */
  #losses = 0;
  /** Of these, those before the last flush that succeeded. */
  #lossesFlushed = 0;
  #clientsGone = 0;
  /** Something was given up of which the user has not been told. */
  #forgotten = false;
  /** Sectors whose unflushed content went through a client that is gone, or another writer. */
  readonly #orphans = new Set<number>();
  /** Asked for and not ended. */
  readonly pending = new Set<Change>();
  requests = 0;
  ended = 0;

  constructor(sectors: number, kept: boolean) {
    this.#kept = kept;
    this.#sectors = Array.from({ length: sectors }, () => ({
      visible: [ZERO],
      claimed: [ZERO],
      possible: [{ number: 0, content: ZERO }],
      endedNumber: 0,
      unsure: false,
      rivalry: 0,
    }));
  }

  get sectorCount(): number {
    return this.#sectors.length;
  }

  // --- Changes ---

  /** @param content Default: the number of the change. */
  ask(first: number, count: number, content?: number, byRival = false): Change {
    const number = ++this.#changes;
    const change: Change = {
      number,
      first,
      count,
      content: content ?? number,
      losses: this.#losses,
      clientsGone: this.#clientsGone,
      byRival,
      beside: [],
    };
    for (const other of this.pending) {
      if (other.byRival === byRival || !meet(other, change)) continue;
      other.beside.push(change);
      change.beside.push(other);
    }
    this.pending.add(change);
    for (const sector of this.#of(change)) {
      sector.possible = [...sector.possible, change];
      if (!byRival) continue;
      // The user does not wait for it.
      sector.rivalry++;
      sector.visible = union(sector.visible, [change.content]);
      sector.claimed = union(sector.claimed, [change.content]);
    }
    return change;
  }

  acknowledged(change: Change, durable: boolean): void {
    this.pending.delete(change);
    const { first, count, number, content } = change;
    for (let at = first; at < first + count; at++) {
      const sector = this.#sectors[at];
      const beside = change.beside.filter((other) => at >= other.first && at < other.first + other.count);
      const last = union([content], contents(beside));
      // The answer may have been on its way when power was lost.
      const isCertain = this.#kept || change.losses === this.#losses;
      sector.visible = isCertain ? last : union(contents(sector.possible), last);
      // What another writer has not flushed is not promised to the user.
      sector.claimed = change.byRival ? union(sector.claimed, last) : last;
      if (change.byRival) sector.rivalry++;
      sector.endedNumber = number;
      // An answer that crosses the end of its client promises nothing more than what was told then.
      const isOrphan = change.clientsGone !== this.#clientsGone && !change.byRival;
      sector.unsure = isOrphan;
      if (isOrphan) {
        sector.visible = union(contents(sector.possible), last);
        sector.claimed = sector.visible;
        this.#orphans.add(at);
      } else if (change.byRival && !durable) {
        // It writes that again only if nobody takes its place before it comes back.
        this.#orphans.add(at);
      } else {
        this.#orphans.delete(at);
      }
      // What was asked for later is possible, too.
      if (durable) {
        sector.possible = sector.possible.filter((written) =>
          written.number >= number || beside.some((other) => other.number === written.number)
        );
      }
    }
  }

  /** It may have happened or not. */
  failed(change: Change): void {
    this.pending.delete(change);
    for (const sector of this.#of(change)) {
      sector.visible = union(sector.visible, [change.content]);
      sector.claimed = union(sector.claimed, [change.content]);
      sector.endedNumber = change.number;
      sector.unsure = true;
    }
  }

  #of({ first, count }: { first: number; count: number }): Sector[] {
    return this.#sectors.slice(first, first + count);
  }

  // --- Flushes ---

  askFlush(): FlushClaim {
    return {
      claimed: this.#sectors.map(({ claimed }) => claimed),
      endedNumbers: this.#sectors.map(({ endedNumber }) => endedNumber),
      tellings: this.#tellings,
      losses: this.#losses,
    };
  }

  /** The other writer flushed what it had written. @param stored What is on the medium at this moment. */
  rivalFlushed(changes: readonly Change[], stored: Uint8Array): void {
    for (const change of changes) {
      for (let at = change.first; at < change.first + change.count; at++) {
        const found = contentOf(stored, at);
        const allowed = union(
          union([change.content], contents(change.beside)),
          contents(this.#sectors[at].possible.filter(({ number }) => number > change.number)),
        );
        this.#orphans.delete(at);
        if (allowed.includes(found) || allowed.includes(ANYTHING)) continue;
        throw new BrokenPromise(
          `another writer's flush succeeded, and sector ${at} of the medium has ${found}`,
        );
      }
    }
  }

  /** @param stored What is on the medium at this moment. */
  flushed(claim: FlushClaim, stored: Uint8Array): void {
    // Who was told of a loss after having asked knows nothing by this.
    if (claim.tellings !== this.#tellings) return;
    this.#lossesFlushed = claim.losses;
    for (const [at, sector] of this.#sectors.entries()) {
      const promised = claim.claimed[at];
      const later = sector.possible.filter(({ number }) => number > claim.endedNumbers[at]);
      const found = contentOf(stored, at);
      const allowed = (content: number) => content === ANYTHING || content === found;
      if (!promised.some(allowed) && !later.some(({ content }) => allowed(content))) {
        throw new BrokenPromise(
          `a flush succeeded, and sector ${at} of the medium has ${found} instead of ${
            promised.join(" or ")
          }`,
        );
      }
      sector.possible = [
        ...promised.map((content) => ({ number: claim.endedNumbers[at], content })),
        ...later,
      ];
      if (sector.endedNumber === claim.endedNumbers[at]) this.#orphans.delete(at);
    }
  }

  /** The user is told: what was acknowledged and is not certain to be durable may be lost. */
  flushFailed(): void {
    this.#tellings++;
    if (this.#kept && !this.#forgotten) return;
    this.#forgotten = false;
    for (const sector of this.#sectors) {
      sector.claimed = union(sector.visible, contents(sector.possible));
    }
  }

  /** The client could not write again what the server may have lost; the next flush has to tell. */
  repeatFailed(): void {
    this.#losses++;
    this.#forgotten = true;
    for (const [at, sector] of this.#sectors.entries()) {
      sector.visible = union(sector.visible, contents(sector.possible));
      // A later crash may take what is left, and nobody will write it again.
      this.#orphans.add(at);
    }
  }

  // --- Crashes ---

  /** Power was lost: unless all is kept, reads may see what was before. */
  powerLost(): void {
    this.#losses++;
    // Of what an earlier client forgot, a flush under way knows nothing.
    if (this.#orphans.size > 0) this.#tellings++;
    for (const [at, sector] of this.#sectors.entries()) {
      if (this.#kept && !this.#orphans.has(at)) continue;
      sector.visible = union(sector.visible, contents(sector.possible));
      if (this.#orphans.has(at)) sector.claimed = sector.visible;
    }
  }

  /** Somebody else was let in: what was not flushed is not kept any more, and the next flush has to tell. */
  supplanted(): void {
    this.repeatFailed();
  }

  /** The client is gone, and with it its memory of what was not flushed. What it was asked for has failed. */
  clientLost(): void {
    this.#tellings++;
    this.#clientsGone++;
    // What it would have written again after an earlier loss stays lost.
    const isLost = this.#losses > this.#lossesFlushed;
    for (const [at, sector] of this.#sectors.entries()) {
      if (isLost) sector.visible = union(sector.visible, contents(sector.possible));
      sector.claimed = sector.visible;
      // What it was about to write, or to write again, may be on its way to the server still.
      sector.unsure = true;
      this.#orphans.add(at);
    }
  }

  // --- Reads ---

  /** @returns To be called with what was read, when everything that was asked for before has ended. */
  askRead(first: number, count: number): (data: Uint8Array) => void {
    const losses = this.#losses;
    const rivalry = this.#of({ first, count }).map((sector) => sector.rivalry);
    return (data) => {
      for (let at = 0; at < count; at++) {
        const sector = this.#sectors[first + at];
        const found = contentOf(data, at);
        // What somebody else writes meanwhile may be seen or not.
        const disturbed = sector.rivalry !== rivalry[at] || this.#hasRival(first + at);
        const visible = disturbed ? union(sector.visible, contents(sector.possible)) : sector.visible;
        // What was trimmed may read as this now and as that later.
        if (visible.includes(ANYTHING)) continue;
        if (!visible.includes(found)) {
          throw new BrokenPromise(
            `sector ${first + at} reads as ${found} instead of ${visible.join(" or ")}`,
          );
        }
        // What was seen stays, unless power was lost meanwhile. A cache may answer while the server is away: of what
        // nobody writes again it then shows what the server had before it lost that.
        const isCertain = !sector.unsure && !disturbed && losses === this.#losses;
        if (isCertain && !this.#orphans.has(first + at)) sector.visible = [found];
      }
    };
  }

  #hasRival(at: number): boolean {
    for (const { byRival, first, count } of this.pending) {
      if (byRival && at >= first && at < first + count) return true;
    }
    return false;
  }

  /** Whether a sector may be a hole. */
  mayBeZero(at: number): boolean {
    const { visible, possible } = this.#sectors[at];
    const zero = (content: number) => content === ZERO || content === ANYTHING;
    return visible.some(zero) || possible.some(({ content }) => zero(content));
  }

  /** At the end, when nothing is pending: what is on the medium after a flush has to be what was written last. */
  audit(stored: Uint8Array): void {
    for (const [at, { visible }] of this.#sectors.entries()) {
      const found = contentOf(stored, at);
      if (visible.includes(ANYTHING) || visible.includes(found)) continue;
      throw new BrokenPromise(`sector ${at} ends as ${found} instead of ${visible.join(" or ")}`);
    }
  }
}

function meet(one: Change, other: Change): boolean {
  return one.first < other.first + other.count && other.first < one.first + one.count;
}

function contents(written: readonly { readonly content: number }[]): number[] {
  return written.map(({ content }) => content);
}

function union(one: readonly number[], other: readonly number[]): readonly number[] {
  const added = other.filter((content) => !one.includes(content));
  return added.length === 0 ? one : [...one, ...new Set(added)];
}

/** The bytes of sectors that one write fills. */
export function contentBytes(content: number, sectors: number): Uint8Array {
  const bytes = new Uint8Array(sectors * SECTOR_BYTES);
  new Float64Array(bytes.buffer).fill(content);
  return bytes;
}

/** Which write filled a sector; NaN if it was more than one, or none. */
function contentOf(bytes: Uint8Array, sector: number): number {
  const words = new Float64Array(bytes.buffer, bytes.byteOffset + sector * SECTOR_BYTES, SECTOR_BYTES / 8);
  const first = words[0];
  for (let at = 1; at < words.length; at++) if (words[at] !== first) return NaN;
  return first;
}
