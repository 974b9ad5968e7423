/** What a command was asked could not be done: one line, and the exit code that says so. */
export class CommandFailure extends Error {
  override readonly name = "CommandFailure";

  /** @param exitCode Above 0. Default 1. */
  constructor(message: string, readonly exitCode = 1) {
    super(message);
  }
}
