/** Bytes from hexadecimal digits; white space between them says where fields end. */
export function bytes(hex: string): Uint8Array<ArrayBuffer> {
  const digits = hex.replace(/\s+/g, "");
  if (!/^([0-9a-f]{2})*$/.test(digits)) throw new SyntaxError(`not hexadecimal: ${hex}`);
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/** Hexadecimal digits of bytes, without spaces. */
export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The digits of a number of 16 bits. */
export const u16 = (value: number): string => value.toString(16).padStart(4, "0");

/** The digits of a number of 32 bits. */
export const u32 = (value: number): string => value.toString(16).padStart(8, "0");

/** The digits of a text. */
export const ascii = (text: string): string => hex(new TextEncoder().encode(text));

/** The digits of a text behind those of its length in 32 bits, as NBD has it. */
export const string = (text: string): string => u32(ascii(text).length / 2) + ascii(text);

/** A view of exactly these bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
