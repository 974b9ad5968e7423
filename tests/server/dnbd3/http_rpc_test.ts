import { assertEquals } from "@std/assert";
import { readRpcAcl } from "../../../src/config/rpc_acl.ts";
import { HttpRpc } from "../../../src/server/dnbd3/http_rpc.ts";
import { serverFacts } from "../../../src/server/dnbd3/server_facts.ts";
import type { RawImageClient } from "../../testing/raw_image_client.ts";
import { Fixture } from "./fixture.ts";
import { patternDisk } from "./memory_store.ts";

/** A server that answers HTTP, with this access list. */
function setUp(acl = ""): Fixture {
  const list = readRpcAcl(acl, { file: "rpc.acl", warn: () => {} });
  const fixture: Fixture = new Fixture({ http: (connection, head) => rpc.serve(connection, head, 1000) });
  const sources = {
    server: fixture.server,
    table: fixture.table,
    version: "1",
    clock: fixture.clock,
    startedAtMs: 0,
    logText: () => null,
    configText: () => "[dnbd3]\nlistenPort=5003\n",
    space: () => Promise.resolve({ totalBytes: 1000, freeBytes: 10 }),
    wallMs: () => 5000,
  };
  const rpc = new HttpRpc({
    permissionsOf: (address) => list.permissionsOf(address),
    facts: (group) => serverFacts(sources, group),
    runId: -8878812881520869191n,
    mapOf: (id) => {
      const image = fixture.table.list().find((image) => image.id === id);
      return image === undefined ? null : image.map?.encode() ?? "complete";
    },
  }, fixture.clock);
  return fixture;
}

async function ask(
  client: RawImageClient,
  path: string,
  more = "",
  host = "dnbd3",
): Promise<{ head: string; body: string }> {
  await client.send(new TextEncoder().encode(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`));
  let head = "";
  while (!head.endsWith("\r\n\r\n")) head += String.fromCharCode(...(await client.receive(1))!);
  const length = Number(/Content-Length: (\d+)/.exec(head)![1]);
  const body = length === 0 ? new Uint8Array() : (await client.receive(length))!;
  return { head, body: String.fromCharCode(...body) };
}

Deno.test("S10: each group has its keys, in dnbd3's order, and runId is always there", async () => {
  await using fixture = setUp();
  await fixture.table.scan();
  const reader = await fixture.open("multi", 7);
  await reader.block(0, 4096);
  const client = fixture.connect();
  const runId = '"runId": -8878812881520869191';
  assertEquals((await ask(client, "/query?q=nonsense")).body, `{${runId}}`);
  assertEquals(
    (await ask(client, "/query?q=stats")).body,
    `{"bytesReceived": 0, "bytesSent": 4096, "clientCount": 1, "serverCount": 0, "uptime": 0, ${runId}}`,
  );
  assertEquals(
    (await ask(client, "/query?q=space&q=version")).body,
    `{${runId}, "version": "denbd 1", "build": "Release", "spaceTotal": 1000, "spaceFree": 10}`,
  );
  const id = fixture.table.known("multi", 7)!.id;
  assertEquals(
    (await ask(client, "/query?q=clients")).body,
    `{${runId}, "clients": [{"address": "127.0.0.1:1", "imageId": ${id}, "isServer": 0, "bytesSent": 4096}]}`,
  );
  const images = (await ask(client, "/query?q=images")).body;
  assertEquals(
    /\{[^{}]*"name": "test"[^{}]*\}/.exec(images)![0],
    `{"id": ${fixture.table.known("test", 1)!.id}, "name": "test", "wwn": 2310065147951306774, "rid": 1, ` +
      '"users": 0, "complete": 100, "idle": 5, "size": 67108864, "problems": 0}',
  );
  const altServers = (await ask(client, "/query?q=altservers")).body;
  assertEquals(
    altServers.includes(
      '{"comment": "v6", "host": "[2001:db8::17]:6000", "rtt": [0, 0, 0, 0, 0], "isPrivate": false, ' +
        '"isClientOnly": false, "numFails": 0}',
    ),
    true,
    altServers,
  );
  assertEquals(
    JSON.parse((await ask(client, "/query?q=config&q=logfile")).body).config.slice(0, 7),
    "[dnbd3]",
  );
});

Deno.test("S10: other paths are not found, and the connection goes on", async () => {
  await using fixture = setUp();
  const client = fixture.connect();
  const { head, body } = await ask(client, "/nope/and/some/more");
  assertEquals([head.split("\r\n")[0], body], ["HTTP/1.1 404 Not found", "Nothing"]);
  assertEquals((await ask(client, "/query")).head.split("\r\n")[0], "HTTP/1.1 200 OK");
});

Deno.test("V16: by which name the server is asked does not matter, only who asks", async () => {
  const hosts = ["dnbd3", "boot1.example:5003", "127.0.0.1:5003", "localhost"];
  for (const [acl, status] of [["127.0.0.1 STATS", "200 OK"], ["192.0.2.1 ALL", "403 Forbidden"]]) {
    for (const host of hosts) {
      await using fixture = setUp(acl);
      const { head } = await ask(fixture.connect(), "/query?q=stats", "", host);
      assertEquals(head.split("\r\n")[0], `HTTP/1.1 ${status}`, host);
    }
  }
});

Deno.test("S10: a client that says so is disconnected after its answer", async () => {
  await using fixture = setUp();
  const client = fixture.connect();
  const { head } = await ask(client, "/query?q=stats", "Connection: close\r\n");
  assertEquals(head.includes("\r\nConnection: Close\r\n"), true);
  assertEquals(await client.receive(1), null);
});

Deno.test("S10: cachemap gives the bytes of the map, one byte FF for a complete image", async () => {
  await using fixture = setUp();
  fixture.store.put("part.r1", patternDisk(20 * 4096));
  fixture.store.put("part.r1.map", Uint8Array.of(0x0f, 0x80, 0xff));
  await fixture.table.scan();
  const client = fixture.connect();
  const id = (name: string) => fixture.table.known(name, 1)!.id;
  assertEquals((await ask(client, `/cachemap?id=${id("test")}`)).body, "\xff");
  assertEquals((await ask(client, `/cachemap?id=${id("part")}`)).body, "\x0f\x80\x0f");
  assertEquals((await ask(client, "/cachemap?id=99999")).head.split("\r\n")[0], "HTTP/1.1 404 Not found");
  assertEquals((await ask(client, "/cachemap?id=test")).head.split("\r\n")[0], "HTTP/1.1 400 Bad Request");
});

Deno.test("S10: rights of rpc.acl are asked for each group", async () => {
  await using fixture = setUp("127.0.0.1 STATS\n");
  const client = fixture.connect();
  assertEquals((await ask(client, "/query?q=stats")).head.split("\r\n")[0], "HTTP/1.1 200 OK");
  for (const path of ["/query?q=images", "/query?q=clients", "/query?q=config&q=stats", "/cachemap?id=1"]) {
    assertEquals((await ask(client, path)).head.split("\r\n")[0], "HTTP/1.1 403 Forbidden", path);
  }
});

Deno.test("S10: who has no right at all is told so and disconnected", async () => {
  await using fixture = setUp("10.0.0.1 ALL\n");
  const client = fixture.connect();
  const { head, body } = await ask(client, "/query?q=stats");
  assertEquals([head.split("\r\n")[0], body], ["HTTP/1.1 403 Forbidden", "Access denied"]);
  assertEquals(await client.receive(1), null);
});

Deno.test("S10: what is no request is refused, and a head that does not end is cut off", async () => {
  await using fixture = setUp();
  const send = async (text: string) => {
    const client = fixture.connect();
    await client.send(new TextEncoder().encode(text));
    return client;
  };
  const malformed = await send("GET /query?q=stats HTTP/9.9\r\n\r\n");
  assertEquals(new TextDecoder().decode((await malformed.receive(24))!), "HTTP/1.1 400 Bad Request");
  const endless = await send("GET /" + "x".repeat(4000));
  assertEquals(await endless.receive(1), null);
  const slow = await send("GET /query?q=stats HTTP/1.1\r\n");
  await fixture.settle();
  fixture.clock.advance(1000);
  assertEquals(await slow.receive(1), null);
});

Deno.test("rule 19: a quarantined image shows in the list", async () => {
  await using fixture = setUp();
  await fixture.table.find("test", 1);
  await fixture.store.overwrite("test.r1.crc", 0, Uint8Array.of(0));
  fixture.store.put("test.r1", patternDisk(67108864));
  await fixture.table.find("test", 1);
  const { body } = await ask(fixture.connect(), "/query?q=images");
  assertEquals(JSON.parse(body).images[0].problems, 4);
});
