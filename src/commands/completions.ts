/** Shell completion, from the declarations. */
import { type Command, command } from "./command.ts";
import { GLOBAL_OPTIONS } from "./global_options.ts";
import { longName, namesPath, type Option, valueName } from "./options.ts";
import { UsageError } from "./usage_error.ts";

/** What may follow a word on the command line. */
interface Completion {
  readonly key: string;
  readonly option: Option;
  readonly long: string;
  readonly short: string | null;
  readonly help: string;
  /** `null`: takes no value; an array: these; `path`, or `any` text. */
  readonly value: null | readonly string[] | "path" | "any";
}

function completionsOf(options: Command["options"]): Completion[] {
  return Object.entries<Option>({ ...options, ...GLOBAL_OPTIONS })
    .filter(([, option]) => !option.hidden)
    .map(([key, option]) => ({
      key,
      option,
      long: `--${longName(key)}`,
      short: option.short === undefined ? null : `-${option.short}`,
      help: option.help,
      value: valueKind(key, option),
    }));
}

function valueKind(key: string, option: Option): Completion["value"] {
  if (option.type === "flag" || option.implied !== undefined) return null;
  if (option.type === "enum") return option.values;
  return namesPath(valueName(key, option) ?? "") ? "path" : "any";
}

/** Words that a command takes as its first argument, or `path`, or none that can be known. */
function argumentKind(each: Command, commands: readonly Command[]): readonly string[] | "path" | "any" {
  if (each.positional === undefined) return "any";
  if (each.positional.name === "COMMAND") return shown(commands).map(({ name }) => name);
  if (each.positional.name.includes("|")) return each.positional.name.split("|");
  return namesPath(each.positional.name) ? "path" : "any";
}

function shown(commands: readonly Command[]): Command[] {
  return commands.filter((each) => !each.hidden);
}

/** For bash: to be sourced. */
export function bashCompletions(commands: readonly Command[]): string {
  const cases: string[] = [];
  for (const each of shown(commands)) {
    const options = completionsOf(each.options);
    const arms = options.filter(({ value }) => value !== null).map(({ long, short, value }) => {
      const pattern = short === null ? long : `${long}|${short}`;
      if (value === "path") return `        ${pattern}) _denbd_paths; return ;;`;
      if (value === "any") return `        ${pattern}) return ;;`;
      return `        ${pattern}) _denbd_words "${value!.join(" ")}"; return ;;`;
    });
    const names = options.flatMap(({ long, short }) => short === null ? [long] : [long, short]).join(" ");
    const argument = argumentKind(each, commands);
    const otherwise = argument === "path"
      ? "_denbd_paths"
      : argument === "any"
      ? ":"
      : `_denbd_words "${argument.join(" ")}"`;
    cases.push(
      `    ${each.name})`,
      `      case $previous in`,
      ...arms,
      `      esac`,
      `      case $current in`,
      `        -*) _denbd_words "${names}" ;;`,
      `        *) ${otherwise} ;;`,
      `      esac ;;`,
    );
  }
  const words = shown(commands).map(({ name }) => name).join(" ");
  return `# bash completion of denbd; source it, or put it where bash-completion looks
_denbd_words() { COMPREPLY=($(compgen -W "$1" -- "$current")); }
_denbd_paths() { compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$current")); }
_denbd() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD - 1]}
  local IFS=$' \\t\\n'
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then _denbd_words "${words} --help --version"; return; fi
  # --name=value reaches us as three words.
  if [ "$current" = "=" ]; then current=""; elif [ "$previous" = "=" ]; then previous=\${COMP_WORDS[COMP_CWORD - 2]}; fi
  case \${COMP_WORDS[1]} in
${cases.join("\n")}
  esac
}
complete -F _denbd denbd
`;
}

/** For zsh: the file `_denbd` in a directory of `fpath`. */
export function zshCompletions(commands: readonly Command[]): string {
  const cases: string[] = [];
  for (const each of shown(commands)) {
    const specs = completionsOf(each.options).flatMap(({ key, option, long, short, help, value }) => {
      const action = value === null ? "" : `:${zshText(valueName(key, option) ?? "")}:${zshAction(value)}`;
      const star = option.type !== "flag" && option.repeat ? "*" : "";
      const names = short === null ? [long] : [long, short];
      return names.map((name) => {
        const equals = value === null ? "" : name.startsWith("--") ? "=" : "+";
        return shellQuote(`${star}${name}${equals}[${zshText(help)}]${action}`);
      });
    });
    const { positional } = each;
    if (positional !== undefined) {
      specs.push(shellQuote(`*:${zshText(positional.name)}:${zshAction(argumentKind(each, commands))}`));
    }
    cases.push(
      `        ${each.name})`,
      "          _arguments \\",
      `            ${specs.join(" \\\n            ")} ;;`,
    );
  }
  const names = shown(commands).map(({ name, summary }) => shellQuote(`${name}:${summary}`));
  return `#compdef denbd
_denbd() {
  local -a commands
  commands=(
    ${names.join("\n    ")}
  )
  local state line
  _arguments -C '(- *)--help[Show the commands]' '(- *)--version[Show the version]' '1:command:->command' '*::argument:->argument'
  case $state in
    command) _describe command commands ;;
    argument)
      case $line[1] in
${cases.join("\n")}
      esac ;;
  esac
}
if [ "$funcstack[1]" = _denbd ]; then _denbd "$@"; else compdef _denbd denbd; fi
`;
}

function zshAction(value: readonly string[] | "path" | "any"): string {
  if (value === "path") return "_files";
  return value === "any" ? " " : `(${value.join(" ")})`;
}

/** Text inside a specification of `_arguments`. */
function zshText(text: string): string {
  return text.replace(/[\\:[\]]/g, "\\$&");
}

function shellQuote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** For fish: `completions/denbd.fish`. */
export function fishCompletions(commands: readonly Command[]): string {
  const lines = [
    "# fish completion of denbd",
    "complete -c denbd -f",
    "complete -c denbd -n __fish_use_subcommand -l help -d 'Show the commands'",
    "complete -c denbd -n __fish_use_subcommand -l version -d 'Show the version'",
  ];
  for (const each of shown(commands)) {
    lines.push(`complete -c denbd -n __fish_use_subcommand -a ${each.name} -d ${fishQuote(each.summary)}`);
    const when = `complete -c denbd -n '__fish_seen_subcommand_from ${each.name}'`;
    for (const { long, short, help, value } of completionsOf(each.options)) {
      const names = `-l ${long.slice(2)}${short === null ? "" : ` -s ${short.slice(1)}`}`;
      lines.push(`${when} ${names}${fishValue(value)} -d ${fishQuote(help)}`);
    }
    const argument = argumentKind(each, commands);
    if (argument === "path") lines.push(`${when} -F`);
    else if (argument !== "any") lines.push(`${when} -a ${fishQuote(argument.join(" "))}`);
  }
  return lines.join("\n") + "\n";
}

function fishValue(value: Completion["value"]): string {
  if (value === null) return "";
  if (value === "path") return " -r -F";
  return value === "any" ? " -x" : ` -x -a ${fishQuote(value.join(" "))}`;
}

function fishQuote(text: string): string {
  return `'${text.replace(/[\\']/g, "\\$&")}'`;
}

const SHELLS: Readonly<Record<string, (commands: readonly Command[]) => string>> = {
  bash: bashCompletions,
  zsh: zshCompletions,
  fish: fishCompletions,
};

/** The command `completions` over the table that it is itself in. */
export function completionsCommand(commands: () => readonly Command[]): Command {
  return command({
    name: "completions",
    summary: "Prints the completion script of a shell",
    usage: ["completions bash|zsh|fish"],
    positional: { name: "bash|zsh|fish", help: "The shell", min: 1, max: 1 },
    options: {},
    examples: [
      { text: "For this bash", command: "source <(denbd completions bash)" },
      {
        text: "For fish, from now on",
        command: "denbd completions fish > ~/.config/fish/completions/denbd.fish",
      },
    ],
    async run({ args, stdout }) {
      const make = Object.hasOwn(SHELLS, args[0]) ? SHELLS[args[0]] : undefined;
      if (make === undefined) throw new UsageError(`there is no completion for "${args[0]}"`);
      await stdout.write(make(commands()));
    },
  });
}
