/**
 * Where a disk is looked for: at its addresses in turn, or at the place to which it has moved.
 *
 * Whoever follows a disk wants proof that it has come there: the migration by which it came, and its identity.
 */
import type { Clock } from "../os/clock.ts";
import { type DenbdFacts, encodeSession, type SessionName } from "../wire/nbd/denbd_context.ts";
import type { ClientWishes } from "../wire/nbd/handshake_client.ts";
import type { MovedError } from "../wire/nbd/moved_error.ts";
import { type Dial, openConnection, type OpenedConnection } from "./open_connection.ts";
import type { SurvivalOptions } from "./survival_options.ts";

/** From dialling to the end of the handshake. */
const OPEN_MS_MAX = 15_000;

export class Whereabouts {
  readonly #follow: SurvivalOptions["follow"];
  readonly #clock: Clock;
  #dials: readonly Dial[];
  /** Which of them comes next. */
  #index = 0;
  #wishes: ClientWishes;
  #session: SessionName | null;
  #attempts = 0;
  /** The migration by which the disk has come to its new place; whether all that was answered is there. */
  #awaited: { readonly id: string; readonly epoch: number; readonly holdsAll: boolean } | null = null;

  constructor({ dial, others = [], wishes, session, follow }: SurvivalOptions, clock: Clock) {
    this.#dials = [dial, ...others];
    this.#wishes = wishes;
    this.#session = session ?? null;
    this.#follow = follow;
    this.#clock = clock;
  }

  get addressCount(): number {
    return this.#dials.length;
  }

  /** As which connections were opened last. */
  get session(): SessionName | null {
    return this.#session;
  }

  /** How often connections were tried for since they were {@linkcode found} last. */
  get attempts(): number {
    return this.#attempts;
  }

  /** Whether the disk has moved and taken all with it that was answered before, made durable. */
  get holdsAll(): boolean {
    return this.#awaited?.holdsAll === true;
  }

  /**
   * Opens connections at the address whose turn it is, as a later generation of the session.
   *
   * @param count How many are wanted; one is enough.
   * @throws What opening the first has thrown, if there is none.
   */
  async open(count: number, ended: AbortSignal): Promise<OpenedConnection[]> {
    this.#attempts++;
    const late = new AbortController();
    using _timer = this.#clock.timer(OPEN_MS_MAX, () => {
      late.abort(new Error(`no answer for ${OPEN_MS_MAX / 1000} s`));
    });
    const signal = AbortSignal.any([late.signal, ended]);
    const wishes = this.#nextWishes();
    const attempts = Array.from(
      { length: count },
      () => openConnection(this.#dials[this.#index], wishes, signal, this.#clock),
    );
    const results = await Promise.allSettled(attempts);
    const opened = results.flatMap((result) => result.status === "fulfilled" ? [result.value] : []);
    if (opened.length > 0) return opened;
    throw (results[0] as PromiseRejectedResult).reason;
  }

  #nextWishes(): ClientWishes {
    if (this.#session === null) return this.#wishes;
    const { id, generation } = this.#session;
    this.#session = { id, generation: generation + 1 };
    return withSession(this.#wishes, this.#session);
  }

  /** The disk is not at this address now. */
  turn(): void {
    this.#index = (this.#index + 1) % this.#dials.length;
  }

  /** The disk is there. */
  found(): void {
    this.#attempts = 0;
    this.#awaited = null;
  }

  /**
   * The disk has moved: it is looked for there from now on.
   *
   * @param known What its former owner had said.
   * @returns Or why it is not.
   */
  follow({ moved, authenticated, instance }: MovedError, known: DenbdFacts): string | null {
    if (moved.uuid !== known.identity?.uuid) return "it is another disk";
    const place = this.#follow?.(moved.to, authenticated) ?? "nobody wanted that";
    if (typeof place === "string") return place;
    this.#dials = [place.dial];
    this.#index = 0;
    this.#wishes = { ...this.#wishes, exportName: place.exportName };
    // A former owner that was started anew meanwhile may itself have lost what had been answered.
    const holdsAll = instance !== undefined && instance === known.instance;
    this.#awaited = { id: moved.id, epoch: moved.epoch, holdsAll };
    return null;
  }

  /** Whether a server proves that a disk which was followed has come to it. */
  isProvenBy({ arrived, identity }: DenbdFacts, known: DenbdFacts): boolean {
    const awaited = this.#awaited;
    if (awaited === null) return true;
    const isOurs = identity !== undefined && identity.uuid === known.identity?.uuid;
    return isOurs && arrived?.id === awaited.id && arrived.epoch === awaited.epoch;
  }
}

/** The wishes with the query that names a session. */
export function withSession(wishes: ClientWishes, session: SessionName): ClientWishes {
  return { ...wishes, contexts: [...wishes.contexts, encodeSession(session)] };
}
