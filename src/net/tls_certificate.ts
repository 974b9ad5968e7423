/**
 * What is to be known of a peer's certificate beyond the runtime's word that an authority has signed it.
 *
 * The runtime takes certificates of X.509 version 1 on a path of its own, which knows neither their time nor who
 * may sign others. Nobody needs them, so they are refused.
 */
import type { X509Certificate } from "node:crypto";

const SEQUENCE = 0x30;
/** The tag of the version, which a certificate of version 1 does not have. */
const VERSION = 0xa0;

/**
 * Looks at version and time.
 *
 * @throws {Error} If the certificate does not hold now.
 */
export function checkCertificate(certificate: X509Certificate, nowMs = Date.now()): void {
  if (!hasVersion(certificate.raw)) throw new Error("the certificate is of X.509 version 1");
  const { validFrom, validTo } = certificate;
  // Written so that a date that is none fails.
  if (!(Date.parse(validFrom) <= nowMs)) throw new Error(`the certificate holds from ${validFrom} only`);
  if (!(Date.parse(validTo) >= nowMs)) throw new Error(`the certificate has expired on ${validTo}`);
}

/** Whether a DER certificate says its version, as all but those of version 1 do (RFC 5280, section 4.1). */
function hasVersion(der: Uint8Array): boolean {
  const outer = contentStart(der, 0);
  const inner = contentStart(der, outer);
  return der[0] === SEQUENCE && der[outer] === SEQUENCE && der[inner] === VERSION;
}

/** Where the content of the DER element that begins at `at` begins. */
function contentStart(der: Uint8Array, at: number): number {
  const length = der[at + 1];
  return at + 2 + (length < 0x80 ? 0 : length & 0x7f);
}

/**
 * The common name in the subject of a certificate.
 *
 * @returns `undefined` if there is none, more than one, or one with control characters, which could pass for several.
 */
export function commonName(certificate: X509Certificate): string | undefined {
  const name: unknown = certificate.toLegacyObject().subject?.CN;
  // deno-lint-ignore no-control-regex
  return typeof name === "string" && name !== "" && !/[\x00-\x1f\x7f]/.test(name) ? name : undefined;
}
