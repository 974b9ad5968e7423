import type process from "node:process";

/**
 * A module of the runtime's Node layer, for what Deno itself does not have.
 *
 * Such a module is loaded where it is used first and never imported at the top of a file: whichever comes first brings
 * in a hundred others, which takes as long as the rest of the program's start.
 */
export const nodeModule: typeof process.getBuiltinModule = (name: string) =>
  globalThis.process.getBuiltinModule(name);
