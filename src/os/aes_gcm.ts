/**
 * AES-256-GCM by OpenSSL's libcrypto, where that is installed: at once, in the caller's memory, without copies.
 *
 * Web Crypto computes the same on other threads, and gives and takes copies; a record costs it several times as much
 * (`deno task bench` measures both).
 */

type Bytes = Uint8Array<ArrayBuffer>;

const SYMBOLS = {
  // EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void)
  EVP_CIPHER_CTX_new: { parameters: [], result: "pointer" },
  // void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *ctx)
  EVP_CIPHER_CTX_free: { parameters: ["pointer"], result: "void" },
  // const EVP_CIPHER *EVP_aes_256_gcm(void)
  EVP_aes_256_gcm: { parameters: [], result: "pointer" },
  // int EVP_CipherInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *type, ENGINE *impl, const unsigned char *key,
  //                       const unsigned char *iv, int enc)
  EVP_CipherInit_ex: {
    parameters: ["pointer", "pointer", "pointer", "buffer", "buffer", "i32"],
    result: "i32",
  },
  // int EVP_CipherUpdate(EVP_CIPHER_CTX *ctx, unsigned char *out, int *outl, const unsigned char *in, int inl)
  EVP_CipherUpdate: { parameters: ["pointer", "buffer", "buffer", "buffer", "i32"], result: "i32" },
  // int EVP_CipherFinal_ex(EVP_CIPHER_CTX *ctx, unsigned char *outm, int *outl)
  EVP_CipherFinal_ex: { parameters: ["pointer", "buffer", "buffer"], result: "i32" },
  // int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *ctx, int type, int arg, void *ptr)
  EVP_CIPHER_CTX_ctrl: { parameters: ["pointer", "i32", "i32", "buffer"], result: "i32" },
} as const;

type Library = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

const GET_TAG = 0x10;
const SET_TAG = 0x11;
const TAG_BYTES = 16;
const NONCE_BYTES = 12;
const KEY_BYTES = 32;
/** Of the `enc` argument: leave the direction as it is. */
const SAME_DIRECTION = -1;

/** One key for one direction. */
export class AesGcm {
  readonly #library: Library;
  readonly #context: Deno.PointerObject;
  /** Where the library says how much it wrote. */
  readonly #length = new Int32Array(1) as Int32Array<ArrayBuffer>;
  readonly #nothing = new Uint8Array(TAG_BYTES);

  constructor(library: Library, key: Bytes, direction: "seal" | "open") {
    if (key.length !== KEY_BYTES) throw new RangeError("a key has 32 bytes");
    const context = library.EVP_CIPHER_CTX_new();
    if (context === null) throw new Error("libcrypto has no memory");
    this.#library = library;
    this.#context = context;
    contexts.register(this, { library, context });
    const enc = direction === "seal" ? 1 : 0;
    this.#expect(library.EVP_CipherInit_ex(context, library.EVP_aes_256_gcm(), null, key, null, enc));
  }

  /**
   * Encrypts.
   *
   * @param nonce 12 bytes, never the same twice.
   * @param parts The plaintext, in pieces.
   * @param into Where ciphertext and tag go: 16 bytes longer than the plaintext; does not overlap it.
   */
  seal(nonce: Bytes, ad: Bytes, parts: readonly Bytes[], into: Bytes): void {
    this.#check(nonce);
    let needed = TAG_BYTES;
    for (const { length } of parts) needed += length;
    if (into.length < needed) throw new RangeError("the buffers do not fit");
    this.#begin(nonce, ad);
    let filled = 0;
    for (const part of parts) {
      this.#update(into.subarray(filled), part);
      filled += part.length;
    }
    this.#expect(
      this.#library.EVP_CipherFinal_ex(this.#context, this.#nothing, this.#length as unknown as Bytes),
    );
    this.#expect(
      this.#library.EVP_CIPHER_CTX_ctrl(
        this.#context,
        GET_TAG,
        TAG_BYTES,
        into.subarray(filled, filled + TAG_BYTES),
      ),
    );
  }

  /**
   * Decrypts.
   *
   * @param sealed Ciphertext and tag.
   * @param into Where the plaintext goes: 16 bytes shorter; does not overlap. It holds anything if this fails.
   * @returns Whether nonce, additional data and ciphertext are those that were sealed.
   */
  open(nonce: Bytes, ad: Bytes, sealed: Bytes, into: Bytes): boolean {
    this.#check(nonce);
    const bytes = sealed.length - TAG_BYTES;
    if (bytes < 0 || into.length < bytes) throw new RangeError("the buffers do not fit");
    this.#begin(nonce, ad);
    if (bytes > 0) this.#update(into, sealed.subarray(0, bytes));
    this.#expect(
      this.#library.EVP_CIPHER_CTX_ctrl(this.#context, SET_TAG, TAG_BYTES, sealed.subarray(bytes)),
    );
    return this.#library.EVP_CipherFinal_ex(
      this.#context,
      this.#nothing,
      this.#length as unknown as Bytes,
    ) === 1;
  }

  /** The library reads and writes as much as it is told, whatever is there. */
  #check(nonce: Bytes): void {
    if (nonce.length !== NONCE_BYTES) throw new RangeError("a nonce has 12 bytes");
  }

  #begin(nonce: Bytes, ad: Bytes): void {
    this.#expect(this.#library.EVP_CipherInit_ex(this.#context, null, null, null, nonce, SAME_DIRECTION));
    if (ad.length > 0) this.#update(null, ad);
  }

  #update(into: Bytes | null, from: Bytes): void {
    this.#expect(
      this.#library.EVP_CipherUpdate(
        this.#context,
        into,
        this.#length as unknown as Bytes,
        from,
        from.length,
      ),
    );
  }

  #expect(result: number): void {
    if (result !== 1) throw new Error("libcrypto failed");
  }
}

/** Frees what belongs to ciphers that nobody uses any more. Freeing also erases the key. */
const contexts = new FinalizationRegistry<{ library: Library; context: Deno.PointerObject }>(
  ({ library, context }) => library.EVP_CIPHER_CTX_free(context),
);

const LIBRARY = "libcrypto.so.3";

/** The library, or why there is none; `undefined` before somebody has asked. */
let opened: Library | string | undefined;

/**
 * Makes a cipher.
 *
 * @param key 32 bytes.
 * @returns `null` where {@linkcode aesGcmFault} says why.
 */
export function makeAesGcm(key: Bytes, direction: "seal" | "open"): AesGcm | null {
  opened ??= openLibrary();
  return typeof opened === "string" ? null : new AesGcm(opened, key, direction);
}

/** Why there is no cipher: libcrypto is missing, may not be opened, or does not compute what the standard says. */
export function aesGcmFault(): string | null {
  opened ??= openLibrary();
  return typeof opened === "string" ? opened : null;
}

function openLibrary(): Library | string {
  if (Deno.build.os !== "linux") return `${LIBRARY} is used on Linux only`;
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") return `${LIBRARY} may not be opened`;
  try {
    const { symbols } = Deno.dlopen(LIBRARY, SYMBOLS);
    return computesRight(symbols)
      ? symbols
      : `${LIBRARY} does not compute AES-256-GCM as the standard has it`;
  } catch (error) {
    return `${LIBRARY} cannot be opened: ${(error as Error).message}`;
  }
}

/** Test case 14 of "The Galois/Counter Mode of Operation" (McGrew, Viega): one block of zeroes under a key of zeroes. */
function computesRight(library: Library): boolean {
  const sealed = new Uint8Array(32);
  const nothing = new Uint8Array(0);
  new AesGcm(library, new Uint8Array(32), "seal").seal(
    new Uint8Array(12),
    nothing,
    [new Uint8Array(16)],
    sealed,
  );
  return sealed.toHex() === "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919";
}
