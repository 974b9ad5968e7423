/**
 * What a server says of itself over HTTP: `/metrics` for Prometheus, `/healthz` for load balancers and supervisors,
 * `/status` as JSON.
 *
 * It is not for strangers: it listens on loopback or on a Unix socket. Nor is it for pages that a browser of this
 * machine has from elsewhere: their name can be made to mean an address of ours, so over TCP who asks has to ask for an
 * address or for `localhost`.
 */
import { parseIpAddress } from "../base/ip_address.ts";
import type { Log } from "../base/log.ts";
import type { Connection } from "../net/connection.ts";
import { answerHttp, type HttpAnswer, plainText, sendHttp } from "../net/http_exchange.ts";
import type { Listener } from "../net/listener.ts";
import type { Clock } from "../os/clock.ts";
import { judgeHealth } from "./health.ts";
import { formatMetrics, METRICS_CONTENT_TYPE } from "./metrics.ts";
import type { ProcessStatus } from "./status.ts";

const CLIENTS_MAX = 32;
const TIMEOUT_MS = 10_000;

export class StatusHttp {
  readonly #listener: Listener;
  readonly #status: () => ProcessStatus;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #clients = new Map<Connection, Promise<void>>();
  readonly #accepting: Promise<void>;

  /** Takes clients from now on. The listener belongs to it. */
  constructor(listener: Listener, status: () => ProcessStatus, clock: Clock, log: Log) {
    this.#listener = listener;
    this.#status = status;
    this.#clock = clock;
    this.#log = log;
    this.#accepting = this.#accept();
  }

  /** Cuts everybody off. */
  async close(): Promise<void> {
    this.#listener.close();
    for (const client of this.#clients.keys()) client.close();
    await Promise.all([this.#accepting, ...this.#clients.values()]);
  }

  async #accept(): Promise<void> {
    for (let client; (client = await this.#listener.accept()) !== null;) {
      const connection = client;
      const serving = this.#serve(connection)
        .catch((error) => this.#log.debug(`HTTP client ${connection.peer.text} is gone: ${error}`))
        .finally(() => {
          connection.close();
          this.#clients.delete(connection);
        });
      this.#clients.set(connection, serving);
    }
  }

  async #serve(client: Connection): Promise<void> {
    if (this.#clients.size >= CLIENTS_MAX) {
      return await sendHttp(client, plainText("503 Service Unavailable", "too many clients\n"));
    }
    const local = client.peer.transport === "unix";
    await answerHttp(client, { clock: this.#clock, timeoutMs: TIMEOUT_MS }, ({ path, host }) => {
      if (local || host === null || isOurs(host)) return this.#answer(path);
      return plainText(
        "421 Misdirected Request",
        "ask by IP address or localhost: other names are not known here\n",
      );
    });
  }

  #answer(path: string): HttpAnswer {
    switch (path) {
      case "/metrics":
        return { ...plainText("200 OK", formatMetrics(this.#status())), contentType: METRICS_CONTENT_TYPE };
      case "/healthz": {
        const { state, why } = judgeHealth(this.#status());
        return plainText(state === "failed" ? "503 Service Unavailable" : "200 OK", `${state}: ${why}\n`);
      }
      case "/status": {
        const json = plainText("200 OK", JSON.stringify(this.#status()) + "\n");
        return { ...json, contentType: "application/json" };
      }
      default:
        return plainText("404 Not Found", "there are /metrics, /healthz and /status\n");
    }
  }
}

/** Whether nobody but this machine's administrator says what a host means: an address, or `localhost`. */
export function isOurs(host: string): boolean {
  const [, bracketed, plain] = /^(?:\[([^\]]*)\]|([^:]*))(?::\d{1,5})?$/.exec(host) ?? [];
  if (bracketed !== undefined) return bracketed.includes(":") && parseIpAddress(bracketed) !== null;
  if (plain === undefined) return false;
  return plain.toLowerCase() === "localhost" || parseIpAddress(plain) !== null;
}
