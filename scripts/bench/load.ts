/**
 * Loads a disk for a while and prints how many requests a second there were: `load.ts URI read|write BYTES DEPTH SECONDS`.
 *
 * What this client does for a request is the same for all servers. Blocks of 64 KiB and more come one after the other,
 * shorter ones at random. It warms up for a second first, long enough for a just-in-time compiler to have seen the loop.
 */
import { parseDiskLocator } from "../../src/base/uri.ts";
import { openDisk } from "../../src/open_disk.ts";

const WARM_UP_MS = 1000;

const [uri, direction, ...numbers] = Deno.args;
const [blockBytes, depth, seconds] = numbers.map(Number);
const disk = await openDisk(parseDiskLocator(uri), { readOnly: direction === "read" });
const blockCount = Math.floor(disk.sizeBytes / blockBytes);
const isSequential = blockBytes >= 64 * 1024;
let next = 0;
let done = 0;
let isOver = false;

async function requestOn(): Promise<void> {
  const block = crypto.getRandomValues(new Uint8Array(Math.min(blockBytes, 65_536)));
  const bytes = Uint8Array.from({ length: blockBytes }, (_, index) => block[index % block.length]);
  while (!isOver) {
    const index = isSequential ? next++ % blockCount : Math.floor(Math.random() * blockCount);
    if (direction === "read") await disk.read(index * blockBytes, bytes);
    else await disk.write(index * blockBytes, bytes);
    done++;
  }
}

const loading = Promise.all(Array.from({ length: depth }, requestOn));
await new Promise((resolve) => setTimeout(resolve, WARM_UP_MS));
const before = done;
const startMs = performance.now();
await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const perSecond = (done - before) * 1000 / (performance.now() - startMs);
isOver = true;
await loading;
await disk.close();
Deno.stdout.writeSync(new TextEncoder().encode(`${perSecond}\n`));
