/**
 * Reservations in the state directory: a file for each disk that is reserved, or was broken off, named after the
 * disk's UUID.
 */
import { isUuid } from "../base/uuid.ts";
import { DeviceError } from "../device/device_error.ts";
import { writeDurably } from "../os/durable_file.ts";

/** For which session an export is reserved. */
export interface Reservation {
  /** A UUID. */
  readonly session: string;
  /** What its client has proven to be, and has to prove when it comes back; `null` if nothing is known of that. */
  readonly identity: string | null;
  /** Who asked in its name, for people. */
  readonly who: string;
  /** A UUID made when the reservation was given. */
  readonly grant: string;
}

export interface ReservationState {
  readonly reservation: Reservation | null;
  /** Sessions whose reservation was broken. */
  readonly barred: readonly string[];
}

/** Where the reservation of one disk outlives the program. */
export interface ReservationStore {
  /** @throws {DeviceError} If what is there cannot be understood. */
  load(): ReservationState;
  /** Durable when it resolves. One at a time. */
  save(state: ReservationState): Promise<void>;
}

const FORMAT = "denbd reservation";
const VERSION = 2;

/** The store of the disk with that UUID. */
export function reservationFile(directory: string, uuid: string): ReservationStore {
  const file = `${directory}/reservation-${uuid}.json`;
  return {
    load() {
      let text;
      try {
        text = Deno.readTextFileSync(file);
      } catch (error) {
        if (error instanceof Deno.errors.NotFound) return { reservation: null, barred: [] };
        throw error;
      }
      try {
        return parse(text);
      } catch (error) {
        throw new DeviceError("EINVAL", "open", undefined, undefined, {
          detail: `cannot use ${file}: ${(error as Error).message}; remove it to end the reservation`,
        });
      }
    },
    async save({ reservation, barred }) {
      await Deno.mkdir(directory, { recursive: true, mode: 0o700 });
      const record = { format: FORMAT, version: VERSION, reservation, barred };
      await writeDurably(file, JSON.stringify(record, null, 2) + "\n");
    },
  };
}

function parse(text: string): ReservationState {
  let record: { format?: unknown; version?: unknown } & Partial<ReservationState> | null = null;
  try {
    record = JSON.parse(text);
  } catch {
    // Told next.
  }
  if (record?.format !== FORMAT) throw new SyntaxError("it does not hold a reservation");
  const { version, barred } = record;
  if (version !== VERSION && version !== 1) {
    throw new SyntaxError(`it has version ${version}, this program knows versions 1 and ${VERSION}`);
  }
  // The first version knew of no identities.
  const reservation = version === 1 && record.reservation != null
    ? { ...record.reservation, identity: null }
    : record.reservation;
  const isWhole = isReservation(reservation) && Array.isArray(barred) && barred.every(isUuid);
  if (!isWhole) throw new SyntaxError("it is damaged");
  return { reservation, barred };
}

function isReservation(value: unknown): value is Reservation | null {
  if (value === null) return true;
  if (typeof value !== "object") return false;
  const { session, identity, who, grant } = value as Partial<Reservation>;
  return isUuid(session) && isUuid(grant) && typeof who === "string" &&
    (identity === null || typeof identity === "string");
}
