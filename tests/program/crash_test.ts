/** What was flushed, or written with FUA, is there after kill -9 in the middle of more writes. */

import { assert, assertEquals } from "@std/assert";
import { dial } from "../../src/net/dial.ts";
import { Command, CommandFlag } from "../../src/wire/nbd/constants.ts";
import { randomFrom } from "../testing/random.ts";
import { RawClient } from "../testing/raw_client.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { serve } from "./program.ts";

const blockBytes = 4096;
const blocks = 256;
const rounds = 3;

/** A block that says which write made it. */
function block(number: number): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(blockBytes);
  const view = new DataView(data.buffer);
  for (let at = 0; at < blockBytes; at += 8) view.setFloat64(at, number);
  return data;
}

Deno.test("V16: kill -9 in the middle of writes: all that was flushed or FUA'd is there", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(blocks * blockBytes));
  const random = randomFrom();
  /** Per block: the last write known to be durable, and those after it, any of which may be there. */
  const durable = new Array<number>(blocks).fill(0);
  const possible = Array.from({ length: blocks }, () => new Set([0]));
  let writes = 0;

  for (let round = 0; round < rounds; round++) {
    await using server = await serve(["--file", image]);
    const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: server.port });
    const client = await RawClient.open(connection);
    for (let step = 0; step < 200; step++) {
      const index = random.below(blocks);
      const number = ++writes;
      possible[index].add(number);
      const fua = random.chance(0.1);
      const { error } = await client.write(index * blockBytes, block(number), fua ? CommandFlag.FUA : 0);
      assertEquals(error, 0);
      if (fua) {
        durable[index] = number;
        possible[index] = new Set([number]);
      }
      if (random.chance(0.05)) {
        assertEquals((await client.ask({ type: Command.FLUSH })).error, 0);
        for (let each = 0; each < blocks; each++) {
          const last = Math.max(...possible[each]);
          durable[each] = last;
          possible[each] = new Set([last]);
        }
      }
    }
    // Some that nobody waits for.
    for (let more = 0; more < 64; more++) {
      const index = random.below(blocks);
      possible[index].add(++writes);
      await client.send(
        { type: Command.WRITE, offset: index * blockBytes, length: blockBytes },
        block(writes),
      );
    }
    await server.stop("SIGKILL");
    connection.close();

    const seen = Deno.readFileSync(image);
    const view = new DataView(seen.buffer);
    for (let index = 0; index < blocks; index++) {
      const number = view.getFloat64(index * blockBytes);
      assert(
        possible[index].has(number),
        `seed ${random.seed}: block ${index} holds ${number}, durable was ${durable[index]}`,
      );
      assertEquals(
        seen.slice(index * blockBytes, (index + 1) * blockBytes),
        block(number),
        `block ${index} is torn`,
      );
      possible[index] = new Set([number]);
    }
  }
});
