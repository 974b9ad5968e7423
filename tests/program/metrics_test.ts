/** The numbers that the program tells about itself, beside what its clients did. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { peerTest } from "../interop/peers.ts";
import { freePort, run, temporaryDirectory } from "../testing/process.ts";
import { denbd, serve } from "./program.ts";

const MIB = 1024 * 1024;

/** Asks over HTTP on a Unix socket. */
async function get(
  socket: string,
  path: string,
  host = "localhost",
): Promise<{ status: string; head: string; body: string }> {
  using connection = await Deno.connect({ transport: "unix", path: socket });
  const request = `GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`;
  await connection.write(new TextEncoder().encode(request));
  const text = await new Response(connection.readable).text();
  const end = text.indexOf("\r\n\r\n");
  return { status: text.slice(9, text.indexOf("\r\n")), head: text.slice(0, end), body: text.slice(end + 4) };
}

/** The value of one sample. */
async function metric(socket: string, sample: string): Promise<number> {
  const { body } = await get(socket, "/metrics");
  const line = body.split("\n").find((each) => each.startsWith(`${sample} `));
  if (line === undefined) throw new Error(`there is no ${sample} in\n${body}`);
  return Number(line.slice(sample.length));
}

peerTest("/metrics counts what fio and nbdcopy did", ["fio", "nbdcopy"], async () => {
  using directory = temporaryDirectory();
  const [image, http, copied] = ["disk.img", "http.sock", "copied"].map((name) => directory.file(name));
  Deno.writeFileSync(image, crypto.getRandomValues(new Uint8Array(65536)));
  Deno.truncateSync(image, 8 * MIB);
  await using server = await serve(["--file", image, "--name", "disk", "--http", `unix:${http}`]);
  const counted = (name: string) => metric(http, `denbd_export_${name}{export="disk"}`);

  const report = await run("fio", [
    "--name=job",
    "--ioengine=nbd",
    `--uri=${server.uri("disk")}`,
    "--rw=randrw",
    "--bs=4k",
    "--iodepth=8",
    "--number_ios=500",
    "--randseed=7",
    "--output-format=json",
  ]);
  const { jobs: [{ read, write }] } = JSON.parse(report.stdout.slice(report.stdout.indexOf("{")));
  assertEquals(await counted("read_bytes_total"), read.io_bytes);
  assertEquals(await counted("written_bytes_total"), write.io_bytes);
  assertEquals(
    await metric(http, 'denbd_export_request_duration_seconds_count{export="disk",operation="read"}'),
    read.total_ios,
  );
  assertEquals(await counted("errors_total"), 0);

  await run("nbdcopy", ["--no-extents", server.uri("disk"), copied]);
  assertEquals(await counted("read_bytes_total"), read.io_bytes + 8 * MIB);
  assertEquals(await counted("clients"), 0);
});

Deno.test("/healthz says that all is fine; what is not there is not found", async () => {
  using directory = temporaryDirectory();
  const [image, http, sock] = ["disk.img", "http.sock", "control"].map((name) => directory.file(name));
  Deno.writeFileSync(image, new Uint8Array(4096));
  await using server = await serve(["--file", image, "--http", http, "--sock", sock]);
  const health = await get(http, "/healthz");
  assertEquals([health.status, health.body], ["200 OK", "fine: 1 export, 0 clients\n"]);
  const metrics = await get(http, "/metrics");
  assertStringIncludes(metrics.head, "Content-Type: text/plain; version=0.0.4; charset=utf-8");
  assertStringIncludes(metrics.body, "denbd_access_open 1\n");
  assertEquals(JSON.parse((await get(http, "/status")).body).pid, server.pid);
  assertEquals((await get(http, "/")).status, "404 Not Found");
  assertEquals(Deno.statSync(http).mode! & 0o777, 0o600);
  assertEquals((await denbd(["check", "--sock", sock])).stdout, "fine: 1 export, 0 clients\n");
  assertEquals(await server.stop(), 0);
});

/** Asks over HTTP, by the name that a browser or Prometheus was given. @returns The status. */
async function ask(port: number, path: string, host: string | null): Promise<string> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  const header = host === null ? "" : `Host: ${host}\r\n`;
  await connection.write(
    new TextEncoder().encode(`GET ${path} HTTP/1.1\r\n${header}Connection: close\r\n\r\n`),
  );
  const text = await new Response(connection.readable).text();
  return text.slice(9, text.indexOf("\r\n"));
}

Deno.test("a page from elsewhere whose name means this machine is told nothing", async () => {
  using directory = temporaryDirectory();
  const [image, sock] = ["disk.img", "http.sock"].map((name) => directory.file(name));
  Deno.writeFileSync(image, new Uint8Array(4096));
  const port = freePort();
  {
    await using _server = await serve(["--file", image, "--http", `${port}`]);
    for (const path of ["/metrics", "/healthz", "/status"]) {
      for (
        const host of ["127.0.0.1", `127.0.0.1:${port}`, "localhost", `LocalHost:${port}`, `[::1]:${port}`]
      ) {
        assertEquals(await ask(port, path, host), "200 OK", host);
      }
      assertEquals(await ask(port, path, null), "200 OK");
      const others = [
        "evil.example",
        `evil.example:${port}`,
        "localhost.evil.example",
        "127.0.0.1.evil.example",
      ];
      for (const host of [...others, "", "[127.0.0.1]", "::1", "localhost:x"]) {
        assertEquals(await ask(port, path, host), "421 Misdirected Request", host);
      }
    }
  }
  // No page comes through a Unix socket, and what is asked for there means nothing.
  await using _server = await serve(["--file", image, "--http", `unix:${sock}`]);
  const { status } = await get(sock, "/healthz", "disk.example");
  assertEquals(status, "200 OK");
});

Deno.test("the status is not told to other machines", async () => {
  const { stderr } = await denbd(["serve", "--file", "/dev/null", "--http", "0.0.0.0:9809"], { code: 2 });
  assertMatch(stderr, /--http: "0\.0\.0\.0:9809" can be reached from outside/);
});
