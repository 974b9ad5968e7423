import type { ExportStatus, ProcessStatus } from "../../src/control/status.ts";

/** A disk that nobody uses. */
export const IDLE_EXPORT: ExportStatus = {
  name: "",
  source: "/srv/disk.img",
  sizeBytes: 65536,
  readOnly: false,
  uuid: "7d444840-9dc0-11d1-b245-5ffdce74fad2",
  generation: 3,
  requests: 0,
  errors: 0,
  readBytes: 0,
  writtenBytes: 0,
  dirtyBytes: 0,
  syncFailure: null,
  writers: "any",
  reservation: null,
  migration: null,
  ownership: null,
  latency: {},
  clients: [],
};

/** The server of that disk. */
export const IDLE: ProcessStatus = {
  version: "0.1.0",
  pid: 1,
  uptimeMs: 5000,
  instance: null,
  listening: ["127.0.0.1:10809"],
  clientsAllowed: true,
  hasControl: true,
  strangers: [],
  mirror: null,
  access: { acl: "list", entries: ["127.0.0.1"], defaultDeny: false },
  exports: [IDLE_EXPORT],
  images: [],
  diskThreads: { count: 24, busy: 0, waiting: 0 },
};
