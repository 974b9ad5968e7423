import type { Log } from "../base/log.ts";
import type { BlockDevice } from "../device/device.ts";
import { systemClock } from "../os/clock.ts";

/**
 * Makes what was written to a disk durable, and closes it.
 *
 * @param source For the log.
 * @param lastFlushMs How long the flush may take; for disks that may never come back. Default: any time.
 * @returns Whether all is durable. If not, the log says why.
 */
export async function closeDisk(
  device: BlockDevice,
  source: string,
  log: Log,
  lastFlushMs?: number,
): Promise<boolean> {
  try {
    if (device.can.write && device.can.flush) await flushInTime(device, lastFlushMs);
    return true;
  } catch (error) {
    log.error(`${source}: what was written last may be lost: ${(error as Error).message}`);
    return false;
  } finally {
    await device.close();
  }
}

async function flushInTime(device: BlockDevice, limitMs: number | undefined): Promise<void> {
  if (limitMs === undefined) return await device.flush();
  const flushing = Promise.resolve(device.flush());
  const { promise: late, reject } = Promise.withResolvers<never>();
  using _timer = systemClock.timer(limitMs, () => reject(new Error(`no answer for ${limitMs / 1000} s`)));
  // It fails when the disk is closed.
  flushing.catch(() => {});
  await Promise.race([flushing, late]);
}
