import config from "../../deno.json" with { type: "json" };

/** Of this program. */
export const VERSION: string = config.version;
