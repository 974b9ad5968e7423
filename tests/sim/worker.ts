/** Lives lives on another processor. */
import { type Batch, liveMany } from "./lives.ts";
import { worlds } from "./world.ts";

declare const self: {
  onmessage: ((event: MessageEvent<Batch & { readonly worlds: readonly string[] }>) => void) | null;
  postMessage(message: unknown): void;
};

self.onmessage = async ({ data }) => {
  const chosen = worlds.filter(({ name }) => data.worlds.includes(name));
  self.postMessage(await liveMany(chosen, data));
};
