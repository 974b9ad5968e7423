/** Who may have an image at the same time: we and we, we and QEMU's programs. */

import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { DeviceError } from "../../src/device/device_error.ts";
import { openFileDisk } from "../../src/device/open_file_disk.ts";
import { peerTest, startQemuNbd } from "../interop/peers.ts";
import { run, temporaryDirectory } from "../testing/process.ts";
import { makeSparse } from "../testing/storage.ts";

/** A directory with an empty image in it. */
function image() {
  const directory = temporaryDirectory();
  const path = directory.file("disk.img");
  makeSparse(path, 1 << 20);
  return { path, directory, [Symbol.dispose]: () => directory[Symbol.dispose]() };
}

async function refusal(path: string, options: { readOnly?: boolean } = {}): Promise<string> {
  const error = await assertRejects(() => openFileDisk(path, options), DeviceError);
  assertEquals([error.errno, error.operation], ["EBUSY", "open"]);
  return error.message;
}

Deno.test("openFileDisk() lets a writer be alone, and readers be many", async () => {
  using opened = image();
  const { path } = opened;
  const writer = await openFileDisk(path);
  for (const readOnly of [false, true]) {
    const message = await refusal(path, { readOnly });
    assertStringIncludes(message, `${path} is in use by`);
    assertStringIncludes(message, `process ${Deno.pid}`);
  }
  await writer.close();
  const readers = [
    await openFileDisk(path, { readOnly: true }),
    await openFileDisk(path, { readOnly: true }),
  ];
  await refusal(path);
  await readers[0].close();
  await refusal(path);
  await readers[1].close();
  await (await openFileDisk(path)).close();
});

Deno.test("openFileDisk() that was refused leaves no lock behind", async () => {
  using opened = image();
  const { path } = opened;
  const reader = await openFileDisk(path, { readOnly: true });
  await refusal(path);
  await (await openFileDisk(path, { readOnly: true })).close();
  await reader.close();
});

Deno.test("openFileDisk() knows an image by what it is, not by its name", async () => {
  using opened = image();
  const { path, directory } = opened;
  Deno.linkSync(path, directory.file("hard"));
  Deno.symlinkSync(path, directory.file("soft"));
  const writer = await openFileDisk(path);
  for (const name of ["hard", "soft"]) await refusal(directory.file(name));
  await writer.close();
});

peerTest("an image that QEMU serves is refused, with its process", ["qemu-nbd"], async () => {
  using opened = image();
  const { path } = opened;
  {
    await using server = await startQemuNbd(path);
    for (const readOnly of [false, true]) {
      assertStringIncludes(await refusal(path, { readOnly }), `in use by qemu-nbd, process ${server.pid}`);
    }
  }
  await using server = await startQemuNbd(path, ["--read-only"]);
  assertStringIncludes(await refusal(path), `in use by qemu-nbd, process ${server.pid}`);
  const reader = await openFileDisk(path, { readOnly: true });
  await reader.close();
});

peerTest("QEMU is refused an image that we have", ["qemu-io", "qemu-img"], async () => {
  using opened = image();
  const { path } = opened;
  const qemuIo = (...options: string[]) => run("qemu-io", ["-f", "raw", ...options, path], { code: "any" });
  const write = ["-c", "write -P 7 0 4096"];
  const read = ["-r", "-c", "read 0 4096"];
  const writer = await openFileDisk(path);
  for (const options of [write, read]) {
    const { code, stderr } = await qemuIo(...options);
    assertEquals(code, 1);
    assertStringIncludes(stderr, "lock");
  }
  const convert = ["convert", "-f", "raw", "-O", "raw", path, opened.directory.file("copy")];
  assertStringIncludes((await run("qemu-img", convert, { code: 1 })).stderr, "lock");
  await writer.close();
  const reader = await openFileDisk(path, { readOnly: true });
  assertEquals((await qemuIo(...write)).code, 1);
  assertEquals((await qemuIo(...read)).code, 0);
  await run("qemu-img", convert);
  await reader.close();
  assertEquals((await qemuIo(...write)).code, 0);
});
