/**
 * Waits for the end of all, even if one fails: only then is what they work on, a buffer for instance, the caller's again.
 *
 * @returns What each has come to.
 * @throws What the first of them, in their order, has thrown.
 */
export async function allAtRest<Value>(
  promises: Iterable<Value | PromiseLike<Value>>,
): Promise<Awaited<Value>[]> {
  const ended = await Promise.allSettled(promises);
  return ended.map((each) => {
    if (each.status === "rejected") throw each.reason;
    return each.value;
  });
}
