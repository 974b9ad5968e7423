import { assert } from "@std/assert";
import { KeyList } from "../../src/access/key_list.ts";
import { silentLog } from "../../src/base/log.ts";
import type { Connection } from "../../src/net/connection.ts";
import { converse } from "../../src/net/converse.ts";
import type { Listener } from "../../src/net/listener.ts";
import { ChannelEntrance } from "../../src/server/channel_entrance.ts";
import { initiate } from "../../src/wire/channel/establish.ts";
import { generateKeyPair } from "../../src/wire/channel/key_pair.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { ManualClock } from "../testing/manual_clock.ts";

/** A door at which one stranger comes when the last one has come to nothing, each from an address of its own. */
class Procession implements Listener {
  readonly text = "127.0.0.1:1";
  readonly port = 1;
  accepted = 0;
  #before: Promise<void> = Promise.resolve();

  constructor(readonly count: number, readonly stranger: (connection: Connection) => Promise<void>) {}

  async accept(): Promise<Connection | null> {
    await this.#before;
    if (this.accepted === this.count) return null;
    const address = `10.0.${this.accepted >> 8}.${this.accepted & 255}`;
    this.accepted++;
    const [here, there] = connectionPair();
    this.#before = this.stranger(here);
    return Object.defineProperty(there, "peer", { value: { transport: "tcp", address, text: address } });
  }

  close(): void {}
}

/** Says something wrong, and waits for the end. */
async function garbage(connection: Connection): Promise<void> {
  connection.write(new TextEncoder().encode("GET / HTTP/1.1\r\n"));
  while (await connection.read(new Uint8Array(100)) !== null);
}

const staticKey = await generateKeyPair();

/** Has the server compute with keys, and does not like its key. */
async function noise(connection: Connection): Promise<void> {
  const trust = () => Promise.reject(new Error("not this one"));
  await converse(initiate({ identity: { staticKey }, trust }), connection).catch(() => {});
  connection.close();
  while (await connection.read(new Uint8Array(100)) !== null);
}

for (const [stranger, most] of [[garbage, 205], [noise, 25]] as const) {
  Deno.test(`channels: of strangers with ${stranger.name} no more than ${most} are taken at once`, async () => {
    const clock = new ManualClock();
    const entrance = new ChannelEntrance({
      encryption: "require",
      identity: { staticKey },
      keys: new KeyList([]),
      log: silentLog,
      clock,
      handshakeMs: 0,
    });
    const procession = new Procession(300, stranger);
    const serving = entrance.serve(procession, () => {});
    // The door closes when it has set a timer, which nobody else does here.
    while (clock.timers === 0) await new Promise((resolve) => setTimeout(resolve, 0));
    const taken = procession.accepted;
    assert(taken > most * 0.8 && taken <= most, `${taken} taken`);
    while (procession.accepted < procession.count) {
      clock.advance(100);
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    await serving;
  });
}
