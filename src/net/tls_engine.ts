/**
 * TLS as a matter of bytes: what the runtime's TLS makes of them, asked for and answered in the same turn.
 *
 * A socket of `node:tls` brings its records to and from its transport through streams, events and copies, and goes on
 * reading when nobody takes what it has read. What it holds inside needs none of that where it runs over a stream of
 * ours: it takes records in one call, gives out records in another, and never waits. Those calls are the runtime's
 * own; where they are missing, {@linkcode TlsEngine.takeOver} says so, and the socket has to be used as it is.
 */
import type { TLSSocket } from "node:tls";
import { WireError } from "../wire/wire_error.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** What the calls are called; the arguments are as they are used here. */
interface Calls {
  receive(records: Bytes): void;
  drainEncOut(): Bytes;
  writeBuffer(request: object, bytes: Bytes): number;
  readStart(): number;
  shutdown(request: object): number;
  useUserBuffer(into: Bytes): void;
  getBytesRead(): number;
}

const CALLS: readonly (keyof Calls)[] = [
  "receive",
  "drainEncOut",
  "writeBuffer",
  "readStart",
  "shutdown",
  "useUserBuffer",
  "getBytesRead",
];

/** The runtime's object, and what it calls back. */
interface Handle {
  /** Told of plain text, in the user buffer if there is one, and, without any, of the end. */
  onread: (plain?: ArrayBuffer) => void;
  onerror: (error: Error) => void;
}

/** The longest plain text that {@linkcode TlsEngine.seal} takes: of more the runtime would keep a part for later. */
export const SEAL_BYTES_MAX = 48 * 1024;
/** By how much plain text may be longer than the records that complete it: a record that was there except for its end. */
export const HELD_BYTES_MAX = 17 * 1024;

export class TlsEngine {
  readonly #socket: TLSSocket;
  readonly #calls: Calls;
  /** Names a write, which nobody asks about. */
  readonly #request = {};
  readonly #early: Bytes[] = [];
  /** How often the runtime has told of plain text or the end. */
  #tellings = 0;
  #ended = false;
  #failure: WireError | null = null;

  private constructor(socket: TLSSocket, handle: Handle, calls: Calls) {
    this.#socket = socket;
    this.#calls = calls;
    handle.onread = (plain) => {
      if (plain instanceof ArrayBuffer) this.#early.push(new Uint8Array(plain));
      else this.#tellings++;
    };
    handle.onerror = ({ message }) => this.#failure ??= new WireError(`TLS failed: ${message}`);
    calls.readStart();
  }

  /**
   * Takes what is inside a socket, which must not be read or written any more.
   *
   * @param socket Runs over a stream of ours, and says in this turn that its handshake is done.
   * @returns `null` where the runtime has no such calls.
   */
  static takeOver(socket: TLSSocket): TlsEngine | null {
    const handle = (socket as unknown as { readonly _handle?: Handle & Partial<Calls> })._handle;
    // Those of the object itself may be wrapped, for the stream.
    const own = Object.getPrototypeOf(handle ?? {}) as Partial<Calls>;
    if (handle === undefined || !CALLS.every((name) => typeof own[name] === "function")) return null;
    const bound = CALLS.map((name) => [name, own[name]!.bind(handle)]);
    return new TlsEngine(socket, handle, Object.fromEntries(bound) as unknown as Calls);
  }

  /** Plain text that came with the end of the handshake; the caller's, once. */
  takeEarly(): Bytes[] {
    // The end may have come, too.
    this.#ended ||= this.#tellings > 0;
    return this.#early.splice(0);
  }

  /** Whether the peer has said that nothing more comes. */
  get ended(): boolean {
    return this.#ended;
  }

  /** What is wrong with what the peer has sent. Nothing behind it is opened. */
  get failure(): WireError | null {
    return this.#failure;
  }

  /**
   * Encrypts.
   *
   * @param plain Up to {@linkcode SEAL_BYTES_MAX} bytes, at least one.
   * @returns Records, the caller's: what the handshake still had to say, and these bytes.
   * @throws {Error} If the runtime has not encrypted them.
   */
  seal(plain: Bytes): Bytes {
    this.#calls.writeBuffer(this.#request, plain);
    const records = this.#calls.drainEncOut();
    if (records.length <= plain.length) throw new Error("TLS has not encrypted what was written");
    return records;
  }

  /**
   * Decrypts. Looks at {@linkcode ended} and {@linkcode failure} afterwards.
   *
   * @param records What came next, cut anywhere.
   * @param into Where plain text goes: {@linkcode HELD_BYTES_MAX} longer than the records.
   * @returns How much plain text there is.
   */
  open(records: Bytes, into: Bytes): number {
    if (into.length < records.length + HELD_BYTES_MAX) throw new RangeError("the plain text may not fit");
    if (this.#ended || this.#failure !== null) return 0;
    const before = this.#calls.getBytesRead();
    this.#tellings = 0;
    this.#calls.useUserBuffer(into);
    this.#calls.receive(records);
    const count = this.#calls.getBytesRead() - before;
    if (count > into.length) throw new RangeError("the plain text did not fit");
    this.#ended = this.#tellings > (count > 0 ? 1 : 0);
    return this.#failure === null ? count : 0;
  }

  /** What is to be sent although nobody has written: why the peer's records are refused. */
  takeAlert(): Bytes {
    return this.#calls.drainEncOut();
  }

  /** The record that says that nothing more comes. Nothing may be sealed after it. */
  sealEnd(): Bytes {
    this.#calls.shutdown(this.#request);
    return this.#calls.drainEncOut();
  }

  /** Lets go of keys and buffers now. The engine must not be used afterwards. */
  release(): void {
    this.#socket.destroy();
  }
}
