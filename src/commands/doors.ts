/** The sockets on which a server waits for clients; which they are may change while it runs. */
import { type Endpoint, formatEndpoint } from "../base/endpoint.ts";
import { type Listener, listenTcp, listenUnix } from "../net/listener.ts";

interface Door {
  readonly endpoint: Endpoint;
  readonly listener: Listener;
  readonly serving: Promise<void>;
}

export class Doors {
  readonly #serve: (listener: Listener) => Promise<void>;
  /** By the text of the endpoint. */
  readonly #doors = new Map<string, Door>();
  /** Those that were handed over; they stay. */
  readonly #adopted: { readonly listener: Listener; readonly serving: Promise<void> }[] = [];

  /** @param serve Takes the connections of a listener until that is closed. */
  constructor(serve: (listener: Listener) => Promise<void>) {
    this.#serve = serve;
  }

  /** Where clients find them: `127.0.0.1:10809`, `unix:/run/disk.sock`. */
  get texts(): string[] {
    return [...this.#adopted, ...this.#doors.values()].map(({ listener }) => listener.text);
  }

  /** Serves a listener that somebody else has made. */
  adopt(listener: Listener): void {
    this.#adopted.push({ listener, serving: this.#serve(listener) });
  }

  /**
   * Listens on these endpoints, and no longer on others. Who came in by one that is closed stays.
   *
   * @throws If one of them is taken or cannot be; then all is as it was.
   */
  async set(endpoints: readonly Endpoint[]): Promise<void> {
    const wanted = new Map(endpoints.map((endpoint) => [formatEndpoint(endpoint), endpoint]));
    const leaving = [...this.#doors].filter(([text]) => !wanted.has(text));
    // Two addresses that include each other cannot have one port at the same time.
    const inTheWay = leaving.filter(([, { endpoint }]) =>
      endpoint.transport === "tcp" && endpoints.some((other) => samePort(endpoint, other))
    );
    const opened: string[] = [];
    try {
      for (const [text] of inTheWay) await this.#close(text);
      for (const [text, endpoint] of wanted) {
        if (this.#doors.has(text)) continue;
        await this.#open(text, endpoint);
        opened.push(text);
      }
    } catch (error) {
      for (const text of opened) await this.#close(text);
      for (const [text, { endpoint }] of inTheWay) await this.#open(text, endpoint);
      throw error;
    }
    for (const [text] of leaving) await this.#close(text);
  }

  /** Takes no more clients. Returns when nothing waits for any. */
  async close(): Promise<void> {
    for (const { listener } of this.#adopted) listener.close();
    for (const { listener } of this.#doors.values()) listener.close();
    await Promise.all([...this.#adopted, ...this.#doors.values()].map(({ serving }) => serving));
    this.#doors.clear();
    this.#adopted.length = 0;
  }

  async #open(text: string, endpoint: Endpoint): Promise<void> {
    const listener = endpoint.transport === "unix"
      ? await listenUnix(endpoint.path)
      : listenTcp(endpoint.host, endpoint.port);
    this.#doors.set(text, { endpoint, listener, serving: this.#serve(listener) });
  }

  async #close(text: string): Promise<void> {
    const door = this.#doors.get(text);
    if (door === undefined) return;
    this.#doors.delete(text);
    door.listener.close();
    await door.serving;
  }
}

function samePort(one: Endpoint, other: Endpoint): boolean {
  return one.transport === "tcp" && other.transport === "tcp" && one.port === other.port && one.port !== 0;
}
