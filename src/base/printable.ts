/**
 * Makes text from a stranger fit for a log line or a message: control characters, quotes, backslashes and lone
 * surrogates are escaped, and what is longer than `charsMax` is cut and ends in `…`.
 *
 * @param text May hold anything.
 * @param charsMax Code points of `text` that are kept. Default 256.
 */
export function printable(text: string, charsMax = 256): string {
  let result = "";
  let chars = 0;
  for (const char of text) {
    if (chars++ === charsMax) return result + "…";
    result += /[\p{C}\p{Zl}\p{Zp}"\\]/u.test(char) ? escape(char) : char;
  }
  return result;
}

/** {@linkcode printable} text in double quotes: a name that a peer sent, in a message. */
export function quote(text: string, charsMax = 64): string {
  return `"${printable(text, charsMax)}"`;
}

/**
 * Escapes the control characters of a message of our own, so that it stays one line whatever went into it; quotes and
 * backslashes stay, for what was quoted in it is escaped already.
 */
export function escapeControls(message: string): string {
  return message.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, escape);
}

function escape(char: string): string {
  switch (char) {
    case "\n":
      return "\\n";
    case "\t":
      return "\\t";
    case '"':
    case "\\":
      return "\\" + char;
    default: {
      const code = char.codePointAt(0)!.toString(16);
      return code.length <= 2 ? `\\x${code.padStart(2, "0")}` : `\\u{${code}}`;
    }
  }
}
