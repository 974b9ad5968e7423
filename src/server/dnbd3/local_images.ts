/** What a server that is no proxy offers: the images of its table, as far as they are here. */
import type { Selection } from "../../wire/dnbd3/message.ts";
import type { Image } from "./image.ts";
import type { ImageTable } from "./image_table.ts";
import type { ImageFinder } from "./server.ts";
import type { BlockSource } from "./session.ts";

export class LocalImages implements ImageFinder, BlockSource {
  readonly #table: ImageTable;

  constructor(table: ImageTable) {
    this.#table = table;
  }

  findFor({ name, revision }: Selection): Promise<Image | null> {
    return this.#table.find(name, revision);
  }

  readBlock(image: Image, offset: number, into: Uint8Array): void | Promise<void> {
    return image.read(offset, into);
  }
}
