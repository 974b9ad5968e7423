/** Where a proxy gets what it does not have: an image at other servers. Which ones, and how, is not its business. */
import type { ChecksumList } from "../../wire/dnbd3/checksum_list.ts";
import type { SelectedImage } from "../../wire/dnbd3/message.ts";

/** One image at whichever other server is best. */
export interface Uplink {
  readonly image: SelectedImage;
  /** Those of the servers, or null as long as none had any. */
  readonly checksums: ChecksumList | null;
  /**
   * Fetches a block; waits for a server as long as there is none.
   *
   * @param hops The hop byte to send.
   * @returns Which server it came from.
   * @throws If no server gives it.
   */
  fetch(offset: number, into: Uint8Array, hops: number): Promise<string>;
  /** A server sent what is not in the image: it is asked no more for a while. */
  distrust(server: string): void;
  /** Look for another server than the present one, which may not be asked for a while. */
  avoidServer(reason: string, forMs: number): void;
  status(): UplinkStatus;
  close(): Promise<void>;
}

export interface UplinkStatus {
  /** Null while there is none. */
  readonly server: string | null;
  readonly servers: readonly {
    readonly server: string;
    /** Null before it was measured. */
    readonly roundTripMs: number | null;
    readonly failures: number;
    /** How often it was caught sending what is not in the image. */
    readonly lies: number;
  }[];
}

/** An image as a proxy knows it. */
export interface KnownCopy {
  readonly image: SelectedImage;
  readonly checksums: ChecksumList | null;
}

/** The servers that a proxy copies from. */
export interface Upstream {
  /** Whether any of them is for images of this name. */
  covers(name: string): boolean;
  /**
   * Asks them for an image.
   *
   * @param revision 0: the newest.
   * @param refuse Says why an image is not wanted, or null.
   * @returns The first that is offered and wanted, or null.
   */
  find(
    name: string,
    revision: number,
    refuse: (image: SelectedImage) => string | null,
  ): Promise<Uplink | null>;
  /** Goes on with an image; null if there is no server for it. */
  resume(known: KnownCopy): Uplink | null;
}
