/** Bugs that are planted, to see whether the simulation finds them. */
import type { BlockDevice, WriteOptions } from "../../src/device/device.ts";
import { delay } from "../../src/os/clock.ts";
import { JoinedRead } from "../../src/remote/connection/joined_read.ts";
import { NbdConnection } from "../../src/remote/connection/nbd_connection.ts";
import type { Transaction } from "../../src/remote/connection/nbd_transaction.ts";
import { ReadJoiner } from "../../src/remote/connection/read_joiner.ts";
import { ReplayMap } from "../../src/remote/replay_map.ts";
import { WriterSessions } from "../../src/server/writer_sessions.ts";
import { Command } from "../../src/wire/nbd/constants.ts";
import type { Tampering } from "./machines.ts";
import type { Surroundings } from "./network.ts";

export interface Bug {
  readonly name: string;
  readonly tampering?: Tampering;
  /** Changes a part of the program for as long as the result is not disposed of. */
  plant?(): Disposable;
}

/** What has to be sent again is not, and is said to be done. */
export const skipsResend: Bug = {
  name: "a write that has to be sent again is taken for done",
  plant: () => replaceSubmit((transaction) => transaction.succeed()),
};

/** What has to be sent again is not, and nobody hears of it. */
export const losesRequest: Bug = {
  name: "a write that has to be sent again is forgotten",
  plant: () => replaceSubmit(() => {}),
};

/** The server answers writes before it has written. */
export const answersEarly: Bug = {
  name: "writes are acknowledged before they are written",
  tampering: { disk: (disk, surroundings) => eager(disk, surroundings) },
};

export const forgetsReplay: Bug = {
  name: "nothing is kept to be written again",
  plant: () => replace(ReplayMap.prototype, "remember", () => {}),
};

/** What was written is kept after a flush that began before. */
export const forgetsTooMuch: Bug = {
  name: "a flush forgets what was written after it began",
  plant: () => {
    const { forgetBefore } = ReplayMap.prototype;
    return replace(ReplayMap.prototype, "forgetBefore", function (this: ReplayMap) {
      forgetBefore.call(this, Infinity);
    });
  },
};

/** The data of READs that were joined go to each other's places. */
export const mixesParts: Bug = {
  name: "the parts of a joined READ are mixed up",
  plant: () => {
    const { release } = ReadJoiner.prototype;
    return replace(ReadJoiner.prototype, "release", function (this: ReadJoiner, now) {
      const reads = release.call(this, now);
      for (const read of reads) if (read instanceof JoinedRead) read.parts.reverse();
      return reads;
    });
  },
};

/** A restarted server passes for the same. */
export const hidesRestart: Bug = {
  name: "a restart of the server is not noticed",
  tampering: { constantInstance: true },
};

export const replaysAlways: Bug = {
  name: "what may be lost is written again although others write",
  tampering: { alwaysReplays: true },
};

/** The server cannot know which old connection a new one takes the place of. */
export const namesNoSession: Bug = {
  name: "a client does not name its session",
  tampering: { withoutSession: true },
};

/** Somebody else may have had the reservation while the proxy was away. */
export const trustsCacheFile: Bug = {
  name: "a cache file is trusted although others may have written since",
  tampering: { trustsCacheFile: true },
};

/** Its reservation may have ended while nobody could tell it. */
export const trustsCache: Bug = {
  name: "a proxy that is cut off answers from its cache",
  tampering: { trustsCache: true },
};

/** A link says once that something may be lost; others may have written that. */
export const tellsOneOnly: Bug = {
  name: "a proxy tells only one of its clients that something may be lost",
  tampering: { tellsOneOnly: true },
};

/** Everybody is told that the export is reserved for him. */
export const reservesForAll: Bug = {
  name: "an export is reserved for everybody",
  plant: () =>
    replace(WriterSessions.prototype, "admit", () =>
      Promise.resolve({
        grant: "00000000-0000-4000-8000-000000000000",
        enter: () => true,
        leave: () => {},
        mayChange: () => null,
        forgo: () => {},
      })),
};

/** Calls `instead` for writes that are submitted a second time. */
function replaceSubmit(instead: (transaction: Transaction) => void): Disposable {
  const { submit } = NbdConnection.prototype;
  const seen = new WeakSet<Transaction>();
  return replace(NbdConnection.prototype, "submit", function (this: NbdConnection, transaction: Transaction) {
    if (transaction.type === Command.WRITE && seen.has(transaction)) {
      return instead(transaction);
    }
    seen.add(transaction);
    submit.call(this, transaction);
  });
}

function replace<Part, Name extends keyof Part>(part: Part, name: Name, by: Part[Name]): Disposable {
  const original = part[name];
  part[name] = by;
  return { [Symbol.dispose]: () => void (part[name] = original) };
}

/** A disk that says at once that it has written, and writes a little later. */
function eager(disk: BlockDevice, { time }: Surroundings): BlockDevice {
  const write = (offset: number, data: Uint8Array, options?: WriteOptions) => {
    const kept = data.slice();
    void delay(time, 5).then(() => disk.write(offset, kept, options)).catch(() => {});
  };
  return new Proxy(disk, {
    get(target, key) {
      if (key === "write") return write;
      const value = Reflect.get(target, key);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
