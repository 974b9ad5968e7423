import { openFileDisk } from "../../src/device/open_file_disk.ts";
import { conformance } from "./conformance.ts";

async function temporaryFile(sizeBytes: number) {
  const directory = await Deno.makeTempDir({ prefix: "denbd_file_" });
  const path = `${directory}/disk.img`;
  await Deno.writeFile(path, new Uint8Array());
  await Deno.truncate(path, sizeBytes);
  return { path, [Symbol.asyncDispose]: () => Deno.remove(directory, { recursive: true }) };
}

conformance("FileDisk", {
  async open(sizeBytes) {
    const file = await temporaryFile(sizeBytes);
    const disk = await openFileDisk(file.path);
    return {
      disk,
      async [Symbol.asyncDispose]() {
        await disk.close();
        await file[Symbol.asyncDispose]();
      },
    };
  },
});
