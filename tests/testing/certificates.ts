/** Certificates for tests, made by openssl: authorities, and what they sign. */
import { run } from "./process.ts";

/** What a certificate is to say. */
export interface CertificateWish {
  /** Common name. Default: the first name of the files. */
  readonly commonName?: string;
  /** Alternative names as openssl has them: `DNS:localhost,IP:127.0.0.1`. Default: none. */
  readonly names?: string;
  /** What it may be used for: `clientAuth`, `serverAuth`. Default: everything. */
  readonly usage?: string;
  /** Days that it holds from now on; with -1 it has expired. Default 2. */
  readonly days?: number;
  /** 1 is the oldest version, which has no extensions. Default 3. */
  readonly version?: 1 | 3;
}

/** What an authority below another one is to be. */
export interface BelowWish {
  readonly extensions?: readonly string[];
  readonly days?: number;
}

const NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/** An authority whose `ca-cert.pem` and `ca-key.pem` are in a directory of its own. */
export class Authority {
  private constructor(readonly path: string) {}

  /** Makes the directory, and the authority in it. */
  static async create(path: string): Promise<Authority> {
    Deno.mkdirSync(path);
    const name = path.slice(path.lastIndexOf("/") + 1);
    const files = ["-keyout", "ca-key.pem", "-out", "ca-cert.pem"];
    await run("openssl", ["req", "-x509", ...NEW_KEY, ...files, "-days", "2", "-subj", `/CN=${name}`], {
      cwd: path,
    });
    return new Authority(path);
  }

  /**
   * Makes another one, as {@linkcode create} does, whose certificate this one has signed.
   *
   * @param extensions Of its certificate, as openssl has them, beside that it is an authority.
   * @param days See {@linkcode CertificateWish}.
   */
  async createBelow(path: string, { extensions = [], days = 2 }: BelowWish = {}): Promise<Authority> {
    Deno.mkdirSync(path);
    const openssl = (...words: string[]) => run("openssl", words, { cwd: path });
    const name = path.slice(path.lastIndexOf("/") + 1);
    await openssl("req", ...NEW_KEY, "-keyout", "ca-key.pem", "-out", "ca.csr", "-subj", `/CN=${name}`);
    const lines = ["basicConstraints=critical,CA:TRUE", ...extensions];
    Deno.writeTextFileSync(`${path}/extensions`, lines.join("\n") + "\n");
    const by = ["-CA", `${this.path}/ca-cert.pem`, "-CAkey", `${this.path}/ca-key.pem`, "-CAcreateserial"];
    const how = [...by, "-days", `${days}`, "-extfile", "extensions"];
    await openssl("x509", "-req", "-in", "ca.csr", ...how, "-out", "ca-cert.pem");
    return new Authority(path);
  }

  /** Makes `WHO-cert.pem` and `WHO-key.pem` beside the authority's. */
  async issue(who: string, wish: CertificateWish = {}): Promise<void> {
    const { commonName = who, names, usage, days = 2, version = 3 } = wish;
    const openssl = (...words: string[]) => run("openssl", words, { cwd: this.path });
    const files = ["-keyout", `${who}-key.pem`, "-out", `${who}.csr`];
    await openssl("req", ...NEW_KEY, ...files, "-subj", `/CN=${commonName}`);
    const lines = ["basicConstraints=CA:FALSE"];
    if (names !== undefined) lines.push(`subjectAltName=${names}`);
    if (usage !== undefined) lines.push(`extendedKeyUsage=${usage}`);
    Deno.writeTextFileSync(`${this.path}/extensions`, lines.join("\n") + "\n");
    const by = ["-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", `${days}`];
    const extensions = version === 3 ? ["-extfile", "extensions"] : [];
    await openssl("x509", "-req", "-in", `${who}.csr`, ...by, ...extensions, "-out", `${who}-cert.pem`);
  }

  /** The text of one of its files. */
  read(name: string): string {
    return Deno.readTextFileSync(`${this.path}/${name}`);
  }

  /**
   * Makes what a client is given, in the directory `NAME` beside the authority's files.
   *
   * @param trusted Whom it trusts.
   * @param who Whose certificate it shows. Absent: none.
   * @returns The directory's path.
   */
  clientFiles(name: string, trusted: Authority, who?: string): string {
    const path = `${this.path}/${name}`;
    Deno.mkdirSync(path);
    Deno.copyFileSync(`${trusted.path}/ca-cert.pem`, `${path}/ca-cert.pem`);
    for (const what of who === undefined ? [] : ["cert", "key"]) {
      Deno.copyFileSync(`${this.path}/${who}-${what}.pem`, `${path}/client-${what}.pem`);
    }
    return path;
  }
}
