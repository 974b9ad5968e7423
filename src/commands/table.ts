import { acl } from "./acl.ts";
import { bench } from "./bench.ts";
import { check } from "./check.ts";
import type { Command } from "./command.ts";
import { completionsCommand } from "./completions.ts";
import { copy } from "./copy.ts";
import { crc } from "./crc.ts";
import { create } from "./create.ts";
import { errormsg } from "./errormsg.ts";
import { helpCommand } from "./help_command.ts";
import { info } from "./info.ts";
import { own } from "./own.ts";
import { diskThreadsCommand } from "./disk_threads.ts";
import { logLevel } from "./log_level.ts";
import { keygen } from "./keygen.ts";
import { listen } from "./listen.ts";
import { breakCommand, mirror, mirrorSpeed } from "./mirror.ts";
import { proxy } from "./proxy.ts";
import { read } from "./read.ts";
import { reload } from "./reload.ts";
import { serve } from "./serve.ts";
import { statusCommand } from "./status.ts";
import { unreserve } from "./unreserve.ts";
import { trace } from "./trace.ts";
import { verify } from "./verify.ts";
import { write } from "./write.ts";

/** All commands, in the order of the help. */
export const commands: readonly Command[] = [
  serve,
  listen,
  mirror,
  breakCommand,
  mirrorSpeed,
  proxy,
  read,
  write,
  copy,
  info,
  crc,
  create,
  errormsg,
  verify,
  bench,
  statusCommand(),
  check,
  acl,
  unreserve,
  reload,
  logLevel,
  diskThreadsCommand,
  trace,
  own,
  completionsCommand(() => commands),
  keygen,
  helpCommand(() => commands),
];
