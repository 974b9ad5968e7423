/**
 * What a server says of itself over HTTP, on the port of the images: `/query?q=…` answers with JSON, `/cachemap`
 * with the map of an image. Each group of facts needs a right.
 */
import { type IpAddress, parseIpAddress } from "../../base/ip_address.ts";
import type { Connection } from "../../net/connection.ts";
import type { Clock } from "../../os/clock.ts";
import {
  encodeHttpReply,
  formatJson,
  HEAD_BYTES_MAX,
  type HttpRequest,
  type Json,
  parseHttpRequest,
} from "../../wire/dnbd3/http.ts";
import { WireError } from "../../wire/wire_error.ts";

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

interface Answer {
  readonly status: string;
  readonly contentType: string;
  readonly body: Uint8Array;
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
    const send = (answer: Answer, keepAlive: boolean) =>
      connection.write(encodeHttpReply(answer.status, answer.contentType, answer.body, keepAlive));
    const address = parseIpAddress(connection.peer.address);
    const permissions = address === null ? new Set<string>() : this.#subject.permissionsOf(address);
    if (permissions.size === 0) return await send(text("403 Forbidden", "Access denied"), false);
    if (this.#clients > CLIENTS_MAX) {
      return await send(text("503 Service Temporarily Unavailable", "Too many HTTP clients"), false);
    }
    const buffer = new Uint8Array(HEAD_BYTES_MAX);
    buffer.set(received.subarray(0, HEAD_BYTES_MAX));
    let length = Math.min(received.length, HEAD_BYTES_MAX);
    while (true) {
      let request: HttpRequest | null;
      try {
        request = parseHttpRequest(buffer.subarray(0, length));
      } catch (error) {
        if (!(error instanceof WireError)) throw error;
        if (length < HEAD_BYTES_MAX) await send(text("400 Bad Request", error.message), false);
        return;
      }
      if (request === null) {
        const timer = this.#clock.timer(timeoutMs, () => connection.close());
        const count = await connection.read(buffer.subarray(length));
        timer[Symbol.dispose]();
        if (count === null) return;
        length += count;
        continue;
      }
      buffer.copyWithin(0, request.byteCount, length);
      length -= request.byteCount;
      const keepAlive = !request.closes && !this.#busy;
      await send(await this.#answer(request, permissions), keepAlive);
      if (!keepAlive) return;
    }
  }

  #answer(request: HttpRequest, permissions: ReadonlySet<string>): Promise<Answer> | Answer {
    switch (request.path) {
      case "/query":
        return this.#query(request, permissions);
      case "/cachemap":
        return this.#map(request, permissions);
      default:
        return text("404 Not found", "Nothing");
    }
  }

  async #query({ fields }: HttpRequest, permissions: ReadonlySet<string>): Promise<Answer> {
    const asked = new Set(fields.filter(([name]) => name === "q").map(([, value]) => value));
    const groups = GROUPS.filter((group) => asked.has(group));
    const missing = groups.find((group) => !permissions.has("ALL") && !permissions.has(RIGHTS[group]));
    if (missing !== undefined) return text("403 Forbidden", `No right to ask for ${missing}`);
    const answer: Record<string, Json> = {};
    try {
      if (groups.includes("stats")) Object.assign(answer, await this.#subject.facts("stats"));
      answer.runId = this.#subject.runId;
      for (const group of groups) {
        if (group !== "stats") Object.assign(answer, await this.#subject.facts(group));
      }
    } catch (error) {
      return text("500 Internal Server Error", error instanceof Error ? error.message : "failed");
    }
    const body = new TextEncoder().encode(formatJson(answer));
    return { status: "200 OK", contentType: "application/json", body };
  }

  #map({ fields }: HttpRequest, permissions: ReadonlySet<string>): Answer {
    if (!permissions.has("ALL") && !permissions.has("IMAGE_LIST")) {
      return text("403 Forbidden", "No right to ask for images");
    }
    const id = fields.find(([name]) => name === "id")?.[1];
    if (id === undefined || !/^\d{1,9}$/.test(id)) {
      return text("400 Bad Request", "The parameter id is missing");
    }
    const map = this.#subject.mapOf(Number(id));
    if (map === null) return text("404 Not found", "There is no such image");
    const body = map === "complete" ? Uint8Array.of(0xff) : map;
    return { status: "200 OK", contentType: "application/octet-stream", body };
  }
}

function text(status: string, words: string): Answer {
  return { status, contentType: "text/plain", body: new TextEncoder().encode(words) };
}
