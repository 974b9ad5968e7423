/** TLS that hides nothing: it only shows who is there. */
import type { Connection } from "../../src/net/connection.ts";
import type { ServerTls } from "../../src/server/nbd/server.ts";

/** Whoever asks for TLS has shown a certificate of this name. Nobody has to. */
export function shownCertificate(certificateName: string): ServerTls {
  return {
    required: false,
    accept: (connection) => Promise.resolve(named(connection, certificateName)),
    certificateFault: () => null,
  };
}

function named(connection: Connection, certificateName: string): Connection {
  return {
    peer: { ...connection.peer, certificateName },
    read: (into) => connection.read(into),
    write: (bytes) => connection.write(bytes),
    close: () => connection.close(),
  };
}
