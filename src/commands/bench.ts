import { formatSize } from "../base/size_text.ts";
import { type DiskLocator, formatDiskLocator } from "../base/uri.ts";
import type { BlockDevice } from "../device/device.ts";
import { openDisk, type OpenDiskOptions } from "../open_disk.ts";
import { systemClock } from "../os/clock.ts";
import { LatencyHistogram } from "../server/latency.ts";
import { command } from "./command.ts";
import { diskNamed } from "./disk_options.ts";

/** A disk that cannot be opened this often in a row is given up. */
const OPENS_FAILED_MAX = 3;

export const bench = command({
  name: "bench",
  summary: "Loads servers with reads and reports how fast they answer",
  usage: ["bench [--requests N] [--connections N] [--depth N] [--block-size SIZE] DISK..."],
  description:
    `Reads blocks of each disk in turn and tells how many a second there were and how long they took. ` +
    `Offsets are random and need no alignment, unless --sequential is given. With --reconnect every block ` +
    `is read over a connection of its own, as dnbd3-bench does.\n\n` +
    `It ends with 1 if a read failed or came short of what was asked for.`,
  positional: { name: "DISK", help: "A file, a block device or a URI such as dnbd3://host/image", min: 1 },
  options: {
    requests: {
      type: "integer",
      short: "n",
      min: 1,
      max: 1e9,
      default: 1000,
      help: "Blocks to read of each disk",
    },
    connections: {
      type: "integer",
      short: "t",
      min: 1,
      max: 1000,
      default: 1,
      help: "Connections at the same time",
    },
    depth: { type: "integer", min: 1, max: 1000, default: 1, help: "Reads in flight on each connection" },
    blockSize: { type: "size", short: "b", min: 1, max: 32 << 20, default: 4096, help: "Bytes of a block" },
    sequential: { type: "flag", help: "Read one block after the other instead of at random" },
    reconnect: { type: "flag", help: "Connect anew for every block" },
    json: { type: "flag", help: "Print JSON" },
  },
  examples: [
    {
      text: "Two servers of an image, eight connections each",
      command: "denbd bench -t 8 -n 100000 dnbd3://server1/win10 dnbd3://server2/win10",
    },
  ],
  async run({ options, args, stdout, log }) {
    const locators = args.map(diskNamed);
    const results: Result[] = [];
    for (const locator of locators) {
      const load = new Load(locator, options, { readOnly: true, log });
      results.push(await load.run());
    }
    await stdout.write(options.json ? `${JSON.stringify(results, null, 2)}\n` : results.map(textOf).join(""));
    return results.every((result) => result.failed === 0) ? 0 : 1;
  },
});

interface LoadOptions {
  readonly requests: number;
  readonly connections: number;
  readonly depth: number;
  readonly blockSize: number;
  readonly sequential: boolean;
  readonly reconnect: boolean;
}

/** What came of one disk. */
interface Result {
  readonly disk: string;
  readonly attempts: number;
  readonly succeeded: number;
  readonly failed: number;
  /** The first failure. */
  readonly error?: string;
  readonly seconds: number;
  readonly requestsPerSecond: number;
  readonly bytesPerSecond: number;
  readonly latencyUs: {
    readonly p50: number;
    readonly p90: number;
    readonly p99: number;
    readonly p999: number;
    readonly max: number;
  };
}

class Load {
  readonly #locator: DiskLocator;
  readonly #options: LoadOptions;
  readonly #connect: OpenDiskOptions;
  readonly #latencies = new LatencyHistogram();
  #begun = 0;
  #succeeded = 0;
  #failed = 0;
  #error: string | undefined;
  #nextOffset = 0;

  constructor(locator: DiskLocator, options: LoadOptions, connect: OpenDiskOptions) {
    this.#locator = locator;
    this.#options = options;
    this.#connect = connect;
  }

  async run(): Promise<Result> {
    const { connections, blockSize } = this.#options;
    const disks = await Promise.all(Array.from({ length: connections }, () => this.#open()));
    const startedMs = systemClock.now();
    await Promise.all(disks.map((disk) => disk === null ? undefined : this.#useConnection(disk)));
    const seconds = (systemClock.now() - startedMs) / 1000;
    await Promise.all(disks.map((disk) => disk?.close()));
    const { p50Us, p90Us, p99Us, p999Us, maxUs } = this.#latencies.summary();
    return {
      disk: formatDiskLocator(this.#locator),
      attempts: this.#succeeded + this.#failed,
      succeeded: this.#succeeded,
      failed: this.#failed,
      ...(this.#error === undefined ? {} : { error: this.#error }),
      seconds,
      requestsPerSecond: this.#succeeded / seconds,
      bytesPerSecond: this.#succeeded * blockSize / seconds,
      latencyUs: { p50: p50Us, p90: p90Us, p99: p99Us, p999: p999Us, max: maxUs },
    };
  }

  async #useConnection(disk: BlockDevice): Promise<void> {
    const { depth, blockSize } = this.#options;
    if (blockSize > disk.sizeBytes) {
      return this.#fail(
        new Error(`a block of ${blockSize} bytes is longer than the disk, ${disk.sizeBytes} bytes`),
      );
    }
    await Promise.all(Array.from({ length: depth }, () => this.#readBlocks(disk)));
  }

  async #readBlocks(disk: BlockDevice): Promise<void> {
    const { requests, blockSize, reconnect } = this.#options;
    const into = new Uint8Array(blockSize);
    let opensFailed = 0;
    while (this.#begun < requests && opensFailed < OPENS_FAILED_MAX) {
      this.#begun++;
      const startedMs = systemClock.now();
      const used = reconnect ? await this.#open() : disk;
      if (used === null) {
        opensFailed++;
        continue;
      }
      opensFailed = 0;
      try {
        await used.read(this.#offset(disk.sizeBytes - blockSize), into);
        this.#latencies.add(Math.round((systemClock.now() - startedMs) * 1000));
        this.#succeeded++;
      } catch (error) {
        this.#fail(error);
      }
      if (reconnect) await used.close();
    }
  }

  /** Where the next block starts: from 0 to `last`. */
  #offset(last: number): number {
    const { sequential, blockSize } = this.#options;
    if (!sequential) return Math.floor(Math.random() * (last + 1));
    const offset = this.#nextOffset > last ? 0 : this.#nextOffset;
    this.#nextOffset = offset + blockSize;
    return offset;
  }

  /** A new connection, or null if there is none: that counts as a failure. */
  async #open(): Promise<BlockDevice | null> {
    try {
      return await openDisk(this.#locator, this.#connect);
    } catch (error) {
      this.#fail(error);
      return null;
    }
  }

  #fail(error: unknown): void {
    this.#failed++;
    this.#error ??= error instanceof Error ? error.message : String(error);
  }
}

function textOf(result: Result): string {
  const { latencyUs: { p50, p90, p99, p999, max } } = result;
  const lines = [
    `${result.disk}:`,
    `  attempts: ${result.attempts}, succeeded: ${result.succeeded}, failed: ${result.failed}`,
    ...(result.error === undefined ? [] : [`  first failure: ${result.error}`]),
    ...(result.succeeded === 0 ? [] : [
      `  in ${result.seconds.toFixed(2)} s: ${Math.round(result.requestsPerSecond)} reads a second, ` +
      `${formatSize(Math.round(result.bytesPerSecond))} a second`,
      `  microseconds: half below ${p50}, 90 % ${p90}, 99 % ${p99}, 99.9 % ${p999}, longest ${max}`,
    ]),
  ];
  return lines.join("\n") + "\n";
}
