/**
 * What a server says of itself over HTTP, on the port of the images: `/query?q=…` answers with JSON, `/cachemap`
 * with the map of an image. Each group of facts needs a right.
 *
 * By which name a server is asked (`Host`) does not matter, as with dnbd3-server: those who watch servers ask by names
 * that the server need not know. Who may ask is for `rpc.acl` to say.
 */
import { type IpAddress, parseIpAddress } from "../../base/ip_address.ts";
import type { Connection } from "../../net/connection.ts";
import { answerHttp, type HttpAnswer, plainText, sendHttp } from "../../net/http_exchange.ts";
import type { Clock } from "../../os/clock.ts";
import { formatJson, type HttpRequest, type Json } from "../../wire/dnbd3/http.ts";

/** Above so many clients connections are closed after each answer… */
const BUSY_CLIENTS = 40;
/** …until there are fewer than these… */
const CALM_CLIENTS = 20;
/** …and above so many nobody is answered. */
const CLIENTS_MAX = 50;

/** Facts that can be asked for with `q`, in the order in which they are told. */
const GROUPS = ["stats", "version", "space", "clients", "images", "logfile", "config", "altservers"] as const;
export type RpcGroup = typeof GROUPS[number];

const RIGHTS: Readonly<Record<RpcGroup, string>> = {
  stats: "STATS",
  version: "STATS",
  space: "STATS",
  clients: "CLIENT_LIST",
  images: "IMAGE_LIST",
  logfile: "ALL",
  config: "ALL",
  altservers: "ALL",
};

/** The server that is asked about. */
export interface RpcSubject {
  /** Rights of an address; `ALL` includes the rest. */
  permissionsOf(address: IpAddress): ReadonlySet<string>;
  /** The facts of a group, as they stand in the answer. */
  facts(group: RpcGroup): Promise<{ readonly [key: string]: Json }>;
  /** Which run of the server this is. */
  readonly runId: bigint;
  /** The map of the image with this number: its bytes, `complete`, or null if there is no such image. */
  mapOf(imageId: number): Uint8Array | "complete" | null;
}

export class HttpRpc {
  readonly #subject: RpcSubject;
  readonly #clock: Clock;
  #clients = 0;
  #busy = false;

  constructor(subject: RpcSubject, clock: Clock) {
    this.#subject = subject;
    this.#clock = clock;
  }

  /**
   * Answers requests until the client leaves, or breaks a rule. The caller closes the connection.
   *
   * @param received What has been read of the first request.
   * @param timeoutMs For each request, from its beginning to its end.
   */
  async serve(connection: Connection, received: Uint8Array, timeoutMs: number): Promise<void> {
    this.#clients++;
    if (this.#clients > BUSY_CLIENTS) this.#busy = true;
    try {
      await this.#answerAll(connection, received, timeoutMs);
    } finally {
      this.#clients--;
      if (this.#clients < CALM_CLIENTS) this.#busy = false;
    }
  }

  async #answerAll(connection: Connection, received: Uint8Array, timeoutMs: number): Promise<void> {
    const address = parseIpAddress(connection.peer.address);
    const permissions = address === null ? new Set<string>() : this.#subject.permissionsOf(address);
    if (permissions.size === 0) {
      return await sendHttp(connection, plainText("403 Forbidden", "Access denied"));
    }
    if (this.#clients > CLIENTS_MAX) {
      const busy = plainText("503 Service Temporarily Unavailable", "Too many HTTP clients");
      return await sendHttp(connection, busy);
    }
    await answerHttp(connection, { clock: this.#clock, timeoutMs, received }, async (request) => {
      // Whether it is the last is decided before the work, as the other clients stood when it came.
      const last = this.#busy;
      return { ...await this.#answer(request, permissions), last };
    });
  }

  #answer(request: HttpRequest, permissions: ReadonlySet<string>): Promise<HttpAnswer> | HttpAnswer {
    switch (request.path) {
      case "/query":
        return this.#query(request, permissions);
      case "/cachemap":
        return this.#map(request, permissions);
      default:
        return plainText("404 Not found", "Nothing");
    }
  }

  async #query({ fields }: HttpRequest, permissions: ReadonlySet<string>): Promise<HttpAnswer> {
    const asked = new Set(fields.filter(([name]) => name === "q").map(([, value]) => value));
    const groups = GROUPS.filter((group) => asked.has(group));
    const missing = groups.find((group) => !permissions.has("ALL") && !permissions.has(RIGHTS[group]));
    if (missing !== undefined) return plainText("403 Forbidden", `No right to ask for ${missing}`);
    const answer: Record<string, Json> = {};
    try {
      if (groups.includes("stats")) Object.assign(answer, await this.#subject.facts("stats"));
      answer.runId = this.#subject.runId;
      for (const group of groups) {
        if (group !== "stats") Object.assign(answer, await this.#subject.facts(group));
      }
    } catch (error) {
      return plainText("500 Internal Server Error", error instanceof Error ? error.message : "failed");
    }
    const body = new TextEncoder().encode(formatJson(answer));
    return { status: "200 OK", contentType: "application/json", body };
  }

  #map({ fields }: HttpRequest, permissions: ReadonlySet<string>): HttpAnswer {
    if (!permissions.has("ALL") && !permissions.has("IMAGE_LIST")) {
      return plainText("403 Forbidden", "No right to ask for images");
    }
    const id = fields.find(([name]) => name === "id")?.[1];
    if (id === undefined || !/^\d{1,9}$/.test(id)) {
      return plainText("400 Bad Request", "The parameter id is missing");
    }
    const map = this.#subject.mapOf(Number(id));
    if (map === null) return plainText("404 Not found", "There is no such image");
    const body = map === "complete" ? Uint8Array.of(0xff) : map;
    return { status: "200 OK", contentType: "application/octet-stream", body };
  }
}
