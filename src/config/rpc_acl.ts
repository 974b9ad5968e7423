/**
 * `rpc.acl` of dnbd3: who may ask the server about itself over HTTP.
 *
 * Lines of `address[/bits] PERMISSION…`; the first that matches decides; where none does, nothing is allowed. No
 * file, or one without any line, allows everything to everybody.
 */
import { type IpAddress, parseIpAddress } from "../base/ip_address.ts";
import { ConfigError } from "./config_error.ts";

export type RpcPermission = "ALL" | "STATS" | "CLIENT_LIST" | "IMAGE_LIST";

export interface RpcRule {
  readonly address: IpAddress;
  /** Leading bits that count; 0 matches every address of either family. */
  readonly bits: number;
  readonly permissions: ReadonlySet<RpcPermission>;
}

const PERMISSIONS: readonly string[] = ["ALL", "STATS", "CLIENT_LIST", "IMAGE_LIST"];
const RULES_MAX = 100;
const EVERYTHING: ReadonlySet<RpcPermission> = new Set<RpcPermission>(["ALL"]);
const NOTHING: ReadonlySet<RpcPermission> = new Set();

export class RpcAcl {
  /** @param rules In order; `null` if there is no list and everything is allowed. */
  constructor(readonly rules: readonly RpcRule[] | null) {}

  /** What an address may do; `ALL` includes the rest. */
  permissionsOf(address: IpAddress): ReadonlySet<RpcPermission> {
    if (this.rules === null) return EVERYTHING;
    return this.rules.find((rule) => matches(rule, address))?.permissions ?? NOTHING;
  }
}

/**
 * Reads the file. A line that cannot be used is reported and skipped; if that leaves no rule, nobody is allowed
 * anything, as somebody meant to restrict something.
 */
export function readRpcAcl(
  text: string,
  options: { file: string; warn: (problem: ConfigError) => void },
): RpcAcl {
  const rules: RpcRule[] = [];
  let lines = 0;
  text.replace(/^\uFEFF/, "").split("\n").forEach((raw, index) => {
    const content = raw.trim();
    if (content === "" || content.startsWith("#")) return;
    lines++;
    const warn = (reason: string) => options.warn(new ConfigError(options.file, index + 1, reason));
    const [target, ...words] = content.split(/\s+/);
    const permissions = new Set<RpcPermission>();
    for (const word of words) {
      if (word.startsWith("#")) break;
      if (PERMISSIONS.includes(word)) permissions.add(word as RpcPermission);
      else warn(`unknown permission ${word}; skipped`);
    }
    const match = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(target);
    const address = match && parseIpAddress(match[1]);
    if (!match || !address) return warn(`${target} is no address; skipped`);
    if (permissions.size === 0) return warn(`no permission for ${target}; skipped`);
    if (rules.length === RULES_MAX) return warn(`${target} is one more than ${RULES_MAX} rules; skipped`);
    const most = address.length * 8;
    rules.push({
      address,
      bits: Math.min(match[2] === undefined ? most : Number(match[2]), most),
      permissions,
    });
  });
  return new RpcAcl(lines === 0 ? null : rules);
}

function matches({ address, bits }: RpcRule, seen: IpAddress): boolean {
  if (bits === 0) return true;
  if (seen.length !== address.length) return false;
  for (let index = 0; index * 8 < bits; index++) {
    const mask = 0xff << Math.max(0, 8 - (bits - index * 8)) & 0xff;
    if (((seen[index] ^ address[index]) & mask) !== 0) return false;
  }
  return true;
}
