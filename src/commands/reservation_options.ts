/** How the commands that serve disks are told who may write them at the same time. */
import { reservationFile } from "../server/reservation_store.ts";
import { RESERVATION_AWAY_MS } from "../server/writer_sessions.ts";
import { forEver } from "./disk_options.ts";
import type { OptionTable, OptionValues } from "./options.ts";
import type { ServerRole } from "./server_role.ts";

export const reservationOptions = {
  writers: {
    type: "enum",
    values: ["any", "one-session"],
    help: "How many may write an export at a time: any number, or one session (any)",
  },
  reservationTimeout: {
    type: "duration",
    default: RESERVATION_AWAY_MS,
    help: "How long a session that is away keeps its export to itself; 0 until unreserve",
  },
} as const satisfies OptionTable;

/** What they mean for the server. @param directory Where reservations outlive the program. */
export function reservationsIn(
  directory: string,
  { reservationTimeout }: OptionValues<typeof reservationOptions>,
): ServerRole["reservations"] {
  return {
    reservationStore: (uuid) => reservationFile(directory, uuid),
    reservationAwayMs: forEver(reservationTimeout),
  };
}
