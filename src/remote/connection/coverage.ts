/**
 * Which bytes of a request have been answered.
 *
 * A server may answer a READ in pieces in any order, but may answer no byte twice and must leave none out.
 * Pieces in rising order, which is what servers do, cost nothing.
 */

/** Pieces that touch no other: a server that leaves more gaps than this is up to no good. */
const GAPS_MAX = 4096;

export class Coverage {
  /** Disjoint, rising, never touching: start and end alternate. */
  #bounds: number[] = [];

  /**
   * Claims a range.
   *
   * @param offset First byte, counted from the request's start.
   * @param length In bytes, above zero; the caller has checked that the range lies inside the request.
   * @returns `false`, having changed nothing, if some byte was claimed before or there are too many gaps.
   */
  claim(offset: number, length: number): boolean {
    const bounds = this.#bounds;
    const end = offset + length;
    // The first range that ends at or behind our start; the search begins where it mostly ends.
    let at = bounds.length;
    while (at > 0 && bounds[at - 1] >= offset) at -= 2;
    const joinsBefore = at < bounds.length && bounds[at + 1] === offset;
    if (joinsBefore) at += 2;
    if (at < bounds.length && bounds[at] < end) return false;
    const joinsBehind = at < bounds.length && bounds[at] === end;
    if (joinsBefore && joinsBehind) bounds.splice(at - 1, 2);
    else if (joinsBefore) bounds[at - 1] = end;
    else if (joinsBehind) bounds[at] = offset;
    else if (bounds.length >= 2 * GAPS_MAX) return false;
    else bounds.splice(at, 0, offset, end);
    return true;
  }

  /** Whether everything from 0 to `length` has been claimed. */
  isComplete(length: number): boolean {
    return this.#bounds.length === 2 && this.#bounds[0] === 0 && this.#bounds[1] === length;
  }
}
