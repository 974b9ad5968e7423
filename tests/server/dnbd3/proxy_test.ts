import { assert, assertEquals } from "@std/assert";
import { HASH_BLOCK_BYTES } from "../../../src/wire/dnbd3/constants.ts";
import { patternBytes } from "../../wire/dnbd3/vectors.ts";
import { ProxyWorld } from "./proxy_world.ts";

const MIB = 1 << 20;

Deno.test("P3: a miss is fetched once, in whole blocks, and is here from then on", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const client = await world.client(proxy);
  await world.read(client, MIB + 100, 1000);
  assertEquals(origin.asked, [{ offset: MIB, length: 4096, hops: 1 }]);
  await world.read(client, MIB, 4096);
  assertEquals(origin.asked.length, 1);
});

Deno.test("P4: all of an image is copied in the background, checked, and then needs no map", async () => {
  await using world = new ProxyWorld();
  const sizeBytes = HASH_BLOCK_BYTES + 40_960;
  world.origin("10.0.0.1", sizeBytes);
  const settings = { backgroundReplication: "full", bgrWindowSize: 20 } as const;
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings });
  const client = await world.client(proxy);
  await world.pass(3000);
  assert(!proxy.store.files.has("x.r1.map"), "no map");
  const copy = new Uint8Array(sizeBytes);
  await proxy.store.files.get("x.r1")!.disk.read(0, copy);
  assertEquals(copy, patternBytes(0, sizeBytes));
  await world.read(client, 0, 100);
});
