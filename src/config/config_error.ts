/** A configuration file says something that cannot be done: which file, which line, what and why. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";

  /**
   * @param file Path or name of the file, as the operator knows it.
   * @param line Counted from 1; 0 where the file as a whole is meant.
   * @param reason What is wrong, without file and line: the message carries those in front.
   */
  constructor(readonly file: string, readonly line: number, readonly reason: string) {
    super(`${file}${line > 0 ? `:${line}` : ""}: ${reason}`);
  }
}
