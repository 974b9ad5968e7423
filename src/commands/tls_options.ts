/** How `serve` is told about TLS. */
import { certificateFault } from "../net/shown_certificate.ts";
import { type AcceptTls, prepareTlsServer } from "../net/tls_server.ts";
import { reasonOf } from "../os/reason.ts";
import type { ServerTls } from "../server/nbd/server.ts";
import type { OptionTable, OptionValues } from "./options.ts";
import { UsageError } from "./usage_error.ts";

export const tlsOptions = {
  tls: { type: "enum", values: ["off", "prefer", "require"], help: "Refuse, offer or demand TLS (off)" },
  tlsCertificates: {
    type: "string",
    valueName: "DIR",
    help: "Directory of server-cert.pem and server-key.pem, as QEMU and nbdkit have it",
  },
  tlsVerifyPeer: {
    type: "flag",
    help: "TLS only for clients with a certificate that ca-cert.pem in that directory has signed",
  },
} as const satisfies OptionTable;

/** TLS of the server, and how to read its certificate again. */
export interface OpenedTls {
  readonly server: ServerTls;
  /** @throws {Error} If the files are wrong; the old certificate stays. */
  reload(): void;
}

/**
 * Prepares the TLS that the options ask for.
 *
 * @returns `null` if they ask for none.
 * @throws {UsageError} If they do not fit together.
 * @throws {Error} If the certificate cannot be used; the message says why.
 */
export function openTls(
  { tls = "off", tlsCertificates: directory, tlsVerifyPeer }: OptionValues<typeof tlsOptions>,
): OpenedTls | null {
  if (tls === "off") {
    if (directory !== undefined || tlsVerifyPeer) {
      throw new UsageError(
        "--tls-certificates and --tls-verify-peer belong to --tls=prefer or --tls=require",
      );
    }
    return null;
  }
  if (directory === undefined) throw new UsageError(`--tls=${tls} needs --tls-certificates`);
  const prepare = () => prepareFrom(directory, tlsVerifyPeer);
  let prepared = prepare();
  return {
    server: {
      required: tls === "require",
      accept: (connection, signal) => prepared.accept(connection, signal),
      certificateFault: (shown) => certificateFault(shown, prepared.clientAuthorities),
    },
    reload: () => void (prepared = prepare()),
  };
}

interface PreparedTls {
  readonly accept: AcceptTls;
  readonly clientAuthorities: string | undefined;
}

function prepareFrom(directory: string, verifyPeer: boolean): PreparedTls {
  const certificate = readPem(`${directory}/server-cert.pem`, "CERTIFICATE");
  const privateKey = readPem(`${directory}/server-key.pem`, "PRIVATE KEY");
  const clientAuthorities = verifyPeer ? readPem(`${directory}/ca-cert.pem`, "CERTIFICATE") : undefined;
  try {
    const accept = prepareTlsServer({ certificate, privateKey, clientAuthorities });
    return { accept, clientAuthorities };
  } catch (error) {
    throw new Error(`cannot use the certificate in ${directory}: ${(error as Error).message}`);
  }
}

/** @param kind What the file has to hold; some kinds of keys have a word in front of theirs. */
function readPem(path: string, kind: "CERTIFICATE" | "PRIVATE KEY"): string {
  let text;
  try {
    text = Deno.readTextFileSync(path);
  } catch (error) {
    throw new Error(`cannot read ${path}: ${reasonOf(error, { ENOENT: "it does not exist" })}`);
  }
  if (new RegExp(`^-----BEGIN ([A-Z]+ )?${kind}-----\\s*$`, "m").test(text)) return text;
  throw new Error(`cannot use ${path}: there is no ${kind.toLowerCase()} in it`);
}
