import { IMAGE_PORT } from "../base/uri.ts";
import type { Connection } from "../net/connection.ts";
import { listenTcp } from "../net/listener.ts";
import { systemClock } from "../os/clock.ts";
import { encodeHttpReply, formatJson } from "../wire/dnbd3/http.ts";
import { command } from "./command.ts";
import { StopSignals } from "./stop_signals.ts";

/** What is not taken and left by then is cut off. */
const FAREWELL_MS = 5000;
/** More wait until others have gone. */
const CONNECTIONS_MAX = 200;

export const errormsg = command({
  name: "errormsg",
  summary: "Answers every connection with a message, for maintenance",
  usage: ["errormsg [--addr ADDRESS] [--port PORT] TEXT"],
  description: `Serves nothing. Every connection gets TEXT in an HTTP answer, whatever it sends, as from ` +
    `dnbd3-server --errormsg: monitoring sees why the images are away, and clients go to another server.`,
  positional: { name: "TEXT", help: "The message", min: 1, max: 1 },
  options: {
    addr: { type: "address", short: "l", default: "::", help: "Address to listen on" },
    port: { type: "port", short: "p", default: IMAGE_PORT, help: "Port to listen on" },
  },
  examples: [{ text: "While the disks are replaced", command: 'denbd errormsg "Back at nine"' }],
  async run({ options, args, log }) {
    const body = new TextEncoder().encode(formatJson({ errorMsg: args[0] }));
    const reply = encodeHttpReply("200 Somewhat OK", "application/json", body, false);
    using signals = new StopSignals({ hangup: () => {}, reopenLog: () => {} });
    const listener = listenTcp(options.addr, options.port);
    signals.stop.then(() => listener.close());
    log.info(`answering on ${listener.text}`);
    const answered = new Set<Promise<void>>();
    const connections = new Set<Connection>();
    for (let connection; (connection = await listener.accept()) !== null;) {
      const accepted = connection;
      connections.add(accepted);
      const answering = answer(accepted, reply).finally(() => {
        connections.delete(accepted);
        answered.delete(answering);
      });
      answered.add(answering);
      if (answered.size >= CONNECTIONS_MAX) await Promise.race(answered);
    }
    for (const connection of connections) connection.close();
    await Promise.all(answered);
    return 0;
  },
});

/** Never throws. */
async function answer(connection: Connection, reply: Uint8Array): Promise<void> {
  using _timer = systemClock.timer(FAREWELL_MS, () => connection.close());
  try {
    await connection.write(reply);
    // A connection that is closed with something unread takes the answer with it.
    const rest = new Uint8Array(4096);
    while (await connection.read(rest) !== null);
  } catch {
    // Who has gone needs no answer.
  } finally {
    connection.close();
  }
}
