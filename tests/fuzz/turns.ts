/** Waiting that follows from the seed: in turns of the microtask queue, not in time. */

/** Lets everything else that is ready go first, so many times. */
export async function turns(count: number): Promise<void> {
  for (; count > 0; count--) await undefined;
}

/**
 * Waits for a promise of something that needs no time: whatever is still pending after seconds hangs.
 *
 * @throws {Error} If it hangs.
 */
export async function settled<T>(promise: Promise<T>, what: string, deadlineMs = 10_000): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} hangs`)), deadlineMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
