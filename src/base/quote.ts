/** Text of strangers, made fit for a log line or a terminal. */

// deno-lint-ignore no-control-regex
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]/gu;

/**
 * Escapes what would break a line or fool its reader: control characters (terminal sequences among them), line
 * separators, invisible characters and those that turn the writing direction, lone surrogates.
 */
export function escapeControls(text: string): string {
  return text.replace(UNSAFE, (character) => {
    if (character === "\n") return "\\n";
    if (character === "\r") return "\\r";
    if (character === "\t") return "\\t";
    const code = character.codePointAt(0)!;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
  });
}

/**
 * Quotes a name that a peer sent: in double quotes, escaped, and cut.
 *
 * @param text Anything.
 * @param lengthMax Characters of `text` shown; more end in `…` and the full length. Default 64.
 */
export function quote(text: string, lengthMax = 64): string {
  const shown = text.length > lengthMax ? text.slice(0, lengthMax) : text;
  const escaped = escapeControls(shown.replace(/[\\"]/g, "\\$&"));
  return text.length > lengthMax ? `"${escaped}…" (${text.length} characters)` : `"${escaped}"`;
}
