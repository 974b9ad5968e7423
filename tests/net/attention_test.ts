import { assertEquals } from "@std/assert";
import { Attention } from "../../src/net/attention.ts";

const several = navigator.hardwareConcurrency > 1;

Deno.test("Attention looks after short waits, as long as looking finds something", () => {
  const attention = new Attention();
  let now = 1000;
  for (let i = 0; i < 16; i++) {
    assertEquals(attention.mayLook(now), false);
    now += 1;
    attention.waited(0.05, now);
  }
  assertEquals(attention.mayLook(now), several);
  for (let i = 0; i < 100; i++) attention.looked(true);
  assertEquals(attention.mayLook(now), several);
  for (let i = 0; i < 5; i++) attention.looked(false);
  assertEquals(attention.mayLook(now), false);
});

Deno.test("Attention never looks for a client that takes its time", () => {
  const attention = new Attention();
  for (let now = 0; now < 1000; now++) {
    attention.waited(now % 2, now);
    assertEquals(attention.mayLook(now), false);
  }
});

Deno.test("Attention does not look while another connection is active", () => {
  const one = new Attention();
  const other = new Attention();
  let now = 0;
  for (let i = 0; i < 32; i++) one.waited(0.01, now += 0.2);
  assertEquals(one.mayLook(now), several);
  for (let i = 0; i < 9; i++) other.waited(0.01, now);
  assertEquals(one.mayLook(now + 10), false);
  one.waited(0.01, now + 10);
  assertEquals(one.mayLook(now + 10.5), false);
  assertEquals(one.mayLook(now + 13), several);
});

Deno.test("Attention looks while strangers come and go, none of whom says more than a handshake has", () => {
  const one = new Attention();
  let now = 2000;
  for (let i = 0; i < 32; i++) one.waited(0.01, now += 0.2);
  for (let i = 0; i < 100; i++) {
    const stranger = new Attention();
    for (let wait = 0; wait < 8; wait++) stranger.waited(0.01, now);
    assertEquals(one.mayLook(now), several);
  }
});
