import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { CookieTable } from "../../../src/remote/connection/cookie_table.ts";
import { Transaction } from "../../../src/remote/connection/nbd_transaction.ts";
import { Command } from "../../../src/wire/nbd/constants.ts";

const flush = () => new Transaction(Command.FLUSH, 0, 0, 0, null);

Deno.test("a request is found by its cookie until it is deleted", { permissions: "none" }, () => {
  const table = new CookieTable();
  const [one, other] = [flush(), flush()];
  const [first, second] = [table.add(one), table.add(other)];
  assertEquals([table.get(first), table.get(second), table.size], [one, other, 2]);
  table.delete(first);
  table.delete(first);
  assertEquals([table.get(first), table.get(second), table.size], [undefined, other, 1]);
  assertEquals(table.oldest, other);
});

Deno.test("a cookie that nobody has finds nothing", { permissions: "none" }, () => {
  const table = new CookieTable();
  const cookie = table.add(flush());
  for (const wrong of [0n, cookie + 64n, cookie + 2n ** 32n, cookie + 2n ** 63n, 2n ** 64n - 1n]) {
    assertEquals(table.get(wrong), undefined);
  }
});

Deno.test(
  "cookies rise, and none is given twice, while some requests stay for long",
  { permissions: "none" },
  () => {
    const table = new CookieTable();
    const known = new Map<bigint, Transaction>();
    let last = 0n;
    for (let i = 0; i < 4000; i++) {
      const transaction = flush();
      const cookie = table.add(transaction);
      assert(cookie > last);
      last = cookie;
      known.set(cookie, transaction);
      // Every fortieth stays for ever, the others until a few have come behind them.
      for (const [old] of [...known].slice(0, 3)) {
        if (old % 40n === 0n || known.size < 20) continue;
        assertStrictEquals(table.get(old), known.get(old));
        table.delete(old);
        known.delete(old);
      }
      if (i % 100 === 0) {
        assertEquals(table.size, known.size);
        assertStrictEquals(table.oldest, known.values().next().value);
      }
    }
    assert(known.size > 64);
    for (const [cookie, transaction] of known) assertStrictEquals(table.get(cookie), transaction);
    assert(table.values().every((each, at) => each === [...known.values()][at]));
    table.clear();
    assertEquals([table.size, table.oldest, table.values()], [0, null, []]);
  },
);

Deno.test(
  "the search for the oldest request passes over none that had left before the table was empty",
  { permissions: "none" },
  () => {
    const table = new CookieTable();
    for (let i = 0; i < 1000; i++) table.delete(table.add(flush()));
    const [first, second] = [flush(), flush()];
    const cookie = table.add(first);
    table.add(second);
    assertEquals(table.lowest, cookie);
    assertStrictEquals(table.oldest, first);
    table.delete(cookie);
    assertStrictEquals(table.oldest, second);
    assertEquals(table.lowest, cookie + 1n);
  },
);
