import type { OptionTable } from "./options.ts";

/** Options that every command has; the program itself looks at them. */
export const GLOBAL_OPTIONS = {
  help: { type: "flag", short: "h", help: "Show this help" },
  verbose: { type: "flag", short: "v", help: "Log more, twice everything; the last of -v and -q wins" },
  quiet: { type: "flag", short: "q", help: "Log only what ends the program" },
  logFormat: { type: "enum", values: ["text", "json"], default: "text", help: "Shape of log lines" },
} as const satisfies OptionTable;
