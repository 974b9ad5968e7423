/**
 * Waits, but no longer than until the signal fires.
 *
 * @throws The signal's reason, and what `waiting` is rejected with.
 */
export async function interruptible<T>(waiting: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = () => reject(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  waiting.catch(() => {});
  try {
    return await Promise.race([waiting, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
