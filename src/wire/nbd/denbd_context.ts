/**
 * What one denbd end tells another through metadata contexts of our own.
 *
 * A client that knows of it queries the namespace `x-denbd:` in SET_META_CONTEXT; the server answers with contexts
 * whose names are the facts. Nobody else sees them: they are not listed, and other servers ignore the query.
 *
 * | name | says |
 * | --- | --- |
 * | `x-denbd:instance=UUID` | this run of the server; another one after each start |
 * | `x-denbd:identity=UUID.GENERATION` | the disk, and its generation, which rises with each start that may write |
 *
 * The UUIDs are in lower case, the generation is decimal. Facts that a client does not know it ignores.
 */
import { WireError } from "../wire_error.ts";

/** The query, and the prefix of every name. */
export const DENBD_NAMESPACE = "x-denbd:";

/** What a server says of itself and of one export. */
export interface DenbdFacts {
  readonly instance?: string;
  readonly identity?: { readonly uuid: string; readonly generation: number };
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The names of the contexts that tell these facts. */
export function encodeFacts({ instance, identity }: DenbdFacts): string[] {
  const names: string[] = [];
  if (instance !== undefined) names.push(`${DENBD_NAMESPACE}instance=${instance}`);
  if (identity !== undefined) {
    names.push(`${DENBD_NAMESPACE}identity=${identity.uuid}.${identity.generation}`);
  }
  return names;
}

/**
 * The facts among the names of contexts that a server granted; other names are passed over.
 *
 * @throws {WireError} If a fact that we know is malformed or is told twice.
 */
export function decodeFacts(names: readonly string[]): DenbdFacts {
  let instance: string | undefined;
  let identity: DenbdFacts["identity"];
  for (const name of names) {
    const match = /^x-denbd:(instance|identity)=(.*)$/s.exec(name);
    if (match === null) continue;
    const [, kind, text] = match;
    if (kind === "instance") {
      if (instance !== undefined || !UUID.test(text)) throw new WireError(`instance "${text.slice(0, 64)}"`);
      instance = text;
    } else {
      const [, uuid = "", generation = ""] = /^(.*)\.([1-9]\d{0,15})$/.exec(text) ?? [];
      const ok = identity === undefined && UUID.test(uuid) && Number.isSafeInteger(Number(generation));
      if (!ok) throw new WireError(`identity "${text.slice(0, 64)}"`);
      identity = { uuid, generation: Number(generation) };
    }
  }
  return { instance, identity };
}
