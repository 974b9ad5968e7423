/** Requests that no specification knows. */
import { assertEquals } from "@std/assert";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { Command, CommandFlag, WireErrno } from "../../../src/wire/nbd/constants.ts";
import { serveDisk } from "../../testing/served_disk.ts";

const commands = Object.values(Command);
const knownFlags = Object.values(CommandFlag).reduce((all, flag) => all | flag, 0);

for (const extended of [false, true]) {
  Deno.test(`V41: each undefined command number is EINVAL, and the connection stays up (extended: ${extended})`, async () => {
    const disk = new MemoryDisk(4096);
    await using served = serveDisk(disk);
    const client = await served.client({ extended });
    for (let type = 0; type < 0x10000; type = type < 0x200 ? type + 1 : type + 257) {
      if (commands.includes(type as never)) continue;
      assertEquals((await client.ask({ type, length: 512 })).error, WireErrno.EINVAL, `command ${type}`);
    }
    assertEquals((await client.read(0, 512)).data, new Uint8Array(512));
  });

  Deno.test(`V41: each undefined flag is EINVAL with every command, and changes nothing (extended: ${extended})`, async () => {
    const disk = new MemoryDisk(4096);
    await using served = serveDisk(disk);
    const client = await served.client({ extended });
    for (let bit = 0; bit < 16; bit++) {
      const flags = 1 << bit;
      if ((knownFlags & flags) !== 0) continue;
      for (const type of commands) {
        if (type === Command.DISC) continue;
        const payload = type === Command.WRITE ? new Uint8Array(512).fill(1) : undefined;
        const { error } = await client.ask({ type, flags, length: 512 }, payload);
        assertEquals(error, WireErrno.EINVAL, `flag ${flags} with command ${type}`);
      }
    }
    assertEquals((await client.read(0, 4096)).data, new Uint8Array(4096));
  });
}
