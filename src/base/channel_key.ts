/**
 * Keys of the channel as they stand in files.
 *
 * One line each: what it is, 32 bytes in Base64, and for public keys a comment.
 *
 * ```
 * denbd-x25519 0sWsERlgJ9ZFzeFBf8Wk0E31zfCfCJM93JmJ4yDfcwg= alice@desk
 * denbd-x25519-private mKpaZ2J1Wc8a6x4rUx3mEMlKe9rmQ5x3wV0JpHCR2mM=
 * denbd-psk fXSvb2jkAqSnwQJfyIhs6Ba4hm2Z0Jb8OTaLD0nZQYs=
 * ```
 *
 * The first word tells a private key from a public one, so that neither is taken for the other.
 */
import { counted } from "./counted.ts";
import { printable } from "./printable.ts";

const KEY_BYTES = 32;

const WORDS = { public: "denbd-x25519", private: "denbd-x25519-private", preshared: "denbd-psk" } as const;

export type KeyKind = keyof typeof WORDS;

/** A public key, parsed. */
export interface PublicKey {
  /** In Base64, always spelled the same: what keys are compared by. */
  readonly key: string;
  /** What stands behind it, for people. */
  readonly comment: string;
}

/** The line of a key, without its end. */
export function formatKey(kind: KeyKind, key: Uint8Array, comment = ""): string {
  return `${WORDS[kind]} ${key.toBase64()}${comment === "" ? "" : ` ${comment}`}`;
}

/**
 * Parses the line of a public key.
 *
 * @throws {SyntaxError} If it is none. A private key is not quoted in the message.
 */
export function parsePublicKey(line: string): PublicKey {
  const { bytes, comment } = parseKey("public", line);
  return { key: bytes.toBase64(), comment };
}

/**
 * Parses the content of a file that holds one private or pre-shared key.
 *
 * @returns Its 32 bytes.
 * @throws {SyntaxError} If it is none. Nothing of the content is quoted.
 */
export function parseSecretKey(kind: "private" | "preshared", text: string): Uint8Array<ArrayBuffer> {
  const lines = text.split("\n").map((line) => line.trim()).filter((line) => line !== "" && line[0] !== "#");
  if (lines.length !== 1) throw new SyntaxError(`it does not hold one line "${WORDS[kind]} KEY"`);
  return parseKey(kind, lines[0]).bytes;
}

/**
 * Decodes a key alone, in Base64 of either alphabet, with or without the padding.
 *
 * @throws {SyntaxError} If these are not 32 bytes; the message does not quote it.
 */
export function decodeKey(base64: string): Uint8Array<ArrayBuffer> {
  const alphabet = /[-_]/.test(base64) ? "base64url" : "base64";
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = Uint8Array.fromBase64(base64, { alphabet, lastChunkHandling: "loose" });
  } catch {
    throw new SyntaxError("the key is not written in Base64");
  }
  if (bytes.length !== KEY_BYTES) {
    throw new SyntaxError(`the key has ${counted(bytes.length, "byte")} and not ${KEY_BYTES}`);
  }
  return bytes;
}

function parseKey(kind: KeyKind, line: string): { bytes: Uint8Array<ArrayBuffer>; comment: string } {
  const [word, base64 = "", ...comment] = line.trim().split(/\s+/);
  if (word !== WORDS[kind]) {
    const other = Object.entries(WORDS).find(([, each]) => each === word);
    if (other !== undefined) throw new SyntaxError(`a ${kind} key is wanted, and this is a ${other[0]} key`);
    const found = kind === "public" ? `, not with "${printable(word, 40)}"` : "";
    throw new SyntaxError(`a ${kind} key begins with ${WORDS[kind]}${found}`);
  }
  return { bytes: decodeKey(base64), comment: printable(comment.join(" ")) };
}
