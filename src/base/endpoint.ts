/** Where a server listens. */
export type Endpoint = TcpEndpoint | UnixEndpoint;

export interface TcpEndpoint {
  readonly transport: "tcp";
  /** Host name or IP address; IPv6 without brackets. */
  readonly host: string;
  readonly port: number;
}

export interface UnixEndpoint {
  readonly transport: "unix";
  readonly path: string;
}

/** For messages: `host:10809`, `[::1]:10809`, `unix:/run/x.sock`. */
export function formatEndpoint(endpoint: Endpoint): string {
  if (endpoint.transport === "unix") return `unix:${endpoint.path}`;
  return `${bracketed(endpoint.host)}:${endpoint.port}`;
}

/** An IPv6 address in brackets, anything else as it is. */
export function bracketed(host: string): string {
  return host.includes(":") ? `[${host}]` : host;
}
