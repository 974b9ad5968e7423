/** What a reload does to exports: which come, go, are opened anew, and which only get another description. */
import { formatDiskLocator } from "../base/uri.ts";
import type { ExportSettings } from "../config/exports_conf.ts";
import type { Export } from "../server/export_table.ts";

/** An export in force. */
export interface ConfiguredExport {
  readonly settings: ExportSettings;
  readonly exported: Export;
  /** To be ended before the disk is closed. */
  readonly ownership?: AsyncDisposable;
}

export interface ExportChanges {
  /** Go, with their clients; some of them come again with another disk. */
  readonly leaving: readonly ConfiguredExport[];
  /** Come, and can be opened while the others are still there. */
  readonly arriving: readonly ExportSettings[];
  /** Come with a disk that one of those who leave holds open: they have to wait for it. */
  readonly waiting: readonly ExportSettings[];
  /** Keep their disk and their clients. */
  readonly staying: readonly { readonly present: ConfiguredExport; readonly settings: ExportSettings }[];
}

/** Compares what is in force with what is wanted, by name. */
export function planChanges(
  present: readonly ConfiguredExport[],
  wanted: readonly ExportSettings[],
): ExportChanges {
  const byName = new Map(present.map((each) => [each.settings.name, each]));
  const stays = (settings: ExportSettings) => {
    const before = byName.get(settings.name);
    return before !== undefined && sameDisk(before.settings, settings);
  };
  const staying = wanted.filter(stays).map((settings) => ({ present: byName.get(settings.name)!, settings }));
  const stayingNames = new Set(staying.map(({ settings }) => settings.name));
  const leaving = present.filter(({ settings }) => !stayingNames.has(settings.name));
  const heldDisks = new Set(leaving.map(({ settings }) => formatDiskLocator(settings.disk)));
  const coming = wanted.filter(({ name }) => !stayingNames.has(name));
  const mustWait = ({ disk }: ExportSettings) => heldDisks.has(formatDiskLocator(disk));
  return {
    leaving,
    arriving: coming.filter((each) => !mustWait(each)),
    waiting: coming.filter(mustWait),
    staying,
  };
}

/** Whether the disk can stay open as it is. */
function sameDisk(one: ExportSettings, other: ExportSettings): boolean {
  return formatDiskLocator(one.disk) === formatDiskLocator(other.disk) && one.readOnly === other.readOnly &&
    one.discard === other.discard;
}
