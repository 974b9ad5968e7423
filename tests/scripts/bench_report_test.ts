import { assertAlmostEquals, assertEquals } from "@std/assert";
import type { Cell } from "../../scripts/bench/cells.ts";
import { formatReport, formatSummary, geometricMean, quantile } from "../../scripts/bench/report.ts";

/** A cell that nobody measures. */
function cell(name: string, largerIsBetter: boolean): Cell {
  return {
    name,
    title: name,
    unit: "k/s",
    largerIsBetter,
    image: "dense",
    inMean: true,
    measure: () => Promise.reject(new Error("not run")),
  };
}

function measured(...values: number[]) {
  return values.map((value) => ({ value }));
}

/** The cells of a report's table, row by row. */
function rowsOf(report: string): string[][] {
  return report.split("\n").map((line) => line.split("|").map((text) => text.trim()).slice(1, -1));
}

Deno.test("quantile() lies between the neighbours", { permissions: "none" }, () => {
  assertEquals(quantile([3, 1, 2], 0.5), 2);
  assertEquals(quantile([4, 1, 2, 3], 0.5), 2.5);
  assertEquals(quantile([10, 20], 0), 10);
  assertEquals(quantile([10, 20], 1), 20);
  assertAlmostEquals(quantile([0, 10], 0.1), 1);
});

Deno.test("geometricMean() makes twice and half as fast the same as equal", { permissions: "none" }, () => {
  assertAlmostEquals(geometricMean([2, 0.5]), 1);
});

Deno.test(
  "a report compares with the best peer's median, whichever way is better",
  { permissions: "none" },
  () => {
    const report = formatReport({
      transport: "tcp",
      cells: [cell("speed", true), cell("delay", false)],
      servers: [{ name: "us", ours: true }, { name: "a", ours: false }, { name: "b", ours: false }],
      results: new Map([
        ["speed", new Map([["us", measured(30)], ["a", measured(5, 10, 900)], ["b", measured(20)]])],
        ["delay", new Map([["us", measured(40)], ["a", measured(10)], ["b", measured(20)]])],
      ]),
      peakMemory: new Map([["us", 80e6]]),
    });
    const rows = rowsOf(report);
    assertEquals(rows[2], [
      "speed",
      "k/s",
      "30.0/30.0/30.0",
      "5.0/10.0/900",
      "20.0/20.0/20.0",
      "1.50",
      "1.50",
    ]);
    assertEquals(rows[3].slice(-2), ["0.25", "0.25"]);
    assertEquals(rows[4].slice(0, 3), ["peak memory", "MB", "80"]);
    assertEquals(rows[5].slice(-2), ["0.61", ""]);
  },
);

Deno.test("where it is told against whom, a report compares each of ours with each of these", {
  permissions: "none",
}, () => {
  const report = formatReport({
    transport: "unix",
    cells: [cell("speed", true), cell("delay", false)],
    servers: [{ name: "direct", ours: false }, { name: "proxy", ours: true }, { name: "peer", ours: false }],
    against: ["direct", "peer"],
    results: new Map([
      ["speed", new Map([["direct", measured(40)], ["proxy", measured(1, 30, 90)], ["peer", measured(20)]])],
      ["delay", new Map([["direct", measured(10)], ["proxy", measured(40)], ["peer", []]])],
    ]),
    peakMemory: new Map([["proxy", 80e6]]),
  });
  const rows = rowsOf(report);
  assertEquals(rows[0].slice(-2), ["proxy ÷ direct", "proxy ÷ peer"]);
  assertEquals(rows[2].slice(-2), ["0.75", "1.50"]);
  assertEquals(rows[3].slice(-2), ["0.25", ""]);
  assertEquals(rows[4].slice(0, 4), ["peak memory", "MB", "", "80"]);
});

Deno.test("a summary holds the medians of one transport, and the ratios and means of all", {
  permissions: "none",
}, () => {
  const speed: Cell = { ...cell("speed", true), title: "the speed", unit: "MB/s" };
  const delay: Cell = { ...cell("delay", false), title: "the delay", unit: "µs", inMean: false };
  const report = (transport: string, medianSpeed: number) => ({
    transport,
    cells: [speed, delay],
    servers: [{ name: "us", ours: true }, { name: "a", ours: false }, { name: "b", ours: false }],
    results: new Map([
      ["speed", new Map([["us", measured(1, medianSpeed, 900)], ["a", measured(10)], ["b", measured(20)]])],
      ["delay", new Map([["us", measured(40)], ["a", measured(10)], ["b", []]])],
    ]),
    peakMemory: new Map(),
  });
  const rows = formatSummary([report("tcp", 30), report("unix", 10)]).split("\n")
    .map((line) => line.split("|").map((text) => text.trim()).slice(1, -1));
  assertEquals(rows[0], ["load", "us", "a", "b", "÷ best peer, tcp", "÷ best peer, unix"]);
  assertEquals(rows[2], ["the speed, MB/s", "30.0", "10.0", "20.0", "1.50", "0.50"]);
  assertEquals(rows[3], ["the delay, µs", "40.0", "10.0", "", "0.25", "0.25"]);
  assertEquals(rows[4], ["geometric mean", "", "", "", "1.50", "0.50"]);
});
