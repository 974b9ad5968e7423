/** An IP address with a port. */
import { formatIpAddress, type IpAddress, parseIpAddress } from "./ip_address.ts";

export interface IpEndpoint {
  readonly address: IpAddress;
  /** From 1 to 65535. */
  readonly port: number;
}

/**
 * Parses `10.0.0.1`, `10.0.0.1:5003`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:5003`. Names are not looked up.
 *
 * @returns The endpoint, or `null` if the text is none.
 */
export function parseIpEndpoint(text: string, defaultPort: number): IpEndpoint | null {
  const plain = parseIpAddress(text);
  if (plain !== null) return { address: plain, port: defaultPort };
  const match = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d{1,5}))?$/.exec(text);
  if (match === null) return null;
  const address = parseIpAddress(match[1] ?? match[2]);
  const port = match[3] === undefined ? defaultPort : Number(match[3]);
  return address === null || port < 1 || port > 65535 ? null : { address, port };
}

/** Formats an endpoint: `10.0.0.1:5003`, `[2001:db8::1]:5003`. */
export function formatIpEndpoint({ address, port }: IpEndpoint): string {
  const text = formatIpAddress(address);
  return address.length === 4 ? `${text}:${port}` : `[${text}]:${port}`;
}

export function sameIpEndpoint(one: IpEndpoint, other: IpEndpoint): boolean {
  return one.port === other.port && one.address.length === other.address.length &&
    one.address.every((byte, index) => byte === other.address[index]);
}
