import { assert, assertEquals } from "@std/assert";
import { DeadPeers, PEER_UNHEARD_MS_MAX } from "../../src/net/dead_peers.ts";
import { claimDescriptor } from "../../src/net/connection_descriptor.ts";
import { sendNow, unacknowledgedMs, WOULD_BLOCK } from "../../src/os/socket_calls.ts";
import { ManualClock } from "../testing/manual_clock.ts";

Deno.test({
  name: "V11: whoever has acknowledged nothing for 15 s is gone, once; whoever owes nothing stays",
  permissions: "none",
  fn() {
    const clock = new ManualClock();
    const peers = new DeadPeers(clock);
    let gone = 0;
    const silentSinceMs = 0;
    const dead = peers.watch({ unheardMs: () => clock.now() - silentSinceMs, gone: () => gone++ });
    const idle = peers.watch({ unheardMs: () => 0, gone: () => gone += 100 });
    clock.advance(14_999);
    assertEquals(gone, 0);
    clock.advance(1);
    assertEquals(gone, 1);
    clock.advance(60_000);
    assertEquals(gone, 1);
    dead[Symbol.dispose]();
    idle[Symbol.dispose]();
    assertEquals(clock.timers, 0);
  },
});

Deno.test("a TCP peer that reads nothing owes no acknowledgement when it has no room", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepting = listener.accept();
  const here = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  using _there = await accepting;
  const fd = claimDescriptor(here)!;
  assertEquals(unacknowledgedMs(fd), 0);
  // Until the buffers of both ends are full.
  const piece = new Uint8Array(1024 * 1024);
  while (sendNow(fd, piece) !== WOULD_BLOCK);
  assert(unacknowledgedMs(fd) < PEER_UNHEARD_MS_MAX);
  here.close();
});
