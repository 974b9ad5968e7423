import { assert, assertEquals, assertMatch, assertNotEquals, assertRejects } from "@std/assert";
import { DeviceError } from "../../src/device/device_error.ts";
import { KeptSession } from "../../src/remote/kept_session.ts";
import { decodeSession, encodeSession } from "../../src/wire/nbd/denbd_context.ts";
import { temporaryDirectory } from "../testing/process.ts";

const SOURCE = "nbd://192.0.2.7/disk";

function fileIn(directory: string): string {
  const [name] = [...Deno.readDirSync(directory)].map(({ name }) => name).filter((name) =>
    name.endsWith(".session")
  );
  return `${directory}/${name}`;
}

Deno.test("a kept session has the same id after each start, and a generation above all that it had", async () => {
  using directory = temporaryDirectory();
  const state = directory.file("state");
  let last = 0;
  let first: string | undefined;
  for (let start = 0; start < 3; start++) {
    using kept = await KeptSession.open(state, SOURCE);
    for (let attempt = 0; attempt < 2; attempt++) {
      const { id, generation } = await kept.begin();
      assertEquals(id, first ??= id);
      assert(generation > last && Number.isSafeInteger(generation));
      // Lost connections raise it further.
      last = generation + 1_000_000;
      const name = { id, generation };
      assertEquals(decodeSession(encodeSession(name)), name);
    }
  }
  assertEquals(Deno.statSync(fileIn(state)).mode! & 0o777, 0o600);
  assertEquals(Deno.statSync(state).mode! & 0o777, 0o700);
  using other = await KeptSession.open(state, "nbd://192.0.2.7/other");
  assertNotEquals((await other.begin()).id, first);
});

Deno.test("a session that the server does not take is begun as another, which is kept", async () => {
  using directory = temporaryDirectory();
  let second;
  {
    using kept = await KeptSession.open(directory.path, SOURCE);
    const first = await kept.begin();
    second = await kept.begin(true);
    assertNotEquals(second.id, first.id);
  }
  using again = await KeptSession.open(directory.path, SOURCE);
  assertEquals((await again.begin()).id, second.id);
});

Deno.test("generations stay exact: after a million starts a session gets another id", async () => {
  using directory = temporaryDirectory();
  let id;
  {
    using kept = await KeptSession.open(directory.path, SOURCE);
    ({ id } = await kept.begin());
  }
  const file = fileIn(directory.path);
  Deno.writeTextFileSync(
    file,
    JSON.stringify({ ...JSON.parse(Deno.readTextFileSync(file)), beginnings: 2 ** 20 }),
  );
  using again = await KeptSession.open(directory.path, SOURCE);
  const { id: next, generation } = await again.begin();
  assertNotEquals(next, id);
  assertEquals(generation, 2 ** 32);
});

Deno.test("no two programs are the same session at the same time", async () => {
  using directory = temporaryDirectory();
  {
    using _first = await KeptSession.open(directory.path, SOURCE);
    await assertRejects(
      () => KeptSession.open(directory.path, SOURCE),
      DeviceError,
      "the session is in use by",
    );
  }
  using _second = await KeptSession.open(directory.path, SOURCE);
});

Deno.test("V56: a session file that is not understood is refused, with the reason, and stays as it is", async () => {
  using directory = temporaryDirectory();
  {
    using kept = await KeptSession.open(directory.path, SOURCE);
    await kept.begin();
  }
  const file = fileIn(directory.path);
  const text = Deno.readTextFileSync(file);
  for (
    const [from, to, why] of [
      [`"version":1`, `"version":2`, "it has version 2, this program knows version 1"],
      [`"beginnings":1`, `"beginnings":0`, "it is damaged"],
      ["denbd session", "grocery list", "it does not hold a session"],
      ["{", "", "it does not hold a session"],
    ]
  ) {
    const changed = text.replace(from, to);
    Deno.writeTextFileSync(file, changed);
    const error = await assertRejects(() => KeptSession.open(directory.path, SOURCE), DeviceError);
    assert(error.message.includes(`cannot use ${file}: ${why}`), error.message);
    assertEquals(Deno.readTextFileSync(file), changed);
  }
});

Deno.test("a session that cannot be written down, or looked for, is refused with the file and the reason", async () => {
  using directory = temporaryDirectory();
  using kept = await KeptSession.open(directory.path, SOURCE);
  await kept.begin();
  const file = fileIn(directory.path);
  // What is in the place of the draft cannot be removed.
  Deno.mkdirSync(`${file}.new/full`, { recursive: true });
  const error = await assertRejects(() => kept.begin(), DeviceError);
  assertMatch(error.message, new RegExp(`\\(cannot use ${file}: Directory not empty\\)$`));
  const elsewhere = await assertRejects(() => KeptSession.open(file, SOURCE), DeviceError);
  assertMatch(elsewhere.message, new RegExp(`\\(cannot use .*: ${file} is no directory\\)$`));
});
