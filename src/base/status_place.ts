/** Where a server tells its status to programs of this machine. */
import type { Endpoint } from "./endpoint.ts";
import { formatIpAddress, parseIpAddress } from "./ip_address.ts";

/**
 * Parses `9809`, `127.0.0.1:9809`, `[::1]:9809`, `unix:PATH` or a path that starts with `/`. Port 0 means any.
 *
 * @throws {SyntaxError} If it is none of these, or an address that other machines reach.
 */
export function parseStatusPlace(text: string): Endpoint {
  const path = text.startsWith("unix:") ? text.slice("unix:".length) : text.startsWith("/") ? text : null;
  if (path === "") throw new SyntaxError(`"${text}" has no path behind unix:`);
  if (path !== null) return { transport: "unix", path };
  const match = /^(?:(?:\[([^\]]+)\]|([^:]+)):)?(\d{1,5})$/.exec(text);
  const port = match === null ? NaN : Number(match[3]);
  const address = match === null ? null : parseIpAddress(match[1] ?? match[2] ?? "127.0.0.1");
  if (address === null || !(port <= 65535)) {
    throw new SyntaxError(`"${text}" is not a port, a loopback ADDRESS:PORT or unix:PATH`);
  }
  const host = formatIpAddress(address);
  if (!host.startsWith("127.") && host !== "::1") {
    throw new SyntaxError(`"${text}" can be reached from outside; the status is for this machine`);
  }
  return { transport: "tcp", host, port };
}
