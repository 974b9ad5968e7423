/**
 * Random numbers that can be had again: everything drawn follows from the seed, which is printed, and taken from
 * `DENBD_SEED` where that is set and may be read.
 */
export function randomFrom(seed = givenSeed() ?? crypto.getRandomValues(new Uint32Array(1))[0]) {
  // xorshift32 over a scrambled seed: small, and good enough to pick operations.
  let state = (Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) >>> 0) || 1;
  const next = () => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>>= 0;
  };
  return {
    seed,
    /** A whole number from 0 to `limit - 1`; 0 if `limit` is 0. */
    below: (limit: number) => Math.floor((next() / 0x1_0000_0000) * limit),
    chance: (probability: number) => next() / 0x1_0000_0000 < probability,
    bytes(length: number): Uint8Array<ArrayBuffer> {
      const words = new Uint32Array(Math.ceil(length / 4));
      for (let at = 0; at < words.length; at++) words[at] = next();
      return new Uint8Array(words.buffer, 0, length);
    },
  };
}

function givenSeed(): number | undefined {
  if (Deno.permissions.querySync({ name: "env", variable: "DENBD_SEED" }).state !== "granted") {
    return undefined;
  }
  const text = Deno.env.get("DENBD_SEED");
  return text === undefined ? undefined : Number(text);
}
