import { printable } from "../../base/printable.ts";
import { optionName, optionReplyName } from "./constants.ts";

/** The server answered an option with an error: it keeps the protocol, but does not grant what was asked. */
export class RefusedError extends Error {
  override readonly name = "RefusedError";
  /** The server's reason, escaped and cut; may be empty. */
  readonly reason: string;

  /**
   * @param option The {@linkcode Option} that was asked for.
   * @param reply The {@linkcode OptionReply} that refused it.
   * @param text The server's reason as it came.
   * @param exportName The export it was about, if it was about one.
   */
  constructor(readonly option: number, readonly reply: number, text: string, readonly exportName?: string) {
    const reason = printable(text);
    const about = exportName === undefined ? "" : ` of export "${printable(exportName)}"`;
    super(
      `the server refused ${optionName(option)}${about}: ${optionReplyName(reply)}${
        reason && ` (${reason})`
      }`,
    );
    this.reason = reason;
  }
}
