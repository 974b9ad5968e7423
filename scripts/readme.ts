/** `deno task readme`: brings the README's table of commands up to date. */

import { readmeTable } from "../src/commands/help.ts";
import { commands } from "../src/commands/table.ts";

const path = new URL("../README.md", import.meta.url);
const text = Deno.readTextFileSync(path);
const marks = /(?<=<!-- made from .*? -->\n\n).*?(?=\n<!-- end -->)/s;
if (!marks.test(text)) throw new Error("README.md: the comments around the table are gone");
Deno.writeTextFileSync(path, text.replace(marks, () => readmeTable(commands)));
