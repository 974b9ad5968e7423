/**
 * A writer's session that outlives its program: one that was killed and starts again takes its own reservation up at
 * once, rather than wait until that has ended.
 *
 * Kept are the session's id and how often it was begun, in a file for each disk that only this user may read: whoever
 * has the id may be able to take the session's place. The beginnings are the upper part of the generation, what the
 * program does afterwards is the lower: so a later beginning has the higher generation, although only beginnings are
 * made durable. What the killed program had under way is over before the server serves the new one; what it had been
 * answered and had not flushed its users know to be gone, as with any client that is killed.
 */
import { isUuid } from "../base/uuid.ts";
import { DeviceError } from "../device/device_error.ts";
import { writeDurably } from "../os/durable_file.ts";
import { OpenFile } from "../os/file_calls.ts";
import { ImageInUse, lockImage } from "../os/file_lock.ts";
import { libc } from "../os/libc.ts";
import { reasonOf } from "../os/reason.ts";
import type { SessionName } from "../wire/nbd/denbd_context.ts";

const FORMAT = "denbd session";
const VERSION = 1;
/** Generations of one beginning. */
const GENERATIONS = 2 ** 32;
/** After so many beginnings another id is made, while generations are still exact. */
const BEGINNINGS_MAX = 2 ** 20;

interface Kept {
  readonly id: string;
  readonly beginnings: number;
}

export class KeptSession implements Disposable {
  readonly #file: string;
  /** Keeps a second program from being the same session at the same time. */
  readonly #lock: OpenFile | null;
  #kept: Kept | null;

  private constructor(file: string, lock: OpenFile | null, kept: Kept | null) {
    this.#file = file;
    this.#lock = lock;
    this.#kept = kept;
  }

  /**
   * Finds the session of a disk, if one is kept.
   *
   * @param directory Made if it does not exist, for this user alone.
   * @param source The name of the disk.
   * @throws {DeviceError} If the file cannot be used, or another program has the session.
   */
  static async open(directory: string, source: string): Promise<KeptSession> {
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(source));
    const file = `${directory}/${new Uint8Array(digest).toHex().slice(0, 32)}.session`;
    let lock: OpenFile | null = null;
    try {
      await Deno.mkdir(directory, { recursive: true, mode: 0o700 });
      lock = await lockFile(`${file}.lock`);
      return new KeptSession(file, lock, await read(file));
    } catch (error) {
      lock?.close();
      const why = error instanceof ImageInUse
        ? `the session is ${error.message}`
        : reasonOf(error, { EEXIST: `${directory} is no directory` });
      throw refusal(file, why);
    }
  }

  /**
   * Begins the session, again.
   *
   * @param anew As another one: the server does not take the one that was kept.
   * @returns Its name, whose generation is higher than all before it, when that is durable.
   * @throws {DeviceError} If it cannot be made so.
   */
  async begin(anew = false): Promise<SessionName> {
    const known = anew || this.#kept === null || this.#kept.beginnings >= BEGINNINGS_MAX ? null : this.#kept;
    const { id, beginnings } = known ?? { id: crypto.randomUUID(), beginnings: 0 };
    const kept = { id, beginnings: beginnings + 1 };
    const record = { format: FORMAT, version: VERSION, ...kept };
    try {
      await writeDurably(this.#file, JSON.stringify(record) + "\n");
    } catch (error) {
      throw refusal(this.#file, reasonOf(error));
    }
    this.#kept = kept;
    return { id, generation: kept.beginnings * GENERATIONS };
  }

  [Symbol.dispose](): void {
    this.#lock?.close();
  }
}

function refusal(file: string, why: string): DeviceError {
  return new DeviceError("EINVAL", "open", undefined, undefined, { detail: `cannot use ${file}: ${why}` });
}

/** `null` where the system is not asked through libc. @throws {ImageInUse} If another program has it. */
async function lockFile(path: string): Promise<OpenFile | null> {
  const lib = libc();
  if (lib === null) return null;
  (await Deno.open(path, { write: true, create: true, mode: 0o600 })).close();
  const file = OpenFile.open(lib, path);
  try {
    lockImage(lib, file);
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}

async function read(file: string): Promise<Kept | null> {
  let text;
  try {
    text = await Deno.readTextFile(file);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
  let record: { format?: unknown; version?: unknown; id?: unknown; beginnings?: unknown } | null = null;
  try {
    record = JSON.parse(text);
  } catch {
    // Told next.
  }
  if (record?.format !== FORMAT) throw new SyntaxError("it does not hold a session");
  const { version, id, beginnings } = record;
  if (version !== VERSION) {
    throw new SyntaxError(`it has version ${version}, this program knows version ${VERSION}`);
  }
  const isWhole = isUuid(id) && Number.isSafeInteger(beginnings) &&
    (beginnings as number) >= 1;
  if (!isWhole) throw new SyntaxError("it is damaged; remove it");
  return { id, beginnings: beginnings as number };
}
