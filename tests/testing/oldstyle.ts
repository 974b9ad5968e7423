/** What an oldstyle server with simple replies says, byte by byte. */

/** The greeting of a server with one disk; it has flags, is writable, and offers FLUSH and FUA, as flexnbd's. */
export function oldstyleGreeting(sizeBytes: number): Uint8Array {
  const greeting = new Uint8Array(152);
  const view = new DataView(greeting.buffer);
  greeting.set(new TextEncoder().encode("NBDMAGIC"));
  view.setBigUint64(8, 0x0000420281861253n);
  view.setBigUint64(16, BigInt(sizeBytes));
  view.setUint32(24, 13);
  return greeting;
}

/** Success, to the request that has this header. */
export function simpleReply(header: Uint8Array, data = new Uint8Array()): Uint8Array {
  const reply = new Uint8Array(16 + data.length);
  new DataView(reply.buffer).setUint32(0, 0x67446698);
  reply.set(header.subarray(8, 16), 8);
  reply.set(data, 16);
  return reply;
}
