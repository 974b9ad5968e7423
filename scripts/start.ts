/**
 * `deno task start`: makes a demo disk, serves it on 127.0.0.1:10809, and says what to try.
 *
 * The disk is gone when it ends. `--port N` takes another port.
 */

import { parseArgs } from "@std/cli/parse-args";
import { findProgram, run, temporaryDirectory } from "../tests/testing/process.ts";

const permissions = [
  "--allow-net",
  "--allow-read",
  "--allow-write",
  "--allow-env",
  "--allow-sys",
  "--allow-ffi",
];
const { port = "10809" } = parseArgs(Deno.args, { string: ["port"] });

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(text));
}

/** A sparse image of 1 GiB with a few words at its beginning. */
function makeTextDisk(path: string): void {
  Deno.writeTextFileSync(path, "Hello from denbd. The rest of this disk is a hole.\n");
  Deno.truncateSync(path, 2 ** 30);
}

/** An ext4 file system with this project's documents, where the tools for it are installed. */
async function makeFileSystem(path: string): Promise<boolean> {
  const mke2fs = findProgram("mke2fs");
  if (mke2fs === null) return false;
  using tree = temporaryDirectory();
  for (const name of ["README.md", "LICENSE"]) {
    Deno.copyFileSync(new URL(`../${name}`, import.meta.url), tree.file(name));
  }
  Deno.writeFileSync(path, new Uint8Array());
  Deno.truncateSync(path, 64 * 2 ** 20);
  await run(mke2fs, ["-q", "-t", "ext4", "-d", tree.path, path]);
  return true;
}

function whatToTry(withFiles: boolean): string {
  const host = `127.0.0.1${port === "10809" ? "" : `:${port}`}`;
  const denbd = "npx -y deno@2.9.6 task -q denbd";
  const tries = [
    [`nbdinfo nbd://${host}`, "what it offers (from libnbd)"],
    [`${denbd} read --size 51 nbd://${host}/demo`, "its first 51 bytes"],
    [`echo Hi | ${denbd} write nbd://${host}/demo`, "other words in their place"],
    [`nbdcopy nbd://${host}/demo copy.img`, "all of it, holes kept"],
    ...(withFiles
      ? [[`qemu-img convert -O qcow2 nbd://${host}/files files.qcow2`, "another format (from QEMU)"]]
      : []),
  ];
  const lines = [
    "",
    `Served: nbd://${host}/demo, a disk with a few words${
      withFiles ? `, and nbd://${host}/files, an ext4 file system` : ""
    }.`,
    "In another terminal, try",
    "",
    ...tries.flatMap(([command, what]) => [`  # ${what}`, `  ${command}`]),
  ];
  return [...lines, "", "Ctrl-C ends it and removes the disks.", ""].join("\n");
}

using directory = temporaryDirectory();
const demo = directory.file("demo.img");
const files = directory.file("files.img");
makeTextDisk(demo);
const withFiles = await makeFileSystem(files);
const main = new URL("../main.ts", import.meta.url).pathname;
const exports = [
  `demo=${demo},default,description=A few words and a large hole`,
  ...(withFiles ? [`files=${files},description=An ext4 file system`] : []),
];
const child = new Deno.Command(Deno.execPath(), {
  args: [
    "run",
    ...permissions,
    main,
    "serve",
    "--verbose",
    "--state-dir",
    directory.path,
    "--port",
    port,
    ...exports.flatMap((text) => ["--export", text]),
  ],
  stdin: "null",
  stderr: "piped",
}).spawn();

// The terminal's Ctrl-C reaches the server too; it ends first, and we after it.
Deno.addSignalListener("SIGINT", () => {});
Deno.addSignalListener("SIGTERM", () => child.kill("SIGTERM"));

let rest = "";
for await (const part of child.stderr.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + part).split("\n");
  rest = lines.pop()!;
  for (const line of lines) {
    Deno.stderr.writeSync(new TextEncoder().encode(line + "\n"));
    if (/: serving \d+ exports?/.test(line)) print(whatToTry(withFiles));
  }
}
const { code } = await child.status;
if (code === 1) {
  print("It did not start: is another server running? `deno task start --port 20809` takes another port.\n");
}
directory[Symbol.dispose]();
Deno.exit(code);
