import type { BlockDevice } from "../device/device.ts";
import { openFileDisk, type OpenFileDiskOptions } from "../device/open_file_disk.ts";
import { whyNotOwned } from "../device/ownership.ts";
import { absolutePath } from "../os/absolute_path.ts";
import { diskState, type OwnershipSurroundings, ServedOwnership, settleOwnership } from "./disk_ownership.ts";

/** An image that can be served. */
export interface ServedImage {
  readonly device: BlockDevice;
  /** For who may move it; absent where nothing is kept of it. To be ended before the device is closed. */
  readonly ownership: ServedOwnership | undefined;
}

/**
 * Opens an image to serve it. Where it is in doubt who owns it, the other host is asked first.
 *
 * @throws {DeviceError} If it cannot be opened, or is not ours.
 */
export async function openServedImage(
  path: string,
  { readOnly, discard }: Pick<OpenFileDiskOptions, "readOnly" | "discard">,
  surroundings: OwnershipSurroundings,
): Promise<ServedImage> {
  const { stateDirectory, log } = surroundings;
  await settleOwnership(path, surroundings);
  const device = await openFileDisk(path, { readOnly, discard, stateDirectory, log });
  const state = device.identity?.durable && !readOnly ? diskState(path, stateDirectory) : null;
  return { device, ownership: state === null ? undefined : new ServedOwnership(state, device, surroundings) };
}

/**
 * Why an image is not to be served: it has moved to another host, or may have. `null` if it is ours.
 *
 * @throws {DeviceError} If it is in use, or what is kept of it cannot be understood.
 */
export async function whyNotServed(
  path: string,
  surroundings: OwnershipSurroundings,
): Promise<string | null> {
  const known = await settleOwnership(path, surroundings);
  return known === null ? null : whyNotOwned(absolutePath(path), known.ownership);
}
