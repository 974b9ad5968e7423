/** What an agreement with a server says about the disk behind it. */
import type { Abilities, BlockSizes } from "../device/device.ts";
import { BASE_ALLOCATION, PAYLOAD_BYTES_ADVERTISED, TransmissionFlag } from "../wire/nbd/constants.ts";
import { decodeFacts, type DenbdFacts } from "../wire/nbd/denbd_context.ts";
import type { ClientAgreement } from "../wire/nbd/handshake_client.ts";

/** Servers that say nothing about sizes take any range; this size suits the page caches behind them. */
const PREFERRED_BYTES = 4096;

export interface ExportFacts {
  /** A multiple of `blockSizes.minimum`: an odd end that no request can reach does not count. */
  readonly sizeBytes: number;
  readonly blockSizes: BlockSizes;
  readonly can: Abilities;
}

/** Translates what was agreed into the terms of a disk. */
export function exportFacts(agreement: ClientAgreement): ExportFacts {
  const { transmissionFlags, contexts } = agreement;
  const has = (flag: number) => (transmissionFlags & flag) !== 0;
  // Without HAS_FLAGS the others mean nothing.
  const flags = has(TransmissionFlag.HAS_FLAGS);
  const write = !flags || !has(TransmissionFlag.READ_ONLY);
  const writable = flags && write;
  const { minimum, preferred, maximumPayload } = agreement.blockSizes ??
    { minimum: 1, preferred: PREFERRED_BYTES, maximumPayload: PAYLOAD_BYTES_ADVERTISED };
  return {
    sizeBytes: agreement.sizeBytes - agreement.sizeBytes % minimum,
    blockSizes: {
      minimum,
      preferred,
      // No limit still means less than 2^32, and everybody takes 2^25.
      maximumPayload: Math.min(maximumPayload, PAYLOAD_BYTES_ADVERTISED),
    },
    can: {
      write,
      flush: flags && has(TransmissionFlag.SEND_FLUSH),
      fua: writable && has(TransmissionFlag.SEND_FUA),
      trim: writable && has(TransmissionFlag.SEND_TRIM),
      zero: writable && has(TransmissionFlag.SEND_WRITE_ZEROES),
      fastZero: writable && has(TransmissionFlag.SEND_WRITE_ZEROES) && has(TransmissionFlag.SEND_FAST_ZERO),
      cache: flags && has(TransmissionFlag.SEND_CACHE),
      multiConn: flags && has(TransmissionFlag.CAN_MULTI_CONN),
      extents: contexts.some((context) => context.name === BASE_ALLOCATION),
      rotational: flags && has(TransmissionFlag.ROTATIONAL),
    },
  };
}

/**
 * What a denbd server says of itself and the disk; nothing, if it is another server.
 *
 * @throws {WireError} If it is malformed.
 */
export function denbdFacts(agreement: ClientAgreement): DenbdFacts {
  const { othersWrite, ...facts } = decodeFacts(agreement.contexts.map(({ name }) => name));
  // To a session that comes again it is said before the server knows that the export is reserved for it.
  return othersWrite === undefined || exportFacts(agreement).can.write ? facts : { ...facts, othersWrite };
}
