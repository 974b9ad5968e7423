import { assertEquals } from "@std/assert";
import { denbdFacts } from "../../src/remote/nbd_export.ts";
import { TransmissionFlag } from "../../src/wire/nbd/constants.ts";
import { encodeFacts } from "../../src/wire/nbd/denbd_context.ts";
import type { ClientAgreement } from "../../src/wire/nbd/handshake_client.ts";

Deno.test(
  "that others write is news for who may not write, and for nobody else",
  { permissions: "none" },
  () => {
    const agreement = (transmissionFlags: number) => ({
      sizeBytes: 4096,
      transmissionFlags: TransmissionFlag.HAS_FLAGS | transmissionFlags,
      contexts: encodeFacts({ othersWrite: true }).map((name, id) => ({ id, name })),
    } as unknown as ClientAgreement);
    assertEquals(denbdFacts(agreement(TransmissionFlag.READ_ONLY)), { othersWrite: true });
    // The second connection of a session hears it before the server knows whose it is.
    assertEquals(denbdFacts(agreement(0)), {});
  },
);
