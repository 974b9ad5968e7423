import { RangeOrder } from "../base/range_order.ts";
import { type Clock, delay, systemClock } from "../os/clock.ts";
import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from "./device.ts";
import { DeviceError, type DeviceOperation, type ErrnoName } from "./device_error.ts";

/** Which operations are disturbed, and how. What is left out matches everything. */
export interface FaultRule {
  readonly operation?: DeviceOperation;
  /** Only operations that touch this range, in bytes. Flushes touch none. */
  readonly range?: { readonly offset: number; readonly length: number };
  /** Lets so many pass first. Default 0. */
  readonly skip?: number;
  /** Ends after so many. Default: never. */
  readonly times?: number;
  /** Fails with this error, after the delay, without having done anything. */
  readonly errno?: ErrnoName;
  /** Waits so long by the clock before it begins. */
  readonly delayMs?: number;
  /** Waits until {@linkcode Fault.release} before it begins. */
  readonly hold?: boolean;
}

/** A rule in force. */
export class Fault {
  readonly rule: FaultRule;
  #seen = 0;
  #hits = 0;
  #removed = false;
  #held: (() => void)[] = [];

  constructor(rule: FaultRule) {
    this.rule = rule;
  }

  /** Operations disturbed so far. */
  get hits(): number {
    return this.#hits;
  }

  /** Operations held now. */
  get held(): number {
    return this.#held.length;
  }

  /** Lets those that are held begin, in their order; later ones are held again. */
  release(): void {
    for (const begin of this.#held.splice(0)) begin();
  }

  /** Ends the rule, and releases. */
  remove(): void {
    this.#removed = true;
    this.release();
  }

  /** Whether the operation is disturbed; counts it. */
  takes(operation: DeviceOperation, offset: number | undefined, length: number | undefined): boolean {
    const { rule } = this;
    if (this.#removed || (rule.operation !== undefined && rule.operation !== operation)) return false;
    if (rule.range !== undefined) {
      if (offset === undefined || length === undefined) return false;
      if (offset + length <= rule.range.offset || rule.range.offset + rule.range.length <= offset) {
        return false;
      }
    }
    this.#seen += 1;
    if (this.#seen <= (rule.skip ?? 0) || this.#hits >= (rule.times ?? Infinity)) return false;
    this.#hits += 1;
    return true;
  }

  /** Waits as the rule says. `undefined` if it says nothing. */
  wait(clock: Clock): Promise<void> | undefined {
    const { delayMs, hold } = this.rule;
    if (hold) return new Promise((resolve) => this.#held.push(resolve));
    return delayMs === undefined ? undefined : delay(clock, delayMs);
  }
}

/**
 * A disk that fails, is slow, or answers out of order, on demand.
 *
 * Without rules it is the disk it wraps. Operations that wait keep their order with overlapping later ones, as on any
 * disk; others overtake them. A change with `fua` meets the rules for its own operation, then those for `flush`, as
 * the sync that it contains would.
 */
export class FaultDisk implements BlockDevice {
  readonly sizeBytes;
  readonly blockSizes;
  readonly can;
  readonly identity;
  readonly #disk: BlockDevice;
  readonly #clock: Clock;
  readonly #order = new RangeOrder();
  readonly #faults: Fault[] = [];

  constructor(disk: BlockDevice, { clock = systemClock }: { clock?: Clock } = {}) {
    this.#disk = disk;
    this.#clock = clock;
    this.sizeBytes = disk.sizeBytes;
    this.blockSizes = disk.blockSizes;
    this.can = disk.can;
    this.identity = disk.identity;
  }

  get syncFailure(): string | null | undefined {
    return this.#disk.syncFailure;
  }

  /** Puts a rule in force. Of several that match an operation the first disturbs it. */
  add(rule: FaultRule): Fault {
    const fault = new Fault(rule);
    this.#faults.push(fault);
    return fault;
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    return this.#ordered("read", false, offset, into.length, () => this.#disk.read(offset, into));
  }

  write(offset: number, data: Uint8Array, options?: WriteOptions): void | Promise<void> {
    return this.#change("write", offset, data.length, options, () => this.#disk.write(offset, data, options));
  }

  flush(): void | Promise<void> {
    return this.#disturbed("flush", undefined, undefined, () => this.#disk.flush());
  }

  trim(offset: number, length: number, options?: WriteOptions): void | Promise<void> {
    return this.#change("trim", offset, length, options, () => this.#disk.trim(offset, length, options));
  }

  zero(offset: number, length: number, options?: ZeroOptions): void | Promise<void> {
    return this.#change("zero", offset, length, options, () => this.#disk.zero(offset, length, options));
  }

  extents(offset: number, length: number): Extent[] | Promise<Extent[]> {
    return this.#ordered("extents", false, offset, length, () => this.#disk.extents(offset, length));
  }

  cache(offset: number, length: number): void | Promise<void> {
    return this.#ordered("cache", false, offset, length, () => this.#disk.cache(offset, length));
  }

  async close(): Promise<void> {
    for (const fault of this.#faults) fault.remove();
    await this.#order.idle();
    await this.#disk.close();
  }

  #change(
    operation: DeviceOperation,
    offset: number,
    length: number,
    options: WriteOptions | undefined,
    work: () => void | Promise<void>,
  ): void | Promise<void> {
    const withSync = options?.fua ? () => this.#disturbed("flush", undefined, undefined, work) : work;
    return this.#ordered(operation, true, offset, length, withSync);
  }

  #ordered<Result>(
    operation: DeviceOperation,
    writes: boolean,
    offset: number,
    length: number,
    work: () => Result | Promise<Result>,
  ): Result | Promise<Result> {
    if (this.#order.conflicts(writes, offset, length)) {
      return this.#order.run(writes, offset, length, () => this.#disturbed(operation, offset, length, work));
    }
    const result = this.#disturbed(operation, offset, length, work);
    return result instanceof Promise ? this.#order.run(writes, offset, length, () => result) : result;
  }

  #disturbed<Result>(
    operation: DeviceOperation,
    offset: number | undefined,
    length: number | undefined,
    work: () => Result | Promise<Result>,
  ): Result | Promise<Result> {
    const fault = this.#faults.find((fault) => fault.takes(operation, offset, length));
    if (fault === undefined) return work();
    const begin = () => {
      const { errno } = fault.rule;
      if (errno !== undefined) {
        throw new DeviceError(errno, operation, offset, length, { detail: "on demand" });
      }
      return work();
    };
    const waiting = fault.wait(this.#clock);
    return waiting === undefined ? begin() : waiting.then(begin);
  }
}
