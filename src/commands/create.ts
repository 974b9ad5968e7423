import { absolutePath } from "../os/absolute_path.ts";
import { CopyDirectory } from "../server/dnbd3/copy_directory.ts";
import { isImageName, pathsOfImage } from "../server/dnbd3/image_name.ts";
import { CacheMap } from "../wire/dnbd3/cache_map.ts";
import { virtualSize } from "../wire/dnbd3/message.ts";
import { command } from "./command.ts";
import { UsageError } from "./usage_error.ts";

/** The map of a larger image would not fit into memory well; no common file system has larger files either. */
const IMAGE_BYTES_MAX = 16 * 1024 ** 4;

export const create = command({
  name: "create",
  summary: "Makes an empty image for a proxy to fill",
  usage: ["create --revision N --size SIZE BASE_PATH NAME"],
  description:
    `Makes the file of revision N of an image below the base path of an image server, and beside it a ` +
    `map that says that nothing of it is there yet, as dnbd3-server --create does. The size is rounded up to 4096 ` +
    `bytes, directories of NAME are made, and nothing that is there is touched.\n\n` +
    `A server with isProxy takes the image in at its next start, and fills it from other servers that have it when a client asks for it.`,
  positional: { name: "BASE_PATH NAME", help: "Where the images are; the name of the image", min: 2, max: 2 },
  options: {
    revision: { type: "integer", valueName: "N", min: 1, max: 65535, help: "Revision, from 1 to 65535" },
    size: { type: "size", valueName: "SIZE", min: 1, max: IMAGE_BYTES_MAX, help: "Size of the image" },
  },
  examples: [
    {
      text: "Make an image that is there to be filled",
      command: "denbd create --revision 3 --size 40G /srv/images lab/win10",
    },
  ],
  async run({ options, args, log, stdout }) {
    const [basePath, name] = args;
    const { revision, size } = options;
    if (revision === undefined) throw new UsageError("--revision is missing");
    if (size === undefined) throw new UsageError("--size is missing");
    if (!isImageName(name)) {
      throw new UsageError(`cannot make an image "${name}": that is no name that clients may ask for`);
    }
    if (!isDirectory(basePath)) {
      throw new Error(`cannot make an image in ${basePath}: there is no such directory`);
    }
    const store = new CopyDirectory(absolutePath(basePath), log);
    const [path] = pathsOfImage({ name, revision }, false);
    for (const taken of [path, `${path}.map`]) {
      if (store.identify(taken) !== null) {
        throw new Error(`cannot make ${basePath}/${path}: ${taken} is there`);
      }
    }
    const sizeBytes = virtualSize(size);
    // The map first: without one the image would count as complete.
    await store.writeSmall(`${path}.map`, new CacheMap(sizeBytes).encode());
    try {
      await store.create(path, sizeBytes, { sparse: true, ignoreAllocErrors: false });
    } catch (error) {
      await store.remove(`${path}.map`).catch(() => {});
      throw error;
    }
    await stdout.write(`${basePath}/${path}: ${sizeBytes} bytes, all of them missing\n`);
    return 0;
  },
});

function isDirectory(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}
