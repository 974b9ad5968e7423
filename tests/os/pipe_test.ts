import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { claimDescriptor } from "../../src/net/connection_descriptor.ts";
import { OpenFile } from "../../src/os/file_calls.ts";
import { libc } from "../../src/os/libc.ts";
import { OsError } from "../../src/os/os_error.ts";
import { Pipe, PipePool, UNSUPPORTED } from "../../src/os/pipe.ts";
import { BROKEN, isReadable, sendNow, WOULD_BLOCK } from "../../src/os/socket_calls.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";

const ignore = Deno.build.os !== "linux";
const random = randomFrom(7);
const soon = () => new Promise((resolve) => setTimeout(resolve, 0));

/** Two connected sockets of this machine, as descriptors. */
async function socketPair() {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const near = await Deno.connect({ hostname: "127.0.0.1", port: (listener.addr as Deno.NetAddr).port });
  const far = await listener.accept();
  const fd = claimDescriptor(far)!;
  return {
    near: claimDescriptor(near)!,
    far: fd,
    nearConn: near,
    farConn: far,
    /** Resolves when something can be read at the far end, be it the end. */
    async arrived() {
      while (!isReadable(fd)) await soon();
    },
    [Symbol.dispose]() {
      for (const each of [near, far, listener]) {
        try {
          each.close();
        } catch {
          // closed by the test
        }
      }
    },
  };
}

/** A file of zeroes. */
function openFile(sizeBytes: number, { readOnly = false } = {}) {
  const directory = temporaryDirectory();
  const path = directory.file("file");
  Deno.writeFileSync(path, new Uint8Array(sizeBytes));
  const file = OpenFile.open(libc()!, path, { readOnly });
  return {
    fd: file.fd,
    content: () => Deno.readFileSync(path),
    [Symbol.dispose]() {
      file.close();
      directory[Symbol.dispose]();
    },
  };
}

function openPipe() {
  const pipe = Pipe.open()!;
  return { pipe, [Symbol.dispose]: () => pipe.close() };
}

Deno.test({
  name: "what a socket received goes through a pipe into a file, at once or on the pool",
  ignore,
  async fn() {
    for (const onPool of [false, true]) {
      using sockets = await socketPair();
      using file = openFile(300_000);
      using opened = openPipe();
      const { pipe } = opened;
      const data = random.bytes(100_000);
      assertEquals(sendNow(sockets.near, data), data.length);
      while (pipe.heldBytes < data.length) {
        await sockets.arrived();
        assert(pipe.fill(sockets.far, data.length - pipe.heldBytes) > 0);
      }
      assertEquals(pipe.fill(sockets.far, 1), WOULD_BLOCK);
      // In two parts, neither of which ends with a page.
      if (onPool) await pipe.write(file.fd, 7, 33_333);
      else pipe.writeNow(file.fd, 7, 33_333);
      assertEquals(pipe.heldBytes, data.length - 33_333);
      if (onPool) await pipe.write(file.fd, 200_000, pipe.heldBytes);
      else pipe.writeNow(file.fd, 200_000, pipe.heldBytes);
      assertEquals(pipe.heldBytes, 0);
      const expected = new Uint8Array(300_000);
      expected.set(data.subarray(0, 33_333), 7);
      expected.set(data.subarray(33_333), 200_000);
      assertEquals(file.content(), expected);
    }
  },
});

Deno.test({
  name: "what a socket received goes through a pipe to another socket, as far as that takes it",
  ignore,
  async fn() {
    using from = await socketPair();
    using to = await socketPair();
    using opened = openPipe();
    const { pipe } = opened;
    const data = random.bytes(64 * 1024);
    let sent = 0;
    let count = 0;
    // Nobody reads at the far end until nothing more fits.
    while (count !== WOULD_BLOCK) {
      if (pipe.heldBytes === 0) {
        assertEquals(sendNow(from.near, data), data.length);
        while (pipe.heldBytes < data.length) {
          await from.arrived();
          assert(pipe.fill(from.far, data.length - pipe.heldBytes) > 0);
        }
      }
      count = pipe.send(to.near, pipe.heldBytes, sent % 2 === 0);
      if (count > 0) sent += count;
    }
    assert(pipe.heldBytes > 0);
    const received = new Uint8Array(sent);
    for (let at = 0; at < sent;) at += (await to.farConn.read(received.subarray(at)))!;
    assert(received.every((byte, index) => byte === data[index % data.length]));
    to.farConn.close();
    while (count !== BROKEN) {
      if (pipe.heldBytes === 0) pipe.put(data);
      count = pipe.send(to.near, pipe.heldBytes, false);
      await soon();
    }
  },
});

Deno.test({
  name: "a pipe tells the end of a stream, and takes no more than there is room for",
  ignore,
  async fn() {
    using sockets = await socketPair();
    using opened = openPipe();
    const { pipe } = opened;
    const data = random.bytes(2 * pipe.capacityBytes);
    assertEquals(pipe.put(data), pipe.capacityBytes);
    assertEquals(pipe.put(data), 0);
    sendNow(sockets.near, new Uint8Array([1, 2, 3]));
    await sockets.arrived();
    assertEquals(pipe.fill(sockets.far, 3), WOULD_BLOCK); // full
    const out = new Uint8Array(pipe.capacityBytes);
    pipe.take(out);
    assertEquals(out, data.subarray(0, out.length));
    sockets.nearConn.close();
    await sockets.arrived();
    assertEquals(pipe.fill(sockets.far, 10), 3);
    assertEquals(pipe.fill(sockets.far, 10), 0);
    assertEquals(pipe.heldBytes, 3);
  },
});

Deno.test({
  name: "bytes that cannot be written stay in the pipe",
  ignore,
  async fn() {
    using file = openFile(100, { readOnly: true });
    using opened = openPipe();
    const { pipe } = opened;
    const data = random.bytes(5000);
    pipe.put(data);
    assertThrows(() => pipe.writeNow(file.fd, 0, 5000), OsError, "EBADF");
    await assertRejects(() => pipe.write(file.fd, 0, 5000), OsError, "EBADF");
    assertEquals(pipe.heldBytes, 5000);
    const out = new Uint8Array(5000);
    pipe.take(out);
    assertEquals(out, data);
    // A file that is only read gives its bytes; a directory has none.
    const directory = libc()!.open(new TextEncoder().encode("/\0"), 0, 0);
    assertEquals(pipe.fill(directory, 10), UNSUPPORTED);
    libc()!.close(directory);
  },
});

Deno.test({
  name: "of a pool only so many pipes are taken, and none comes with what another left in it",
  ignore,
  fn() {
    const pool = new PipePool(2, 1);
    const [first, second] = [pool.take()!, pool.take()!];
    assertEquals(pool.take(), null);
    first.put(new Uint8Array(10));
    pool.give(first);
    const third = pool.take()!;
    assertEquals(third.heldBytes, 0);
    assert(third !== first);
    pool.give(third);
    pool.give(second); // more than are kept
    assert(pool.take() === third);
    pool.give(third);
    pool.clear();
  },
});
