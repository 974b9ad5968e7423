/**
 * An image at whichever of several servers is best.
 *
 * The image is on all of them, so losing one costs a pause and nothing else: what was asked for and not answered
 * is asked again of the next one. What may never happen is that two servers' different content is mixed: name,
 * revision, size and, where there is one, the list of checksums must be what the first server said.
 *
 * While all is well, the most promising servers are measured now and then, and a much faster one is changed to.
 * When the connection breaks, or a request hangs, all are tried at once and the first that delivers the block in
 * question is taken; if none does, again every two seconds, without end.
 */
import type { TcpEndpoint } from "../../base/endpoint.ts";
import { formatIpAddress } from "../../base/ip_address.ts";
import type { Log } from "../../base/log.ts";
import { printable } from "../../base/printable.ts";
import { DeviceError } from "../../device/device_error.ts";
import type { Clock } from "../../os/clock.ts";
import type { ChecksumList } from "../../wire/dnbd3/checksum_list.ts";
import { Command } from "../../wire/dnbd3/constants.ts";
import type { SelectedImage, ServerEntry } from "../../wire/dnbd3/message.ts";
import { WireError } from "../../wire/wire_error.ts";
import { BlockRequests, type ClientRequest } from "./block_requests.ts";
import { findFirstServer, type FirstServerOptions } from "./first_server.ts";
import { ImageLink, type LinkOwner } from "./image_link.ts";
import type { KnownImage, ReachedServer } from "./reach_server.ts";
import { Scout } from "./scout.ts";
import { type KnownServer, roundTripMs, ServerBook } from "./server_book.ts";

/** Blocks asked for and not answered; servers drop who asks for many more. */
const WINDOW_BLOCKS = 128;
/** A server says every so often that we are here. */
const KEEPALIVE_MS = 10_000;
/** Shortly after a change, and without a server, servers are looked at this often… */
const LOOK_MS = 2000;
const LOOK_OFTEN_FOR_MS = 12_000;
/** …and later this often. */
const LOOK_SELDOM_MS = 45_000;
/** How often hanging requests are looked for. */
const TICK_MS = 500;
/** A request hangs when nothing at all was heard for this long, or for so many round trips. */
const SILENT_MS_MIN = 1000;
const SILENT_ROUND_TRIPS = 5;
/** A request also hangs when it waits for this long, although others are answered. */
const WAITING_MS_MAX = 10_000;
/** A server that was left because requests hung is not changed back to for so long. */
const HUNG_MS = 60_000;
/** After so long a silence, a server is given up even if there is no other. */
const DEAD_MS = 30_000;

export interface ImageClientOptions extends Omit<FirstServerOptions, "refuse" | "dialMs" | "handshakeMs"> {
  /** At least one. */
  readonly servers: readonly TcpEndpoint[];
  readonly log: Log;
  /** Numbers from 0 to below 1. */
  readonly random: () => number;
  /** Ask servers for further ones. Default `true`. */
  readonly learn?: boolean;
  /** A request that is not answered within this time fails. Default: it waits. */
  readonly deadlineMs?: number;
  /** A server that is asked and says nothing for so long is given up. Default: half a minute. */
  readonly silenceMs?: number;
}

export interface OpenImageOptions extends ImageClientOptions, FirstServerOptions {}

/** So much of a wanted block is enough to see that a server can deliver it. */
const PROOF_BYTES_MAX = 64 * 1024;

/** Where an image comes from, for status. */
export interface ImageClientStatus {
  /** Null while there is none. */
  readonly server: string | null;
  /** How long it has been that one, in ms. */
  readonly connectedMs: number;
  /** How often the server was changed. */
  readonly changes: number;
  /** Requests that wait. */
  readonly waiting: number;
  /** There was a checksum list to compare servers by. */
  readonly verified: boolean;
  readonly servers: readonly {
    readonly server: string;
    /** Median; null before it was measured. */
    readonly roundTripMs: number | null;
    readonly failures: number;
    /** How often it was caught sending what is not in the image. */
    readonly lies: number;
  }[];
}

export class ImageClient implements LinkOwner<ClientRequest> {
  readonly image: SelectedImage;
  readonly #options: ImageClientOptions;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #book: ServerBook;
  readonly #scout: Scout;
  readonly #stop = new AbortController();
  #checksums: ChecksumList | null;
  #server: KnownServer | null = null;
  #link: ImageLink<ClientRequest> | null = null;
  #connectedMs = 0;
  #changes = -1;
  readonly #requests = new BlockRequests();
  /** Servers are being looked at. */
  #looking = false;
  #lookedForHangingMs = -Infinity;
  readonly #timers = new Map<"look" | "tick" | "keepalive", Disposable>();
  /** Links that have not ended: to whom, and how to tell of the end. */
  readonly #links = new Map<
    ImageLink<ClientRequest>,
    { readonly server: KnownServer; readonly end: PromiseWithResolvers<void> }
  >();

  /**
   * Tries the servers one after the other, a little apart, and takes the first that offers the image.
   *
   * @throws {AggregateError} If none does: an error for each server, and all of them in the message.
   */
  static async open(options: OpenImageOptions, signal?: AbortSignal): Promise<ImageClient> {
    const book = bookOf(options);
    const { server, reached } = await findFirstServer(book, options, signal);
    const client = new ImageClient(options, book, reached);
    client.#adopt(server, reached);
    return client;
  }

  /** Goes on with an image that is known from before: at once, and with whichever server turns up first. */
  static resume(known: KnownImage, options: ImageClientOptions): ImageClient {
    const client = new ImageClient(options, bookOf(options), known);
    client.#look("now");
    return client;
  }

  private constructor(options: ImageClientOptions, book: ServerBook, known: KnownImage) {
    this.#options = options;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#book = book;
    this.image = known.image;
    this.#checksums = known.checksums;
    const { dial, clock, log, flags = 0 } = options;
    this.#scout = new Scout(book, { dial, clock, flags, log, name: this.#name, known: () => this });
  }

  /** The checksums that the servers agree on, or null. */
  get checksums(): ChecksumList | null {
    return this.#checksums;
  }

  status(): ImageClientStatus {
    return {
      server: this.#server?.text ?? null,
      connectedMs: this.#server === null ? 0 : this.#clock.now() - this.#connectedMs,
      changes: this.#changes,
      waiting: this.#requests.count,
      verified: this.#checksums !== null,
      servers: this.#book.all.map((server) => ({
        server: server.text,
        roundTripMs: Number.isFinite(roundTripMs(server)) ? roundTripMs(server) : null,
        failures: server.failures,
        lies: server.lies,
      })),
    };
  }

  /**
   * Fetches a block; waits for a server as long as there is none.
   *
   * @param into Lies inside the image; its length is not 0.
   * @param hops The hop byte.
   * @returns Which server it came from.
   * @throws {DeviceError} If every server refuses it or sent bad data, the deadline passes, or the client is closed.
   */
  fetch(offset: number, into: Uint8Array, hops = 0): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const askedMs = this.#clock.now();
    const request = { offset, into, hops, resolve, reject, askedMs, sentMs: askedMs, refusals: 0 };
    if (this.#stop.signal.aborted) {
      reject(new DeviceError("ESHUTDOWN", "read", offset, into.length));
      return promise;
    }
    this.#requests.add(request);
    if (!this.#book.hasUsable) this.#failAll();
    this.#pump();
    this.#startTicking();
    return promise;
  }

  /**
   * A server sent what is not in the image, as its checksums prove. It is left alone for a while; if there is no
   * other, what is asked for fails.
   *
   * @param serverText As {@linkcode fetch} named it.
   */
  distrust(serverText: string): void {
    const server = this.#book.all.find(({ text }) => text === serverText);
    if (server === undefined || server.shunnedUntilMs > this.#clock.now()) return;
    this.#book.shun(server);
    this.#log.error(`${this.#name}: ${server.text} sends what is not in the image; it is left alone`);
    if (server === this.#server) this.#link?.close(new Error("it sends what is not in the image"));
    else if (!this.#book.hasUsable) this.#failAll();
  }

  /** The present server is of no use for a while, although it may answer: another one is looked for. */
  avoidServer(reason: string, forMs: number): void {
    const server = this.#server;
    if (server === null) return;
    this.#book.avoid(server, forMs);
    this.#log.warn(`${this.#name}: another server than ${server.text} is looked for: ${reason}`);
    this.#look("hanging");
  }

  /** Ends all use. What is still asked for fails. */
  async close(): Promise<void> {
    if (!this.#stop.signal.aborted) {
      const reason = new Error("the image was closed");
      this.#stop.abort(reason);
      for (const timer of this.#timers.values()) timer[Symbol.dispose]();
      this.#timers.clear();
      for (const link of this.#links.keys()) link.close(reason);
    }
    await Promise.all([...this.#links.values()].map(({ end }) => end.promise));
    this.#requests.failQueued({ errno: "ESHUTDOWN", detail: "the image was closed" });
  }

  // --- What a link says ---

  answered(link: ImageLink<ClientRequest>, request: ClientRequest): void {
    this.#requests.answered(request);
    request.resolve(this.#links.get(link)!.server.text);
    this.#pump();
  }

  refused(link: ImageLink<ClientRequest>, request: ClientRequest): void {
    request.refusals++;
    this.#requests.takeBack(request);
    // Whoever refuses one block of an image it offered is no server to stay with, unless all others do as well.
    if (!this.#failRefused(request)) link.close(new Error(`it refused a block at ${request.offset}`));
  }

  told(_link: ImageLink<ClientRequest>, servers: ServerEntry[]): void {
    for (const { address, port } of servers) {
      this.#book.add({ transport: "tcp", host: formatIpAddress(address), port });
    }
  }

  ended(link: ImageLink<ClientRequest>, unanswered: ClientRequest[], reason: Error): void {
    this.#links.get(link)?.end.resolve();
    this.#links.delete(link);
    this.#requests.takeBack(...unanswered);
    if (link !== this.#link) return this.#pump();
    this.#link = null;
    if (this.#stop.signal.aborted) return;
    const server = this.#server!;
    this.#server = null;
    this.#book.failed(server);
    if (reason instanceof WireError) this.#book.mismatched(server);
    this.#log.warn(
      `${this.#name}: lost ${server.text}: ${reason.message}; ${this.#requests.queued} blocks wait`,
    );
    if (!this.#book.hasUsable) this.#failAll();
    this.#look("now");
  }

  // --- Requests ---

  /** Gives waiting requests to the link, as many as it may have. */
  #pump(): void {
    const link = this.#link;
    if (link === null) return;
    while (link.unansweredCount < WINDOW_BLOCKS) {
      const request = this.#requests.next(this.#clock.now());
      if (request === undefined) return;
      link.submit(request);
    }
  }

  /** There is no server left that could be asked. */
  #failAll(): void {
    this.#requests.failQueued({ errno: "EIO", detail: "every server sent what is not in the image" });
  }

  /**
   * The request that another server has to answer before it is taken. Without a server it is another one each time:
   * what one server cannot deliver must not keep from the others those that it can.
   */
  #wantedProof(): ClientRequest | undefined {
    const { queued } = this.#requests;
    return this.#link !== null || queued === 0 ? this.#requests.oldest() : this.#requests.inTurn();
  }

  #startTicking(): void {
    this.#timer("tick", TICK_MS, () => {
      this.#tick();
      if (this.#requests.count > 0) this.#startTicking();
    });
  }

  /** Looks for requests that hang, or are too late. */
  #tick(): void {
    const now = this.#clock.now();
    this.#failLate(now);
    const link = this.#link;
    const oldest = this.#requests.oldest();
    if (link === null || oldest === undefined) return;
    const silentMs = now - Math.max(link.heardMs, oldest.sentMs);
    const ownMs = this.#server === null ? Infinity : roundTripMs(this.#server);
    const patienceMs = Math.max(SILENT_MS_MIN, Number.isFinite(ownMs) ? SILENT_ROUND_TRIPS * ownMs : 0);
    const { silenceMs = DEAD_MS } = this.#options;
    if (silentMs >= silenceMs) link.close(new Error(`it was silent for ${silenceMs / 1000} s`));
    else if (silentMs >= patienceMs || now - oldest.sentMs >= WAITING_MS_MAX) {
      if (now - this.#lookedForHangingMs < LOOK_MS) return;
      this.#lookedForHangingMs = now;
      this.#look("hanging");
    }
  }

  #failLate(now: number): void {
    const { deadlineMs } = this.#options;
    if (deadlineMs === undefined) return;
    const failure = { errno: "ETIMEDOUT", detail: `not answered for ${deadlineMs / 1000} s` } as const;
    const more = this.#requests.failAskedBefore(now - deadlineMs, failure);
    if (more) this.#link?.close(new Error("it does not answer"));
  }

  // --- Servers ---

  get #name(): string {
    return printable(`${this.image.name}:${this.image.revision}`);
  }

  /** Goes on with this server. A link to another one ends, and gives back what it has. */
  #adopt(server: KnownServer, reached: ReachedServer): void {
    const old = this.#link;
    this.#server = server;
    this.#checksums ??= reached.checksums;
    this.#changes++;
    this.#connectedMs = this.#clock.now();
    const link = new ImageLink<ClientRequest>(
      reached.connection,
      reached.image,
      reached.rest,
      this,
      this.#clock,
    );
    this.#link = link;
    this.#links.set(link, { server, end: Promise.withResolvers() });
    if (this.#options.learn ?? true) link.ask(Command.GetServers);
    link.ask(Command.Keepalive);
    old?.close(new Error("another server is better"));
    this.#pump();
    this.#keepAlive();
    this.#scheduleLook();
  }

  #keepAlive(): void {
    this.#timer("keepalive", KEEPALIVE_MS, () => {
      const link = this.#link;
      if (link === null) return;
      if (this.#clock.now() - link.heardMs >= DEAD_MS) {
        return link.close(new Error(`it was silent for ${DEAD_MS / 1000} s`));
      }
      link.ask(Command.Keepalive);
      this.#keepAlive();
    });
  }

  #scheduleLook(): void {
    const often = this.#link === null || this.#clock.now() - this.#connectedMs < LOOK_OFTEN_FOR_MS;
    this.#timer("look", often ? LOOK_MS : LOOK_SELDOM_MS, () => this.#look("regularly"));
  }

  /** Looks at the servers: to measure them, or because the present one is lost or hangs. */
  #look(why: "regularly" | "now" | "hanging"): void {
    if (this.#looking || this.#stop.signal.aborted) return;
    this.#looking = true;
    const lost = this.#link === null;
    const looking = lost || why === "hanging" ? this.#findAny() : this.#measure();
    looking.catch((error) => this.#log.error(`${this.#name}: ${error}`)).finally(() => {
      this.#looking = false;
      if (this.#stop.signal.aborted) return;
      // Lost while something else was looked for: that is urgent.
      if (this.#link === null && !lost) this.#look("now");
      else this.#scheduleLook();
    });
  }

  /** Changes to a server that is much faster, if there is one. */
  #measure(): Promise<void> {
    const take = (better: KnownServer, reached: ReachedServer) => this.#adopt(better, reached);
    return this.#scout.measure(this.#server, take, this.#stop.signal);
  }

  /** Goes on with the first server, but the present one, that delivers what is wanted. */
  async #findAny(): Promise<void> {
    const current = this.#server;
    const wanted = this.#wantedProof();
    const block = wanted &&
      { offset: wanted.offset, sizeBytes: Math.min(wanted.into.length, PROOF_BYTES_MAX) };
    const take = (server: KnownServer, reached: ReachedServer) => {
      const found = `${this.#name}: goes on with ${server.text}`;
      // As loud as the loss of the one before.
      if (this.#changes < 0) this.#log.info(found);
      else this.#log.warn(found);
      // It may still be the fastest to answer when it is measured.
      if (current !== null && current === this.#server) this.#book.avoid(current, HUNG_MS);
      this.#adopt(server, reached);
    };
    const refused = () => {
      if (wanted !== undefined) wanted.refusals++;
    };
    await this.#scout.findAny(current, block, take, refused, this.#stop.signal);
    if (wanted !== undefined) this.#failRefused(wanted);
  }

  /** Gives up a request that every server has refused. Returns whether it did. */
  #failRefused(request: ClientRequest): boolean {
    return request.refusals >= this.#book.all.length &&
      this.#requests.fail(request, { errno: "EIO", detail: "every server refuses it" });
  }

  #timer(name: "look" | "tick" | "keepalive", delayMs: number, callback: () => void): void {
    if (this.#stop.signal.aborted) return;
    // A running tick goes on; the others start anew.
    if (name === "tick" && this.#timers.has(name)) return;
    this.#timers.get(name)?.[Symbol.dispose]();
    const timer = this.#clock.timer(delayMs, () => {
      this.#timers.delete(name);
      callback();
    }, { background: true });
    this.#timers.set(name, timer);
  }
}

function bookOf({ servers, random, clock }: ImageClientOptions): ServerBook {
  const book = new ServerBook(random, () => clock.now());
  for (const endpoint of servers) book.add(endpoint);
  return book;
}
