import type { Moved } from "./migration_message.ts";
import { RefusedError } from "./refused_error.ts";

/** The server does not have the disk any more, and says where it is. */
export class MovedError extends RefusedError {
  /** Whether the server has proven who it is. Set by who knows. */
  authenticated = false;

  /** @param instance Of the server, if it told. */
  constructor(refusal: RefusedError, readonly moved: Moved, readonly instance: string | undefined) {
    super(refusal.option, refusal.reply, refusal.reason, refusal.exportName);
  }
}
