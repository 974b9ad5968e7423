/** A TCP relay that looks into what it carries, and can stop it at the right moment. */
/** What becomes of a piece of the stream. `cut`: it is not delivered, and all connections end. */
export type Verdict = "pass" | "cut";

/** Sees every piece before it is delivered, as text of single bytes; may change its bytes, or do what it likes. */
export type Look = (
  direction: "there" | "back",
  text: string,
  bytes: Uint8Array,
) => Verdict | Promise<Verdict>;

export class Relay implements Disposable {
  readonly port: number;
  /** Bytes delivered to the target. */
  bytesThere = 0;
  look: Look = () => "pass";
  readonly #listener: Deno.TcpListener;
  readonly #open = new Set<Deno.Conn>();

  /** Carries connections to a port of 127.0.0.1; who cannot be reached is a connection that is closed. */
  constructor(readonly target: number) {
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.port = this.#listener.addr.port;
    void this.#accept();
  }

  /** Ends all connections; later ones are carried again. */
  cut(): void {
    for (const conn of this.#open) closeQuietly(conn);
    this.#open.clear();
  }

  [Symbol.dispose](): void {
    closeQuietly(this.#listener);
    this.cut();
  }

  async #accept(): Promise<void> {
    try {
      for await (const here of this.#listener) void this.#carry(here);
    } catch {
      // Closed.
    }
  }

  async #carry(here: Deno.Conn): Promise<void> {
    this.#open.add(here);
    try {
      const there = await Deno.connect({ hostname: "127.0.0.1", port: this.target });
      this.#open.add(there);
      await Promise.all([this.#pump("there", here, there), this.#pump("back", there, here)]);
    } catch {
      // The target is away.
    } finally {
      closeQuietly(here);
    }
  }

  async #pump(direction: "there" | "back", from: Deno.Conn, to: Deno.Conn): Promise<void> {
    const buffer = new Uint8Array(64 * 1024);
    try {
      for (let count; (count = await from.read(buffer)) !== null;) {
        const piece = buffer.subarray(0, count);
        const verdict = await this.look(direction, latin1.decode(piece), piece);
        if (verdict === "cut") return this.cut();
        for (let done = 0; done < count;) done += await to.write(piece.subarray(done));
        if (direction === "there") this.bytesThere += count;
      }
    } catch {
      // One of the ends is gone.
    } finally {
      closeQuietly(to);
      closeQuietly(from);
      this.#open.delete(from);
      this.#open.delete(to);
    }
  }
}

const latin1 = new TextDecoder("latin1");

function closeQuietly(closable: { close(): void }): void {
  try {
    closable.close();
  } catch {
    // Closed already.
  }
}
