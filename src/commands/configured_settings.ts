/** How a server runs whose command line names a configuration directory. */
import { printable } from "../base/printable.ts";
import { NBD_PORT } from "../base/uri.ts";
import type { PeerSettings } from "../config/peers_conf.ts";
import type { AccessStatus } from "../control/status.ts";
import type { Configuration } from "./configuration.ts";
import type { ServerSettings } from "./serving_options.ts";
import { UsageError } from "./usage_error.ts";

/** @throws {UsageError} About the first option that a configuration directory replaces. */
export function refuseOptions(settings: ServerSettings): void {
  const { tls, tlsCertificates, tlsVerifyPeer, channelPort, key, authorizedPeers, psk, encryption, http } =
    settings;
  if (tlsVerifyPeer || (tls ?? tlsCertificates)) {
    throw new UsageError("with --config, TLS is said in [tls] of server.conf");
  }
  if (channelPort !== undefined || (key ?? authorizedPeers ?? psk ?? encryption)) {
    throw new UsageError(
      "with --config, channels are said in [channel] of server.conf, and keys in peers.conf",
    );
  }
  if (http !== undefined) throw new UsageError("with --config, HTTP is said in [http] of server.conf");
}

/**
 * What the command line and the directory say together. Where to listen is said by the former, if it does.
 *
 * @param hasSockets There are sockets that were handed over: nothing more is opened unless somebody says so.
 */
export function settingsOf(
  given: ServerSettings,
  { serving, exports, peers }: Configuration,
  hasSockets: boolean,
): ServerSettings {
  const { nbd, tls, channel, http } = serving;
  const listen = [...nbd.listen];
  if (given.port !== undefined || given.unix !== undefined) {
    listen.length = 0;
    const host = given.addr ?? "127.0.0.1";
    if (given.unix !== undefined) listen.push({ transport: "unix", path: given.unix });
    if (given.port !== undefined) listen.push({ transport: "tcp", host, port: given.port });
  }
  // A directory of images alone is for dnbd3.
  if (listen.length === 0 && channel === null && !hasSockets && exports.length + peers.length > 0) {
    listen.push({ transport: "tcp", host: "127.0.0.1", port: NBD_PORT });
  }
  return {
    ...given,
    listen,
    maxConnections: nbd.maxConnections ?? given.maxConnections,
    handshakeTimeout: nbd.handshakeTimeout ?? given.handshakeTimeout,
    requestTimeout: nbd.requestTimeout,
    drainTimeout: nbd.drainTimeout ?? given.drainTimeout,
    diskThreads: nbd.diskThreads ?? given.diskThreads,
    tls: tls.mode,
    tlsCertificates: tls.mode === "off" ? undefined : tls.certificates,
    tlsVerifyPeer: tls.verifyPeer,
    channelPort: channel?.listen.port,
    channelAddr: channel?.listen.host,
    key: channel?.key,
    psk: channel?.psk,
    encryption: channel?.encryption,
    http: http.listen,
  };
}

/** The keys that are let in: what each may do is said per export. */
export function keysOf(peers: readonly PeerSettings[]) {
  return peers.flatMap(({ keys }) => keys).map((each) => ({ ...each, rights: "write" as const }));
}

/** For status. */
export function describePeers(peers: readonly PeerSettings[]): AccessStatus {
  const entries = peers.flatMap(({ name, rights }) =>
    rights.map(({ rights, exports }) => `[${printable(name)}] ${rights} = ${printable(exports)}`)
  );
  return { acl: entries.length === 0 ? "closed" : "list", entries, defaultDeny: true };
}
