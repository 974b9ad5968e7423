import { assertEquals } from "@std/assert";
import { LinkedList } from "../../src/base/linked_list.ts";

Deno.test("values stand in the order in which they were added", { permissions: "none" }, () => {
  const list = new LinkedList<string>();
  const [a, b, c] = ["a", "b", "c"].map((value) => list.add(value));
  assertEquals([[...list], list.size], [["a", "b", "c"], 3]);
  list.remove(b);
  assertEquals([...list], ["a", "c"]);
  const d = list.add("d");
  list.remove(a);
  list.remove(d);
  assertEquals([[...list], list.size], [["c"], 1]);
  list.remove(c);
  assertEquals([[...list], list.size], [[], 0]);
  list.add("e");
  assertEquals([...list], ["e"]);
});

Deno.test("a value may be removed as it is met", { permissions: "none" }, () => {
  const list = new LinkedList<number>();
  const places = [1, 2, 3, 4].map((value) => list.add(value));
  const met: number[] = [];
  for (const value of list) {
    met.push(value);
    if (value !== 3) list.remove(places[value - 1]);
  }
  assertEquals([met, [...list]], [[1, 2, 3, 4], [3]]);
});
