/**
 * The clients in transmission: who they are, and who may stay.
 *
 * They are judged again whenever access may have changed. Those who may not stay, or whose export is going, are answered
 * what they have asked for; who lets us wait then, or whose request takes too long, is cut off.
 */
import type { Log } from "../../base/log.ts";
import type { Peer } from "../../net/connection.ts";
import type { Clock } from "../../os/clock.ts";
import type { Export } from "../export_table.ts";
import type { Admission } from "../writer_sessions.ts";
import type { Judge, Verdict } from "./judge.ts";
import type { Session } from "./session.ts";

/** How long who may not stay has to take the answers to what he has asked for. */
const REVOKED_MS = 5000;

/** How often requests that take too long are looked for. */
const SWEEP_MS = 1000;

/** A client in transmission, for status. */
export interface Client {
  readonly id: number;
  readonly peer: Peer;
  readonly exportName: string;
  readonly rights: "read" | "write";
  readonly connectedAtMs: number;
  readonly session: Session;
  /** It asks for what only another denbd understands. */
  readonly isDenbd: boolean;
}

/** What the server knows of a client besides. */
export interface PresentClient extends Client {
  rights: "read" | "write";
  readonly admission: Admission | null;
}

export interface ClientRules {
  readonly judge: Judge;
  /** Why a certificate that was good in the handshake counts no more, or `null`. */
  certificateFault(peer: Peer): string | null;
  /** A request that takes longer has its client cut off, in milliseconds; 0 = no limit. */
  requestMs(): number;
}

export class Clients {
  readonly #rules: ClientRules;
  readonly #log: Log;
  readonly #clock: Clock;
  /** With what ends when a session has ended; in the order in which they came. */
  readonly #present = new Map<PresentClient, Promise<unknown> | null>();
  /** Exports that are served no longer, and what their clients are told. */
  readonly #dismissed = new WeakMap<Export, string>();
  #sweep: Disposable | null = null;

  constructor(rules: ClientRules, log: Log, clock: Clock) {
    this.#rules = rules;
    this.#log = log;
    this.#clock = clock;
  }

  /** In the order in which they came. */
  all(): Client[] {
    return [...this.#present.keys()];
  }

  /** Those who have an export. */
  of(exported: Export): Client[] {
    return this.all().filter(({ session }) => session.exported === exported);
  }

  /** One has come, who is still to be {@linkcode check}ed. */
  enter(client: PresentClient): void {
    this.#present.set(client, null);
    this.lookForSlow();
  }

  /** Its session runs. @param ended Resolves when that has ended. */
  runs(client: PresentClient, ended: Promise<unknown>): void {
    this.#present.set(client, ended);
  }

  leave(client: PresentClient): void {
    this.#present.delete(client);
  }

  /** Judges everybody again; see {@linkcode check}. */
  reconsider(): void {
    for (const client of this.#present.keys()) this.#judge(client);
  }

  /** Judges one whose access may have changed during the handshake, and whose export may be gone. */
  check(client: PresentClient): void {
    this.#judge(client);
    const dismissal = this.#dismissed.get(client.session.exported);
    if (dismissal !== undefined) client.session.drain(dismissal);
  }

  #judge(client: PresentClient): void {
    const { peer, session } = client;
    const fault = this.#rules.certificateFault(peer);
    const verdict: Verdict = fault === null
      ? this.#rules.judge(peer, session.exported)
      : { rights: "none", reason: fault };
    if (verdict.rights === "none") {
      this.#log.warn(`${peer.text} is no longer allowed: ${verdict.reason}`);
      const reason = `no longer allowed: ${verdict.reason}`;
      session.drain(reason);
      // Who does not take his answers would stay, and keep his reservation.
      this.#clock.timer(REVOKED_MS, () => session.abort(reason), { background: true });
    } else if (verdict.rights === "read" && client.rights === "write") {
      client.rights = "read";
      session.forbidWrites();
      client.admission?.forgo();
    }
  }

  /** Sends everybody away who has an export. @returns When the last of them is gone; see `NbdServer.dismiss`. */
  async dismiss(exported: Export, reason: string, deadlineMs: number): Promise<void> {
    this.#dismissed.set(exported, reason);
    const clients = [...this.#present].filter(([{ session }]) => session.exported === exported);
    for (const [{ session }] of clients) session.drain(reason);
    using _timer = this.#clock.timer(deadlineMs, () => {
      for (const [{ session }] of clients) session.abort(reason);
    });
    await Promise.all(clients.map(([, ended]) => ended));
  }

  /** Whether an export is served no longer. */
  isDismissed(exported: Export): boolean {
    return this.#dismissed.has(exported);
  }

  /** Looks now and then for requests that take too long. To be called when the limit may have changed. */
  lookForSlow(): void {
    if (this.#rules.requestMs() === 0 || this.#sweep !== null || this.#present.size === 0) return;
    this.#sweep = this.#clock.timer(SWEEP_MS, () => {
      this.#sweep = null;
      this.#cutSlow(this.#rules.requestMs());
      this.lookForSlow();
    }, { background: true });
  }

  #cutSlow(requestMs: number): void {
    const now = this.#clock.now();
    for (const { session, peer } of this.#present.keys()) {
      if (session.busySinceMs === null || now - session.busySinceMs <= requestMs) continue;
      this.#log.warn(`${peer.text} cut off: a request took longer than ${requestMs / 1000} s`);
      session.abort(`killswitch: a request took longer than ${requestMs / 1000} s`);
    }
  }

  /** Nobody is left to look after. */
  stop(): void {
    this.#sweep?.[Symbol.dispose]();
    this.#sweep = null;
  }
}
