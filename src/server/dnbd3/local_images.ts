/** What a server that is no proxy offers: the images of its table, as far as they are here. */
import type { Selection } from "../../wire/dnbd3/message.ts";
import type { Image } from "./image.ts";
import type { ImageTable } from "./image_table.ts";
import type { ImageTrouble } from "./reluctance.ts";
import type { ImageFinder } from "./server.ts";
import type { BlockSource } from "./session.ts";

export class LocalImages implements ImageFinder, BlockSource {
  readonly #table: ImageTable;
  readonly #onFirstUse: (image: Image) => void;
  readonly #used = new WeakSet<Image>();

  /** @param onFirstUse Told of each image when the first client gets it. */
  constructor(table: ImageTable, onFirstUse: (image: Image) => void = () => {}) {
    this.#table = table;
    this.#onFirstUse = onFirstUse;
  }

  async findFor({ name, revision }: Selection): Promise<Image | null> {
    const image = await this.#table.find(name, revision);
    if (image !== null && !this.#used.has(image)) {
      this.#used.add(image);
      this.#onFirstUse(image);
    }
    return image;
  }

  /** Nobody is asked for what is missing. */
  troubleOf(image: Image): ImageTrouble {
    return { write: false, queue: false, uplink: image.map !== null };
  }

  readBlock(image: Image, offset: number, into: Uint8Array): void | Promise<void> {
    return image.read(offset, into);
  }
}
