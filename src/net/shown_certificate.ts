/**
 * Whether a client's certificate that was good in the handshake still is, when authorities change and time passes.
 *
 * In the handshake the runtime judges; afterwards it cannot be asked again. Here the same is looked for: a path of
 * signatures from the certificate, by way of those that were shown with it, to one of the authorities, whose own time
 * does not matter. What only the runtime can weigh counts as no path: who is sent away may come back, and is judged.
 */
import type { X509Certificate } from "node:crypto";
import type { TLSSocket } from "node:tls";
import { nodeModule } from "../base/node_module.ts";
import { checkCertificate } from "./tls_certificate.ts";

/** What a client has shown, and by whom it was found good. */
export interface ShownCertificate {
  /** The client's own, and those that lead from it towards an authority. */
  readonly chain: readonly X509Certificate[];
  /** The certificates of the authorities, in PEM. */
  readonly authorities: string;
}

/** What the client at the other end of a socket has shown, and the runtime has found good by these authorities. */
export function shownCertificate(socket: TLSSocket, authorities: string): ShownCertificate {
  const { X509Certificate } = nodeModule("node:crypto");
  const chain: X509Certificate[] = [];
  const seen = new Set<unknown>();
  let next: ReturnType<typeof socket.getPeerCertificate> | undefined = socket.getPeerCertificate(true);
  // The last one may name itself as the one that has signed it.
  while (next?.raw !== undefined && !seen.has(next)) {
    seen.add(next);
    chain.push(new X509Certificate(next.raw));
    next = (next as { issuerCertificate?: typeof next }).issuerCertificate;
  }
  return { chain, authorities };
}

/**
 * Judges anew.
 *
 * @param authorities Those of now, in PEM; absent if clients need no certificate.
 * @returns Why the certificate counts no more, or `null`.
 */
export function certificateFault(
  { chain, authorities: before }: ShownCertificate,
  authorities: string | undefined,
  nowMs = Date.now(),
): string | null {
  if (authorities === undefined) return "client certificates are not looked at any more";
  const [own, ...others] = chain;
  const fault = timeFault(own, nowMs);
  if (fault !== null) return fault;
  const held = others.filter((certificate) => timeFault(certificate, nowMs) === null);
  if (authorities === before && held.length === others.length) return null;
  const between = held.filter((certificate) => certificate.ca && !isConstrained(certificate));
  return leads(own, between, parseAuthorities(authorities))
    ? null
    : "its certificate is signed by none of the authorities that are trusted now";
}

/** Whether signatures lead from a certificate to an authority. */
function leads(
  from: X509Certificate,
  between: readonly X509Certificate[],
  authorities: readonly X509Certificate[],
): boolean {
  const reached = new Set([from]);
  // Grows while it is walked through.
  for (const certificate of reached) {
    if (authorities.some((authority) => !isConstrained(authority) && hasSigned(authority, certificate))) {
      return true;
    }
    for (const issuer of between) if (hasSigned(issuer, certificate)) reached.add(issuer);
  }
  return false;
}

function timeFault(certificate: X509Certificate, nowMs: number): string | null {
  try {
    checkCertificate(certificate, nowMs);
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

function hasSigned(issuer: X509Certificate, certificate: X509Certificate): boolean {
  try {
    return certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
  } catch {
    return false; // A kind of key that is not known here.
  }
}

/** The identifier of the extension that says for which names an authority may sign (RFC 5280, section 4.2.1.10). */
const NAME_CONSTRAINTS = "0603551d1e";

function isConstrained({ raw }: X509Certificate): boolean {
  return new Uint8Array(raw).toHex().includes(NAME_CONSTRAINTS);
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;

function parseAuthorities(pem: string): X509Certificate[] {
  const { X509Certificate } = nodeModule("node:crypto");
  return (pem.match(CERTIFICATE) ?? []).map((text) => new X509Certificate(text));
}
