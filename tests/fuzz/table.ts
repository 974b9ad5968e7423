/** All fuzzers. */
import { channelHellos, channelStreams } from "./channel.ts";
import { configFiles, dnbd3Client, dnbd3Headers, dnbd3Maps, dnbd3Messages, dnbd3Server } from "./dnbd3.ts";
import { accessEntries, controlMessages } from "./control_decoders.ts";
import type { Fuzzer } from "./fuzzer.ts";
import { nbdLyingServer, nbdTamperedServer } from "./nbd_client_connection.ts";
import { nbdMessages, nbdReplies, nbdRequests, nbdStatusQueries } from "./nbd_decoders.ts";
import { nbdClientHandshake, nbdHandshakes, nbdServerHandshake } from "./nbd_handshakes.ts";
import { nbdServerConnection, nbdServerDrain, nbdServerRequests } from "./nbd_server_connection.ts";

/** Those that find nothing in a sound program. */
export const fuzzers: readonly Fuzzer[] = [
  nbdRequests,
  nbdReplies,
  nbdStatusQueries,
  nbdMessages,
  nbdServerHandshake,
  nbdClientHandshake,
  nbdHandshakes,
  nbdServerRequests,
  nbdServerConnection,
  nbdServerDrain,
  nbdLyingServer,
  nbdTamperedServer,
  dnbd3Headers,
  dnbd3Messages,
  dnbd3Client,
  dnbd3Server,
  dnbd3Maps,
  channelHellos,
  channelStreams,
  configFiles,
  controlMessages,
  accessEntries,
];

/** Fails now and then, so that it can be seen that findings are found. */
export const failsOnPurpose: Fuzzer = {
  name: "fails-on-purpose",
  summary: "fails in one round of a hundred: a test of the machinery",
  round(random) {
    if (random.below(100) === 7) throw new Error("on purpose");
  },
};
