/**
 * The control socket of a running server.
 *
 * Clients are served side by side, each with a time limit, so that a silent one holds up nobody. The socket file
 * is its access control: whoever may open it may do everything.
 *
 * @see spec: flexnbd section 10, and 17 (7, 15, 19) for what is done otherwise
 */
import type { Log } from "../base/log.ts";
import { printable } from "../base/printable.ts";
import type { Connection } from "../net/connection.ts";
import type { Listener } from "../net/listener.ts";
import { type ControlRequest, encodeAnswer, encodeLine, RequestDecoder } from "../wire/control/message.ts";
import { WireError } from "../wire/wire_error.ts";
import type { ControlHandlers, FollowedAnswer } from "./handlers.ts";

export interface ControlLimits {
  /** For a request to arrive whole, and for an answer to be taken. Default 10 s. */
  readonly timeoutMs?: number;
  /** Clients at the same time; more are told so and closed. Default 64. */
  readonly clients?: number;
}

/** How much is read at a time. */
const READ_BYTES = 16 * 1024;

export class ControlServer {
  readonly #listener: Listener;
  readonly #handlers: ControlHandlers;
  readonly #log: Log;
  readonly #timeoutMs: number;
  readonly #clientsMax: number;
  readonly #clients = new Map<Connection, Promise<void>>();
  /** Those whose request is being worked on: they get their answer even when the server stops. */
  readonly #busy = new Set<Connection>();
  readonly #accepting: Promise<void>;
  #closing = false;

  /** Takes clients from now on. The listener belongs to the server. */
  constructor(listener: Listener, handlers: ControlHandlers, log: Log, limits: ControlLimits = {}) {
    this.#listener = listener;
    this.#handlers = handlers;
    this.#log = log;
    this.#timeoutMs = limits.timeoutMs ?? 10_000;
    this.#clientsMax = limits.clients ?? 64;
    this.#accepting = this.#accept();
  }

  /**
   * Takes no more clients, and waits for the answers that are being worked on.
   *
   * @param deadlineMs After that they are cut off. Default 1 s.
   */
  async close(deadlineMs = 1000): Promise<void> {
    this.#closing = true;
    this.#listener.close();
    for (const client of this.#clients.keys()) if (!this.#busy.has(client)) client.close();
    // A handler that never ends must not hold up the end of the program.
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      for (const client of this.#clients.keys()) client.close();
      late.resolve();
    }, deadlineMs);
    await Promise.race([Promise.all([this.#accepting, ...this.#clients.values()]), late.promise]);
    clearTimeout(timer);
  }

  async #accept(): Promise<void> {
    for (let client; (client = await this.#listener.accept()) !== null;) {
      const connection = client;
      if (this.#closing || this.#clients.size >= this.#clientsMax) {
        if (!this.#closing) this.#log.warn(`control client ${connection.peer.text} refused: too many`);
        connection.close();
        continue;
      }
      const serving = this.#serve(connection)
        .catch((error) => this.#log.debug(`control client ${connection.peer.text} is gone: ${error}`))
        .finally(() => {
          connection.close();
          this.#clients.delete(connection);
          this.#busy.delete(connection);
        });
      this.#clients.set(connection, serving);
    }
  }

  /** One client, to its end: one request in the form of lines, any number as JSON. */
  async #serve(client: Connection): Promise<void> {
    const decoder = new RequestDecoder();
    const buffer = new Uint8Array(READ_BYTES);
    let ended = false;
    while (!ended && !this.#closing) {
      let answer: FollowedAnswer;
      try {
        let request = decoder.next();
        if (request === null) {
          const count = await this.#inTime(client, () => client.read(buffer));
          if (count !== null) {
            decoder.push(buffer.subarray(0, count));
            continue;
          }
          ended = true;
          request = decoder.end();
          if (request === null || this.#closing) return;
        }
        this.#busy.add(client);
        answer = await this.#perform(request);
        ended ||= request.form === "lines";
      } catch (error) {
        if (!(error instanceof WireError)) throw error;
        answer = { code: 1, text: error.message };
        ended = true;
      }
      await this.#inTime(client, () => client.write(encodeAnswer(answer, decoder.form)));
      this.#busy.delete(client);
      if (answer.follow !== undefined && decoder.form === "json") {
        await this.#send(client, answer.follow);
        ended = true;
      }
    }
  }

  /** Lines for as long as the client stays; whatever it says means that it has heard enough. */
  async #send(client: Connection, follow: (signal: AbortSignal) => AsyncIterable<unknown>): Promise<void> {
    const left = new AbortController();
    // Reading ends when the connection does, which is after the loop at the latest.
    Promise.resolve(client.read(new Uint8Array(1))).finally(() => left.abort()).catch(() => {});
    for await (const value of follow(left.signal)) {
      await this.#inTime(client, () => client.write(encodeLine(value)));
    }
  }

  /**
   * Waits for the client, but not for ever: its connection is closed when the time is over.
   *
   * @throws {Error} If it was. What had arrived until then is no request: half an access list would be one too.
   */
  async #inTime<T>(client: Connection, wait: () => T | Promise<T>): Promise<T> {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.#log.warn(`control client ${client.peer.text} closed: silent for ${this.#timeoutMs / 1000} s`);
      client.close();
    }, this.#timeoutMs);
    try {
      const value = await wait();
      if (late) throw new Error("too slow");
      return value;
    } finally {
      clearTimeout(timer);
    }
  }

  async #perform({ command, args }: ControlRequest): Promise<FollowedAnswer> {
    if (command === "") return { code: 9, text: "missing command" };
    const handler = this.#handlers.get(command);
    if (handler === undefined) return { code: 10, text: "unknown command" };
    this.#log.debug(`control command ${printable(command)} with ${args.length} arguments`);
    try {
      return await handler(args);
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      this.#log.warn(`control command ${printable(command)} failed: ${text}`);
      return { code: 1, text };
    }
  }
}
