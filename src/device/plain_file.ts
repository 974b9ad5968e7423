import { nodeModule } from "../base/node_module.ts";
import { RangeOrder } from "../base/range_order.ts";
import type { BlockDevice, Extent, WriteOptions } from "./device.ts";
import { DeviceError, type DeviceOperation, narrowErrno } from "./device_error.ts";

/**
 * A file as a disk where libc cannot be reached (another operating system, another libc): everything through
 * `node:fs`. Correct, slower, and without holes; {@linkcode FileDisk} is the real one.
 */
export class PlainFileDisk implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes = { minimum: 1, preferred: 4096, maximumPayload: 32 * 1024 * 1024 };
  readonly can;
  readonly #fs = nodeModule("node:fs");
  readonly #fd: number;
  readonly #order = new RangeOrder();
  #closed = false;

  /** @throws {DeviceError} */
  constructor(path: string, { readOnly = false }: { readOnly?: boolean } = {}) {
    try {
      // Looked at before it is opened: to open a pipe would wait for a peer.
      if (!this.#fs.statSync(path).isFile()) {
        throw new DeviceError("EINVAL", "open", undefined, undefined, { detail: `${path} is not a file` });
      }
      this.#fd = this.#fs.openSync(path, readOnly ? "r" : "r+");
      this.sizeBytes = this.#fs.fstatSync(this.#fd).size;
    } catch (error) {
      throw toDeviceError("open", undefined, undefined, error);
    }
    const write = !readOnly;
    this.can = {
      write,
      flush: true,
      fua: write,
      trim: false,
      zero: false,
      fastZero: false,
      cache: false,
      multiConn: true,
      extents: false,
      rotational: false,
    };
  }

  read(offset: number, into: Uint8Array): Promise<void> {
    return this.#order.run(false, offset, into.length, () => this.#read(offset, into));
  }

  async #read(offset: number, into: Uint8Array): Promise<void> {
    for (let done = 0; done < into.length;) {
      const count = await this.#ask<number>(
        "read",
        offset,
        into.length,
        (callback) => this.#fs.read(this.#fd, into, done, into.length - done, offset + done, callback),
      );
      if (count === 0) throw cutShort("read", offset, into.length);
      done += count;
    }
  }

  write(offset: number, data: Uint8Array, options?: WriteOptions): void | Promise<void> {
    if (this.#order.conflicts(true, offset, data.length)) {
      const written = this.#order.run(true, offset, data.length, () => this.#write(offset, data));
      return options?.fua ? written.then(() => this.flush()) : written;
    }
    this.#write(offset, data);
    if (options?.fua) return this.flush();
  }

  #write(offset: number, data: Uint8Array): void {
    try {
      if (offset + data.length > this.#fs.fstatSync(this.#fd).size) {
        throw cutShort("write", offset, data.length);
      }
      for (let done = 0; done < data.length;) {
        done += this.#fs.writeSync(this.#fd, data, done, data.length - done, offset + done);
      }
    } catch (error) {
      throw toDeviceError("write", offset, data.length, error);
    }
  }

  flush(): Promise<void> {
    return this.#ask("flush", undefined, undefined, (callback) => this.#fs.fdatasync(this.#fd, callback));
  }

  trim(): never {
    throw new DeviceError("ENOTSUP", "trim");
  }

  zero(): never {
    throw new DeviceError("ENOTSUP", "zero");
  }

  extents(_offset: number, length: number): Extent[] {
    return [{ kind: "data", length }];
  }

  cache(): void {}

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#order.idle();
    this.#fs.closeSync(this.#fd);
  }

  #ask<Result = void>(
    operation: DeviceOperation,
    offset: number | undefined,
    length: number | undefined,
    call: (callback: (error: unknown, result?: Result) => void) => void,
  ): Promise<Result> {
    return new Promise((resolve, reject) => {
      call((error, result) => {
        if (error) reject(toDeviceError(operation, offset, length, error));
        else resolve(result as Result);
      });
    });
  }
}

function cutShort(operation: DeviceOperation, offset: number, length: number): DeviceError {
  return new DeviceError("EIO", operation, offset, length, { detail: "the file was cut short while in use" });
}

function toDeviceError(
  operation: DeviceOperation,
  offset: number | undefined,
  length: number | undefined,
  error: unknown,
): DeviceError {
  if (error instanceof DeviceError) return error;
  const { code, message } = error as { code?: string; message: string };
  return new DeviceError(narrowErrno(code ?? "EIO"), operation, offset, length, {
    detail: message,
    cause: error,
  });
}
