/**
 * What holds for a disk at the far end when something breaks: the table of the README, a world for each cell, and a
 * bug that would break it.
 */
import {
  answersEarly,
  type Bug,
  forgetsReplay,
  hidesRestart,
  replaysAlways,
  reservesForAll,
  skipsResend,
} from "./bugs.ts";
import type { World } from "./world.ts";

export type Holds =
  /** All that was acknowledged stays, and no request fails. */
  | "kept"
  /** If something that was not flushed may be lost, the next flush fails. */
  | "told"
  /** Nobody else may write while the export is reserved; who lost his reservation is told by the next flush. */
  | "refused"
  /** Others are let in. What they flushed is not undone. */
  | "let in"
  /** Somebody's flushed writes may be undone. */
  | "not protected";

export interface Cell {
  readonly row: "link cut" | "server killed" | "power lost" | "second writer";
  readonly promise: Holds;
  readonly world: World;
  /** `null` where nothing is promised. */
  readonly bug: Bug | null;
}

type Column = Pick<World, "server" | "writer">;

const reserved: Column = { server: "denbd", writer: "reserved" };
const shared: Column = { server: "denbd", writer: "shared" };
const soleStock: Column = { server: "stock", writer: "sole" };
const sharedStock: Column = { server: "stock", writer: "shared" };

const TROUBLES = {
  "link cut": ["cut", "cut", "stall", "vanish", "slow"],
  "server killed": ["kill", "kill", "slow"],
  "power lost": ["power", "power", "slow"],
  "second writer": ["rival", "rival", "power", "cut"],
} as const satisfies Record<Cell["row"], World["troubles"]>;

export const cells: readonly Cell[] = [
  cell("link cut", reserved, "kept", skipsResend),
  cell("link cut", shared, "kept", skipsResend),
  cell("link cut", soleStock, "kept", skipsResend),
  cell("link cut", sharedStock, "told", skipsResend),
  cell("server killed", reserved, "kept", answersEarly),
  cell("server killed", shared, "told", answersEarly),
  cell("server killed", soleStock, "kept", answersEarly),
  cell("server killed", sharedStock, "told", answersEarly),
  cell("power lost", reserved, "kept", forgetsReplay),
  cell("power lost", shared, "told", hidesRestart),
  cell("power lost", soleStock, "kept", forgetsReplay),
  cell("power lost", sharedStock, "told", hidesRestart),
  cell("second writer", reserved, "refused", reservesForAll),
  cell("second writer", shared, "let in", replaysAlways),
  cell("second writer", soleStock, "not protected", null),
  cell("second writer", sharedStock, "let in", replaysAlways),
];

function cell(row: Cell["row"], { server, writer }: Column, promise: Holds, bug: Bug | null): Cell {
  return {
    row,
    promise,
    bug,
    world: { name: `${row}, ${server}, ${writer}`, server, writer, troubles: TROUBLES[row] },
  };
}
