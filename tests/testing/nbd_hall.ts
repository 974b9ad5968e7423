/** Exports for handshake tests. */
import type { ExportOffer, ServerHall } from "../../src/wire/nbd/handshake_server.ts";
import { TransmissionFlag } from "../../src/wire/nbd/constants.ts";

/** Every transmission flag of a writable export that can do everything but resize. */
export const ALL_FLAGS = Object.values(TransmissionFlag).reduce((all, flag) => all | flag, 0) &
  ~(TransmissionFlag.READ_ONLY | TransmissionFlag.SEND_RESIZE | TransmissionFlag.ROTATIONAL);

/** An export of 64 MiB named `disk` that can do everything. */
export function anOffer(changes: Partial<ExportOffer> = {}): ExportOffer {
  return {
    name: "disk",
    description: "",
    sizeBytes: 1 << 26,
    transmissionFlags: ALL_FLAGS,
    blockSizes: { minimum: 1, preferred: 4096, maximumPayload: 33554432 },
    contexts: ["base:allocation", "qemu:dirty-bitmap:b0"],
    ...changes,
  };
}

/** A hall that lists and finds these exports; the first is the default. */
export function hallOf(offers: readonly ExportOffer[], changes: Partial<ServerHall> = {}): ServerHall {
  return {
    list: () => offers,
    find: (name) =>
      (name === "" ? offers[0] : offers.find((offer) => offer.name === name)) ??
        { refused: "unknown", reason: "no such export" },
    tls: "off",
    ...changes,
  };
}
