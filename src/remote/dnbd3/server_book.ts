/**
 * The servers a client knows, and how fast they answer.
 *
 * Round-trip times are medians of the last few, so that one late answer, or one lucky one, moves nobody. A server
 * that fails is asked less and less often, but never forgotten.
 */
import { formatEndpoint, type TcpEndpoint } from "../../base/endpoint.ts";

/** Servers that are kept in mind. */
const SERVERS_MAX = 16;
/** Those that are measured while all is well: the best so far. */
const ACTIVE_MAX = 5;
/** Measurements that count. */
const SAMPLES_MAX = 5;
/** From so many failures in a row on a server is asked with falling probability. */
const FAILURES_TOLERATED = 8;
/** What it costs to offer another image under the same name. */
const MISMATCH_FAILURES = 10;
/** The longest that a server which sent bad data is left alone. */
const SHUNNED_MINUTES_MAX = 64;
/** Another server is better from this difference on, whatever the ratio… */
const GAIN_MS_MIN = 80;
/** …or if it takes less than three quarters of the time, and this much less. */
const RATIO_GAIN_MS_MIN = 1;

export interface KnownServer {
  readonly endpoint: TcpEndpoint;
  /** For messages. */
  readonly text: string;
  /** Failures in a row. */
  failures: number;
  /** Round-trip times in ms, the oldest first. */
  readonly samplesMs: number[];
  /** How often it was caught sending what is not in the image. */
  lies: number;
  /** Until then nothing is asked of it, in ms by the clock. */
  shunnedUntilMs: number;
  /** Until then it is asked only if no other server can be had. */
  avoidedUntilMs: number;
}

/** The median of what was measured; infinite before. */
export function roundTripMs({ samplesMs }: KnownServer): number {
  if (samplesMs.length === 0) return Infinity;
  const sorted = [...samplesMs].sort((one, other) => one - other);
  return sorted[Math.floor(sorted.length / 2)];
}

export class ServerBook {
  readonly #servers: KnownServer[] = [];
  readonly #random: () => number;
  readonly #now: () => number;

  /**
   * @param random Numbers from 0 to below 1.
   * @param now In ms.
   */
  constructor(random: () => number, now: () => number) {
    this.#random = random;
    this.#now = now;
  }

  get all(): readonly KnownServer[] {
    return this.#servers;
  }

  /** Takes a server down, unless it is known. A full book drops the worst one that fails. */
  add(endpoint: TcpEndpoint): KnownServer | null {
    const text = formatEndpoint(endpoint);
    const known = this.#servers.find((server) => server.text === text);
    if (known !== undefined) return known;
    if (this.#servers.length === SERVERS_MAX) {
      const worst = this.#servers.toSorted((one, other) => other.failures - one.failures)[0];
      if (worst.failures <= FAILURES_TOLERATED) return null;
      this.#servers.splice(this.#servers.indexOf(worst), 1);
    }
    const server: KnownServer = {
      endpoint,
      text,
      failures: 0,
      samplesMs: [],
      lies: 0,
      shunnedUntilMs: -Infinity,
      avoidedUntilMs: -Infinity,
    };
    this.#servers.push(server);
    return server;
  }

  succeeded(server: KnownServer, roundTripMs: number): void {
    server.failures = 0;
    server.samplesMs.push(roundTripMs);
    if (server.samplesMs.length > SAMPLES_MAX) server.samplesMs.shift();
  }

  failed(server: KnownServer): void {
    server.failures++;
  }

  /** The server has another image under this name. */
  mismatched(server: KnownServer): void {
    server.failures += MISMATCH_FAILURES;
  }

  /** The server sent what is not in the image: left alone for a minute, and longer each time. */
  shun(server: KnownServer): void {
    server.lies++;
    const minutes = Math.min(SHUNNED_MINUTES_MAX, 2 ** (server.lies - 1));
    server.shunnedUntilMs = this.#now() + minutes * 60_000;
  }

  /** The server is of no use for a while, for no fault of its own. */
  avoid(server: KnownServer, forMs: number): void {
    server.avoidedUntilMs = this.#now() + forMs;
  }

  /** Whether there is a server that may be asked. */
  get hasUsable(): boolean {
    return this.#servers.some((server) => !this.#isShunned(server));
  }

  /** The servers to measure now: the current one and the most promising others. */
  toMeasure(current: KnownServer | null): KnownServer[] {
    const others = this.#servers
      .filter((server) => server !== current && !this.#isAvoided(server) && this.#isWorthATry(server))
      .sort((one, other) => one.failures - other.failures || compare(roundTripMs(one), roundTripMs(other)));
    return [...current === null ? [] : [current], ...others].slice(0, ACTIVE_MAX);
  }

  /** All servers to turn to when there is none, the most promising first. */
  toTurnTo(current: KnownServer | null): KnownServer[] {
    return this.#servers
      .filter((server) => server !== current && !this.#isShunned(server))
      .sort((one, other) =>
        Number(this.#isAvoided(one)) - Number(this.#isAvoided(other)) ||
        one.failures - other.failures || compare(roundTripMs(one), roundTripMs(other))
      );
  }

  /** A server that is so much faster than the current one that it is worth a change. */
  better(current: KnownServer): KnownServer | null {
    const enough = (server: KnownServer) => server.samplesMs.length >= Math.min(3, current.samplesMs.length);
    const best = this.#servers
      .filter((server) => server.failures === 0 && server !== current && enough(server))
      .filter((server) => !this.#isAvoided(server))
      .sort((one, other) => compare(roundTripMs(one), roundTripMs(other)))[0];
    if (best === undefined || current.samplesMs.length === 0) return null;
    const [currentMs, bestMs] = [roundTripMs(current), roundTripMs(best)];
    const isBetter = currentMs > bestMs + GAIN_MS_MIN || currentMs * 3 / 4 > bestMs + RATIO_GAIN_MS_MIN;
    return isBetter ? best : null;
  }

  #isShunned({ shunnedUntilMs }: KnownServer): boolean {
    return shunnedUntilMs > this.#now();
  }

  #isAvoided(server: KnownServer): boolean {
    return this.#isShunned(server) || server.avoidedUntilMs > this.#now();
  }

  #isWorthATry({ failures }: KnownServer): boolean {
    return failures <= FAILURES_TOLERATED || this.#random() < FAILURES_TOLERATED / failures;
  }
}

/** Infinite times are equal. */
function compare(one: number, other: number): number {
  return one === other ? 0 : one < other ? -1 : 1;
}
