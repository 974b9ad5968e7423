import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { parseCacheWish } from "../../src/commands/cache_option.ts";
import { runProgram } from "../../src/commands/program.ts";
import { proxy } from "../../src/commands/proxy.ts";
import { UsageError } from "../../src/commands/usage_error.ts";
import { FakeSurroundings } from "./fake_surroundings.ts";

const MIB = 1024 * 1024;
const pure = { permissions: "none" } as const;

Deno.test("--cache takes a size, shared-unsafe, or both; small sizes are raised", pure, () => {
  assertEquals(parseCacheWish("8M"), { sizeBytes: 8 * MIB, sharedUnsafe: false });
  assertEquals(parseCacheWish("shared-unsafe"), { sizeBytes: 64 * MIB, sharedUnsafe: true });
  assertEquals(parseCacheWish("2G,shared-unsafe"), { sizeBytes: 2048 * MIB, sharedUnsafe: true });
  assertEquals(parseCacheWish("4096"), { sizeBytes: MIB, sharedUnsafe: false });
});

Deno.test("--cache of 0 or below is none, and anything else is misuse", pure, () => {
  assertEquals([parseCacheWish("0"), parseCacheWish("-1")], [null, null]);
  for (const text of ["", "much", "1M,much", "65G"]) assertThrows(() => parseCacheWish(text), UsageError);
});

const MISUSE: [string, string][] = [
  ["proxy", "DISK is missing"],
  ["proxy --conn-addr 127.0.0.1", "both --conn-addr and --conn-port are required."],
  ["proxy --conn-port 4777", "both --conn-addr and --conn-port are required."],
  ["proxy --conn-addr 127.0.0.1 --conn-port 0", "0 is no port"],
  ["proxy --addr nowhere nbd://x/", "not an IP address, nor a path"],
  ["proxy --addr /a --unix /b nbd://x/", "both name a socket"],
  ["proxy --cache=lots nbd://x/", "--cache"],
  ["proxy what://x/", "scheme"],
  ["proxy nbd://x/ 10.0.0.0/99", "10.0.0.0/99"],
  ["proxy --name a nbd://x/ --frob", "--frob"],
];

for (const [line, reason] of MISUSE) {
  Deno.test(`misuse, told before anything is opened: ${line}`, pure, async () => {
    const around = new FakeSurroundings();
    assertEquals(await runProgram(line.split(" "), [proxy], "1.2.3", around), 2);
    assertStringIncludes(around.written.stderr, reason);
    assertStringIncludes(around.written.stderr, "usage: denbd proxy");
  });
}
