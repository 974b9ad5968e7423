/** The servers of `alt-servers` as those that a proxy copies from. */
import type { TcpEndpoint } from "../base/endpoint.ts";
import { formatIpEndpoint } from "../base/ip_endpoint.ts";
import { formatIpAddress } from "../base/ip_address.ts";
import type { Log } from "../base/log.ts";
import { printable } from "../base/printable.ts";
import type { Clock } from "../os/clock.ts";
import { ImageClient } from "../remote/dnbd3/image_client.ts";
import type { Dial } from "../remote/dnbd3/reach_server.ts";
import { type AltServer, coversImage } from "../server/dnbd3/alt_server.ts";
import type { KnownCopy, Uplink, Upstream } from "../server/dnbd3/uplink.ts";
import { SelectFlag } from "../wire/dnbd3/constants.ts";
import type { SelectedImage } from "../wire/dnbd3/message.ts";

/** Servers that are asked for one image. */
const CANDIDATES_MAX = 8;
const DIAL_MS = 750;

export interface UpstreamSettings {
  /** Copy only from servers marked for it. */
  readonly proxyPrivateOnly: boolean;
  readonly pretendClient: boolean;
  readonly backgroundReplication: "off" | "hashblock" | "full";
  /** In ms. */
  readonly uplinkTimeout: number;
}

export interface ImageUpstreamOptions {
  readonly altServers: readonly AltServer[];
  readonly settings: UpstreamSettings;
  readonly dial: Dial;
  readonly clock: Clock;
  readonly log: Log;
  /** Numbers from 0 to below 1. */
  readonly random: () => number;
}

/** What is known of a server, over all images. */
export interface ServerRecord {
  /** The last few round-trip times, in ms. */
  readonly roundTripsMs: readonly number[];
  /** Failures in a row, of the image that has most. */
  readonly failures: number;
}

export class ImageUpstream implements Upstream {
  altServers: readonly AltServer[];
  settings: UpstreamSettings;
  readonly #options: ImageUpstreamOptions;
  readonly #clients = new Set<ImageClient>();

  constructor(options: ImageUpstreamOptions) {
    this.#options = options;
    this.altServers = options.altServers;
    this.settings = options.settings;
  }

  covers(name: string): boolean {
    return this.#serversFor(name).length > 0;
  }

  async find(
    name: string,
    revision: number,
    refuse: (image: SelectedImage) => string | null,
  ): Promise<Uplink | null> {
    const servers = this.#serversFor(name);
    if (servers.length === 0) return null;
    try {
      const client = await ImageClient.open({
        ...this.#clientOptions(name, revision, servers),
        refuse,
        dialMs: DIAL_MS,
        handshakeMs: this.settings.uplinkTimeout,
      });
      return this.#uplink(client);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#options.log.debug(`no other server has ${printable(name)}:${revision}: ${reason}`);
      return null;
    }
  }

  resume(known: KnownCopy): Uplink | null {
    const { name, revision } = known.image;
    const servers = this.#serversFor(name);
    if (servers.length === 0) return null;
    return this.#uplink(ImageClient.resume(known, this.#clientOptions(name, revision, servers)));
  }

  /** What is known of each of the servers, in their order. */
  records(): ServerRecord[] {
    const known = [...this.#clients].flatMap((client) => client.status().servers);
    return this.altServers.map((server) => {
      const text = formatIpEndpoint(server);
      const same = known.filter((each) => each.server === text);
      return {
        roundTripsMs: same.flatMap(({ roundTripMs }) => roundTripMs ?? []).slice(-5),
        failures: Math.max(0, ...same.map(({ failures }) => failures)),
      };
    });
  }

  #clientOptions(name: string, revision: number, servers: readonly TcpEndpoint[]) {
    const { dial, clock, log, random } = this.#options;
    const { pretendClient, backgroundReplication, uplinkTimeout } = this.settings;
    const flags = (pretendClient ? 0 : SelectFlag.Server) |
      (backgroundReplication === "full" ? SelectFlag.Replication : 0);
    return {
      name,
      revision,
      servers,
      dial,
      clock,
      log,
      random,
      flags,
      learn: false,
      silenceMs: uplinkTimeout,
    };
  }

  #uplink(client: ImageClient): Uplink {
    this.#clients.add(client);
    const clients = this.#clients;
    return {
      image: client.image,
      get checksums() {
        return client.checksums;
      },
      fetch: (offset, into, hops) => client.fetch(offset, into, hops),
      distrust: (server) => client.distrust(server),
      avoidServer: (reason, forMs) => client.avoidServer(reason, forMs),
      status: () => client.status(),
      close: async () => {
        clients.delete(client);
        await client.close();
      },
    };
  }

  /** Those that the image can be copied from; of many, some by chance. */
  #serversFor(name: string): TcpEndpoint[] {
    const usable = this.altServers.filter((server) =>
      !server.isClientOnly && (server.isPrivate || !this.settings.proxyPrivateOnly) &&
      coversImage(server, name)
    );
    while (usable.length > CANDIDATES_MAX) {
      usable.splice(Math.floor(this.#options.random() * usable.length), 1);
    }
    return usable.map(({ address, port }) => ({ transport: "tcp", host: formatIpAddress(address), port }));
  }
}
