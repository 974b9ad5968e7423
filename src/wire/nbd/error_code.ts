/**
 * Narrows the names of errors to the few codes of the wire, and back.
 *
 * @see NBD proto.md, "Error values"
 */
import { WireErrno } from "./constants.ts";

/** The errors that have a code on the wire. */
export type WireErrnoName = keyof typeof WireErrno;

const codes: ReadonlyMap<string, number> = new Map<string, number>([
  ...Object.entries(WireErrno),
  ["EACCES", WireErrno.EPERM],
  ["EROFS", WireErrno.EPERM],
  ["EDQUOT", WireErrno.ENOSPC],
  ["EFBIG", WireErrno.ENOSPC],
  ["EOPNOTSUPP", WireErrno.ENOTSUP],
]);

const names: ReadonlyMap<number, WireErrnoName> = new Map(
  Object.entries(WireErrno).map(([name, code]) => [code, name as WireErrnoName]),
);

/**
 * The code for an error's name. A name without one is EIO: what reaches this place is a failure of the disk,
 * while faults of the request are found earlier and have a code.
 */
export function wireErrno(name: string): number {
  return codes.get(name) ?? WireErrno.EIO;
}

/** The name for a code; a code that the protocol does not have is EINVAL, as it demands. */
export function errnoName(code: number): WireErrnoName {
  return names.get(code) ?? "EINVAL";
}
