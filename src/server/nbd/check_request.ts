/**
 * What to answer to a request that cannot be performed.
 *
 * One pure function holds all the rules, in the order in which they are asked; performing a request repeats none
 * of them.
 *
 * @see NBD proto.md, "Request types", "Values"
 */
import {
  Command,
  CommandFlag,
  commandName,
  PAYLOAD_BYTES_MAX,
  TransmissionFlag,
  WireErrno,
} from "../../wire/nbd/constants.ts";
import type { Request } from "../../wire/nbd/transmission.ts";

/** What a session has agreed, as far as it decides about requests. */
export interface SessionRules {
  readonly sizeBytes: number;
  /** Offsets and lengths are multiples of this. */
  readonly blockBytes: number;
  /** {@linkcode TransmissionFlag}s as the client was told. */
  readonly transmissionFlags: number;
  readonly structured: boolean;
  readonly extended: boolean;
  /** Whether BLOCK_STATUS has anything to tell. */
  readonly hasContexts: boolean;
}

/** Why a request is refused. */
export interface Fault {
  /** A {@linkcode WireErrno}. */
  readonly error: number;
  /** For people; tells nothing about what lies behind the export. */
  readonly text: string;
}

const fault = (error: number, text: string): Fault => ({ error, text });

const READ_ONLY = fault(WireErrno.EPERM, "the export is read-only");
const ZERO_LENGTH = fault(WireErrno.EINVAL, "the length is zero");
const FAULT_FLAGS = fault(WireErrno.EINVAL, "a flag is unknown, not for this command, or was not offered");

/** Flags that each command understands, whatever is offered. */
const FLAGS: Readonly<Record<number, number>> = {
  [Command.READ]: CommandFlag.DF,
  [Command.WRITE]: CommandFlag.PAYLOAD_LEN,
  [Command.DISC]: 0,
  [Command.FLUSH]: 0,
  [Command.TRIM]: 0,
  [Command.CACHE]: 0,
  [Command.WRITE_ZEROES]: CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO,
  [Command.BLOCK_STATUS]: CommandFlag.REQ_ONE | CommandFlag.PAYLOAD_LEN,
};

/** What must have been offered for a command to be known at all. */
const OFFERED: Readonly<Record<number, number>> = {
  [Command.FLUSH]: TransmissionFlag.SEND_FLUSH,
  [Command.TRIM]: TransmissionFlag.SEND_TRIM,
  [Command.WRITE_ZEROES]: TransmissionFlag.SEND_WRITE_ZEROES,
};

/**
 * Holds a request against what was agreed.
 *
 * @param request As it arrived. For a BLOCK_STATUS with PAYLOAD_LEN the caller has replaced the length by the
 *   one in the payload.
 * @returns Why it is refused, or `null` if it may be performed.
 */
export function checkRequest(request: Readonly<Request>, rules: SessionRules): Fault | null {
  const { type, flags, offset, length } = request;
  const told = rules.transmissionFlags;
  const known = FLAGS[type];
  const readOnly = (told & TransmissionFlag.READ_ONLY) !== 0;
  const writes = changesDisk(type);
  if (known === undefined) return fault(WireErrno.EINVAL, `command ${type} is unknown`);
  const offered = OFFERED[type] ?? 0;
  if ((told & offered) !== offered && !(writes && readOnly)) {
    return fault(WireErrno.EINVAL, `${commandName(type)} was not offered`);
  }
  if (flags !== 0 && !flagsAllowed(flags, known, rules)) return FAULT_FLAGS;
  if (writes && readOnly) return READ_ONLY;
  if (type === Command.FLUSH) return null;
  if (type === Command.BLOCK_STATUS && !rules.hasContexts) {
    return fault(WireErrno.EINVAL, "no metadata context was selected");
  }
  if (length === 0) return ZERO_LENGTH;
  if (offset > rules.sizeBytes || length > rules.sizeBytes - offset) {
    const error = type === Command.WRITE || type === Command.WRITE_ZEROES
      ? WireErrno.ENOSPC
      : WireErrno.EINVAL;
    return fault(error, "the range goes beyond the end of the export");
  }
  if (rules.blockBytes > 1 && (offset % rules.blockBytes !== 0 || length % rules.blockBytes !== 0)) {
    return fault(WireErrno.EINVAL, `the range is not aligned to blocks of ${rules.blockBytes} bytes`);
  }
  if (type === Command.READ && length > PAYLOAD_BYTES_MAX) {
    const split = rules.structured || rules.extended;
    return fault(split ? WireErrno.EOVERFLOW : WireErrno.EINVAL, "the read is too large");
  }
  return null;
}

/** Whether a command changes the content of the disk. */
export function changesDisk(type: number): boolean {
  return type === Command.WRITE || type === Command.TRIM || type === Command.WRITE_ZEROES;
}

function flagsAllowed(flags: number, known: number, rules: SessionRules): boolean {
  const told = rules.transmissionFlags;
  let allowed = known;
  if ((told & TransmissionFlag.SEND_FUA) !== 0) allowed |= CommandFlag.FUA;
  if ((told & TransmissionFlag.SEND_DF) === 0) allowed &= ~CommandFlag.DF;
  if ((told & TransmissionFlag.SEND_FAST_ZERO) === 0) allowed &= ~CommandFlag.FAST_ZERO;
  if (!rules.extended) allowed &= ~CommandFlag.PAYLOAD_LEN;
  return (flags & ~allowed) === 0;
}
