import { type DiskLocator, formatDiskLocator } from "../base/uri.ts";
import { copyDisk } from "../device/copy_disk.ts";
import type { BlockDevice } from "../device/device.ts";
import { DeviceError } from "../device/device_error.ts";
import { openDisk } from "../open_disk.ts";
import { reasonOf } from "../os/reason.ts";
import { command, type Invocation } from "./command.ts";
import { deadlineOption, diskNamed, forEver, soleWriterOption } from "./disk_options.ts";
import { FileOutput } from "./file_output.ts";
import { Interruption } from "./interruption.ts";
import type { OptionTable, OptionValues } from "./options.ts";
import { Progress } from "./progress.ts";
import { flushIfPossible, namingDisk, receiveRange, sendRange } from "./transfer.ts";
import { UsageError } from "./usage_error.ts";

const STREAM = "-";
/** Of a stream into a new file. */
const STREAM_BYTES = 1024 * 1024;

const OPTIONS = {
  connections: {
    type: "integer",
    min: 1,
    max: 64,
    default: 4,
    help: "Connections to a server that promises that several are as good as one",
  },
  requests: { type: "integer", min: 1, max: 1024, default: 64, help: "Requests under way" },
  requestSize: { type: "size", min: 4096, max: 32 << 20, default: 256 << 10, help: "Bytes of a request" },
  destinationIsZero: {
    type: "flag",
    help: "DESTINATION reads as zeroes everywhere: leave out what is zero",
  },
  deadline: deadlineOption,
  soleWriter: soleWriterOption,
  progress: { type: "flag", help: "Show progress although stderr is no terminal" },
} as const satisfies OptionTable;

export const copy = command({
  name: "copy",
  summary: "Copies a disk to another",
  usage: ["copy [OPTIONS] SOURCE DESTINATION"],
  description:
    `Each is a file, a block device, a URI such as nbd://host/export, or - for standard input or output.

Holes and zeroes of SOURCE are neither read nor sent; they become holes where DESTINATION can have them. A file that does not exist is created; anything else must be large enough, keeps its size, and what lies behind the end of SOURCE stays as it is. A file that was created is removed again if the copy fails.

The copy is durable when the command has succeeded.`,
  positional: { name: "SOURCE DESTINATION", help: "From where, and whereto", min: 2, max: 2 },
  options: OPTIONS,
  examples: [
    { text: "Fetch an export into a sparse file", command: "denbd copy nbd://127.0.0.1/disk disk.img" },
    {
      text: "Send a compressed image to a server",
      command: "zcat disk.gz | denbd copy - nbd://10.0.0.1/disk",
    },
  ],
  async run(invocation) {
    const [from, to] = invocation.args;
    if (from === STREAM && to === STREAM) throw new UsageError("one of the two has to be a disk");
    if (invocation.options.requestSize % 4096 !== 0) {
      throw new UsageError(`--request-size: ${invocation.options.requestSize} is no multiple of 4096`);
    }
    const source = from === STREAM ? null : diskNamed(from);
    const destination = to === STREAM ? null : diskNamed(to);
    if (source !== null && destination !== null && isSameDisk(source, destination)) {
      throw new UsageError("SOURCE and DESTINATION are the same");
    }
    using interruption = new Interruption();
    await new Copying(invocation, interruption.signal).run(source, destination);
  },
});

class Copying {
  readonly #options: OptionValues<typeof OPTIONS>;
  readonly #invocation: Invocation<OptionValues<typeof OPTIONS>>;
  readonly #signal: AbortSignal;
  readonly #aborted: Promise<never>;
  /** What is to be closed, whatever happens. */
  readonly #disks: BlockDevice[] = [];
  /** A file that we made, and remove unless the copy succeeds. */
  #created: string | null = null;

  constructor(invocation: Invocation<OptionValues<typeof OPTIONS>>, signal: AbortSignal) {
    this.#invocation = invocation;
    this.#options = invocation.options;
    this.#signal = signal;
    this.#aborted = new Promise((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
    this.#aborted.catch(() => {});
  }

  /** @param source `null`: standard input. @param destination `null`: standard output. */
  async run(source: DiskLocator | null, destination: DiskLocator | null): Promise<void> {
    try {
      if (source === null) await this.#copyFromStream(destination!);
      else if (destination === null) await this.#copyToStream(source);
      else await this.#copyDisks(source, destination);
      this.#created = null;
    } finally {
      await Promise.all(this.#disks.map((disk) => disk.close()));
      if (this.#created !== null) await Deno.remove(this.#created).catch(() => {});
    }
  }

  async #copyDisks(from: DiskLocator, to: DiskLocator): Promise<void> {
    const source = await this.#open(from, true);
    const created = await this.#create(to, source.sizeBytes);
    const destination = await this.#open(to, false);
    this.#expectRoom(from, source.sizeBytes, to, destination);
    using progress = this.#progress(source.sizeBytes);
    try {
      await copyDisk(source, destination, {
        requestBytes: this.#options.requestSize,
        depth: this.#options.requests,
        destinationIsZero: created || this.#options.destinationIsZero,
        signal: this.#signal,
        onBytes: progress.add,
      });
      await Promise.race([this.#flush(to, destination), this.#aborted]);
    } catch (error) {
      throw named(error, from, to);
    }
  }

  async #copyToStream(from: DiskLocator): Promise<void> {
    const source = await this.#open(from, true);
    using progress = this.#progress(source.sizeBytes);
    const { stdout } = this.#invocation;
    const sending = sendRange(source, 0, source.sizeBytes, stdout, progress.add);
    try {
      await Promise.race([sending, this.#aborted]);
    } catch (error) {
      throw namingDisk(error, formatDiskLocator(from));
    }
  }

  async #copyFromStream(to: DiskLocator): Promise<void> {
    const { stdin } = this.#invocation;
    using progress = this.#progress(null);
    if (to.kind === "file" && await this.#create(to, 0)) {
      using output = new FileOutput(await Deno.open(to.path, { write: true }));
      const buffer = new Uint8Array(STREAM_BYTES);
      while (true) {
        const count = await Promise.race([stdin.read(buffer), this.#aborted]);
        if (count === null) return await inWords(to.path, output.finish());
        await inWords(to.path, output.write(buffer.subarray(0, count)));
        progress.add(count);
      }
    }
    const destination = await this.#open(to, false);
    this.#expectRoom(null, 0, to, destination);
    const { sizeBytes } = destination;
    try {
      await Promise.race([receiveRange(destination, 0, sizeBytes, stdin, progress.add), this.#aborted]);
      await Promise.race([this.#flush(to, destination), this.#aborted]);
    } catch (error) {
      throw namingDisk(error, formatDiskLocator(to));
    }
    if (await Promise.race([stdin.read(new Uint8Array(1)), this.#aborted]) !== null) {
      throw new Error(`standard input is longer than the ${sizeBytes} bytes of ${formatDiskLocator(to)}`);
    }
  }

  async #open(locator: DiskLocator, readOnly: boolean): Promise<BlockDevice> {
    const { log } = this.#invocation;
    const { connections, deadline, soleWriter } = this.#options;
    const disk = await openDisk(locator, {
      readOnly,
      connections,
      deadlineMs: forEver(deadline),
      soleWriter,
      verify: "always",
      log,
      signal: this.#signal,
    });
    this.#disks.push(disk);
    return disk;
  }

  /** Makes a file of holes if there is none. @returns Whether it did. */
  async #create(locator: DiskLocator, sizeBytes: number): Promise<boolean> {
    if (locator.kind !== "file") return false;
    const { path } = locator;
    try {
      using file = await Deno.open(path, { write: true, createNew: true });
      this.#created = path;
      await file.truncate(sizeBytes);
      return true;
    } catch (error) {
      if (error instanceof Deno.errors.AlreadyExists) return false;
      const why = reasonOf(error, { ENOENT: "there is no such directory" });
      throw new Error(`cannot create ${path}: ${why}`);
    }
  }

  #expectRoom(
    from: DiskLocator | null,
    neededBytes: number,
    to: DiskLocator,
    destination: BlockDevice,
  ): void {
    const name = formatDiskLocator(to);
    if (!destination.can.write) throw new Error(`cannot write to ${name}: it is read-only`);
    if (from === null || destination.sizeBytes >= neededBytes) return;
    throw new Error(
      `${name} is too small: it has ${destination.sizeBytes} bytes, ${
        formatDiskLocator(from)
      } ${neededBytes}`,
    );
  }

  async #flush(locator: DiskLocator, destination: BlockDevice): Promise<void> {
    await flushIfPossible(destination, formatDiskLocator(locator), this.#invocation.log);
  }

  #progress(totalBytes: number | null): Progress {
    return new Progress(this.#invocation.stderr, totalBytes, this.#options.progress ? { show: true } : {});
  }
}

/** Whether both names mean the same file, device or export, as far as can be seen from here. */
function isSameDisk(one: DiskLocator, other: DiskLocator): boolean {
  if (one.kind !== "file" || other.kind !== "file") {
    return formatDiskLocator(one) === formatDiskLocator(other);
  }
  try {
    const [a, b] = [Deno.statSync(one.path), Deno.statSync(other.path)];
    if (a.isBlockDevice && b.isBlockDevice) return a.rdev === b.rdev;
    return a.dev === b.dev && a.ino === b.ino;
  } catch {
    return false; // One of them does not exist, or will be refused when it is opened.
  }
}

/** Waits for what is done to a file, and names that where it fails. */
async function inWords(path: string, doing: Promise<void>): Promise<void> {
  try {
    await doing;
  } catch (error) {
    throw new Error(`cannot write ${path}: ${reasonOf(error)}`);
  }
}

/** Adds to an error which disk it was. */
function named(error: unknown, from: DiskLocator, to: DiskLocator): unknown {
  const isSource = error instanceof DeviceError &&
    (error.operation === "read" || error.operation === "extents");
  return namingDisk(error, formatDiskLocator(isSource ? from : to));
}
