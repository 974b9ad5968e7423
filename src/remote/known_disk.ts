/** What is known of a disk, by which it is recognised when connections to its server are made anew. */
import type { DenbdFacts } from "../wire/nbd/denbd_context.ts";
import type { ClientAgreement } from "../wire/nbd/handshake_client.ts";
import { denbdFacts, type ExportFacts, exportFacts } from "./nbd_export.ts";

export class KnownDisk {
  /** For as long as the disk is used. */
  readonly facts: ExportFacts;
  /** Whether lengths may have 64 bits; for as long as the disk is used. */
  readonly extended: boolean;
  /** What a denbd server said last. */
  denbd: DenbdFacts;

  constructor(agreement: ClientAgreement) {
    this.facts = exportFacts(agreement);
    this.extended = agreement.extended;
    this.denbd = denbdFacts(agreement);
  }

  /** What keeps an export from being the disk, as good as it was; or `null`. */
  whatChanged(agreement: ClientAgreement): string | null {
    const identity = denbdFacts(agreement).identity;
    const known = this.denbd.identity;
    if (known !== undefined && identity?.uuid !== known.uuid) {
      return `it is another disk: ${identity?.uuid ?? "it has no identity"} instead of ${known.uuid}`;
    }
    if (known !== undefined && identity!.generation < known.generation) {
      return `it is an older state of the disk: generation ${identity!.generation} after ${known.generation}`;
    }
    const [before, after] = [this.facts, exportFacts(agreement)];
    if (after.sizeBytes < before.sizeBytes) {
      return `its size is ${after.sizeBytes} bytes instead of ${before.sizeBytes}`;
    }
    if (before.can.write && !after.can.write) return "it is read-only now";
    for (const [ability, had] of Object.entries(before.can)) {
      if (had && ability !== "rotational" && !after.can[ability as keyof typeof after.can]) {
        return `it no longer offers ${ability}`;
      }
    }
    if (after.blockSizes.minimum > before.blockSizes.minimum) {
      return `its blocks have ${after.blockSizes.minimum} bytes instead of ${before.blockSizes.minimum}`;
    }
    if (after.blockSizes.maximumPayload < before.blockSizes.maximumPayload) {
      return `it takes only ${after.blockSizes.maximumPayload} bytes at a time`;
    }
    if (this.extended && !agreement.extended) return "it no longer knows long requests";
    return null;
  }

  /** Whether a denbd server is the process that it was, which has lost nothing. */
  isSameInstance({ instance }: DenbdFacts): boolean {
    return instance !== undefined && instance === this.denbd.instance;
  }

  /** Whether the server has kept the disk for us all the while. */
  keptReservation({ reservation }: DenbdFacts): boolean {
    return reservation !== undefined && reservation === this.denbd.reservation;
  }

  /** Whether the content is what it was, but for what we have changed. */
  provesContent(now: DenbdFacts, soleWriter: boolean): boolean {
    const known = this.denbd;
    if (now.reservation !== known.reservation) return false;
    if (now.reservation !== undefined || this.isSameInstance(now)) return true;
    const { identity } = now;
    return identity !== undefined && identity.uuid === known.identity?.uuid &&
      (soleWriter || identity.generation === known.identity.generation);
  }
}
