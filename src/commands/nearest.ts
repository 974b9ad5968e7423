/** The candidate that is few typing errors away, or the only one that starts so. */
export function nearest(word: string, candidates: readonly string[]): string | null {
  const starting = candidates.filter((each) => word !== "" && each.startsWith(word));
  if (starting.length === 1) return starting[0];
  const limit = word.length <= 5 ? 2 : 3;
  let best: { name: string; distance: number } | null = null;
  for (const name of candidates) {
    const distance = editDistance(word, name, limit);
    if (distance < limit && (best === null || distance < best.distance)) best = { name, distance };
  }
  return best?.name ?? null;
}

/** Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`; at most `limit`. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit;
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, index) => index)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let cost = Math.min(rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        cost = Math.min(cost, rows[i - 2][j - 2] + 1);
      }
      row.push(cost);
    }
    rows.push(row);
  }
  return Math.min(rows[a.length][b.length], limit);
}
