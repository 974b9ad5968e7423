/** What the files of a configuration directory say, all of them read and found good. */
import { ConfigError } from "../config/config_error.ts";
import { type ExportSettings, parseExportsConf } from "../config/exports_conf.ts";
import { parsePeersConf, type PeerSettings } from "../config/peers_conf.ts";
import { wantsDnbd3 } from "../config/server_conf.ts";
import { parseServerConf, readServingConf, type ServingConf } from "../config/serving_conf.ts";

import { reasonOf } from "../os/reason.ts";

export interface Configuration {
  readonly serving: ServingConf;
  readonly exports: readonly ExportSettings[];
  readonly peers: readonly PeerSettings[];
  /** Images are to be served over dnbd3. */
  readonly hasImages: boolean;
}

/**
 * Reads `server.conf`, `exports.conf` and `peers.conf`; what is missing says nothing.
 *
 * @throws {ConfigError} If one of them is wrong, or there is nothing to serve.
 */
export async function readConfiguration(directory: string): Promise<Configuration> {
  const [serverFile, exportsFile, peersFile] = ["server", "exports", "peers"]
    .map((name) => `${directory}/${name}.conf`);
  const serverText = await readConfigurationFile(serverFile);
  const exportsText = await readConfigurationFile(exportsFile);
  const peersText = await readConfigurationFile(peersFile);
  if (serverText === null && exportsText === null) {
    throw new ConfigError(directory, 0, "there is neither server.conf nor exports.conf");
  }
  // What is malformed in the sections of dnbd3 is told by who reads them.
  const sections = parseServerConf(serverText ?? "", { file: serverFile, warn: () => {} });
  const hasImages = wantsDnbd3(sections);
  if (!hasImages && exportsText === null) {
    throw new ConfigError(serverFile, 0, "there is no section [dnbd3], and no exports.conf beside it");
  }
  return {
    serving: readServingConf(sections, { file: serverFile, directory }),
    exports: parseExportsConf(exportsText ?? "", { file: exportsFile, directory }),
    peers: parsePeersConf(peersText ?? "", peersFile),
    hasImages,
  };
}

/**
 * The text of a file; `null` if there is none.
 *
 * @throws {ConfigError} If it cannot be read.
 */
export async function readConfigurationFile(path: string): Promise<string | null> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw new ConfigError(path, 0, `cannot be read: ${reasonOf(error)}`);
  }
}
