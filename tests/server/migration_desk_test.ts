import { assertEquals, assertStringIncludes } from "@std/assert";
import { answerQuery } from "../../src/server/migration_desk.ts";
import { decodeMigrationAnswer } from "../../src/wire/nbd/migration_message.ts";

Deno.test({
  name: "V56: a source of a later version is refused with both versions, and the desk hears nothing of it",
  permissions: "none",
  async fn() {
    const asked: string[] = [];
    const desk = {
      answer: () => {
        asked.push("answer");
        return Promise.resolve({ is: "fresh" } as const);
      },
      enter: () => () => {},
    };
    const peer = { transport: "memory", address: "memory", text: "memory" } as const;
    const query = "x-denbd:migration/2?verb=hello";
    const answer = decodeMigrationAnswer(await answerQuery(desk, query, peer, (id) => void asked.push(id)));
    if (answer?.is !== "refused") throw new Error(`answered ${answer?.is}`);
    assertStringIncludes(answer.reason, `"${query}", this program knows version 1`);
    assertEquals(asked, []);
  },
});
