/** The peer broke the protocol. The message names the field and the value that was seen. */
export class WireError extends Error {
  override readonly name = "WireError";
}
