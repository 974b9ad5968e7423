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
