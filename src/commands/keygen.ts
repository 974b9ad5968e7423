import { formatKey } from "../base/channel_key.ts";
import { defaultKeyPath, readKeyPair } from "../net/channel_identity.ts";
import { createFile } from "../os/key_file.ts";
import { generateKey, importKeyPair } from "../wire/channel/key_pair.ts";
import { command } from "./command.ts";
import { UsageError } from "./usage_error.ts";

export const keygen = command({
  name: "keygen",
  summary: "Makes a key for encrypted channels",
  usage: [
    "keygen [--comment TEXT] [FILE]",
    "keygen --psk FILE",
    "keygen --public [FILE]",
  ],
  description:
    `Writes a new private key to FILE, readable by its owner only, and its public key to FILE.pub and
    to standard output. The public key is one line, for the authorised peers of a server or for the key=
    parameter of a client's URI. FILE is ~/.config/denbd/key where none is given; nothing is ever overwritten.

    With --psk it makes a pre-shared key instead, which both ends must have in addition to their own keys. With
    --public it shows the public key of an existing private key.`,
  positional: { name: "FILE", help: "Where the private key is, or is to be", max: 1 },
  options: {
    comment: {
      type: "string",
      short: "C",
      valueName: "TEXT",
      help: "Words behind the public key (user@host)",
    },
    psk: { type: "flag", help: "Make a pre-shared key" },
    public: { type: "flag", short: "y", help: "Show the public key of FILE" },
  },
  examples: [
    { text: "A key for this user", command: "denbd keygen" },
    { text: "A key for a server", command: "denbd keygen --comment store1 /etc/denbd/key" },
  ],
  async run({ options, args, env, stdout, log }) {
    const path = args[0] ?? (options.psk ? undefined : defaultKeyPath(env));
    if (path === undefined || path === "") throw new UsageError("FILE is missing");
    if (options.psk && (options.public || options.comment !== undefined)) {
      throw new UsageError("--psk goes with neither --public nor --comment");
    }
    if (options.psk) return await createFile(path, `${formatKey("preshared", generateKey())}\n`, 0o600);

    const comment = checkComment(options.comment ?? defaultComment(env));
    const secret = generateKey();
    const { publicKey } = options.public ? await readKeyPair(path) : await importKeyPair(secret);
    const line = `${formatKey("public", publicKey, comment)}\n`;
    if (!options.public) {
      const directory = path.slice(0, path.lastIndexOf("/"));
      if (args.length === 0) await Deno.mkdir(directory, { recursive: true, mode: 0o700 });
      await createFile(path, `${formatKey("private", secret)}\n`, 0o600);
      await createFile(`${path}.pub`, line, 0o644).catch(async (error) => {
        await Deno.remove(path);
        throw error;
      });
      log.info(`${path} holds the new private key, ${path}.pub the public one`);
    }
    await stdout.write(line);
  },
});

function checkComment(comment: string): string {
  if (/[\p{C}\p{Zl}\p{Zp}]/u.test(comment)) throw new UsageError("--comment: it is one line of text");
  return comment.trim();
}

function defaultComment(env: (name: string) => string | undefined): string {
  const user = env("USER") ?? env("LOGNAME") ?? "denbd";
  return `${user}@${Deno.hostname()}`;
}
