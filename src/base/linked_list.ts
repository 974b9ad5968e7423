/**
 * Values in the order in which they were added, of which any can be removed by its place.
 *
 * A Map or a Set does that, too. But where values come and go all the time it is rebuilt again and again, and each
 * rebuilt table is held by the one before it, with all that was in it then: what was young and gone outlives the
 * collections that would have freed it at no cost.
 */

/** Where a value stands; of use to its list alone. */
export class Place<T> {
  before: Place<T> | null = null;
  after: Place<T> | null = null;

  constructor(readonly list: LinkedList<T>, readonly value: T) {}
}

export class LinkedList<T> {
  #first: Place<T> | null = null;
  #last: Place<T> | null = null;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** Adds a value behind all others. */
  add(value: T): Place<T> {
    const place = new Place(this, value);
    const last = this.#last;
    place.before = last;
    if (last === null) this.#first = place;
    else last.after = place;
    this.#last = place;
    this.#size++;
    return place;
  }

  /** Removes the value that stands there. A place is good for one removal. */
  remove(place: Place<T>): void {
    const { before, after } = place;
    if (before === null) this.#first = after;
    else before.after = after;
    if (after === null) this.#last = before;
    else after.before = before;
    place.before = place.after = null;
    this.#size--;
  }

  /** In order. Only the value that was met last may be removed meanwhile. */
  *[Symbol.iterator](): Generator<T> {
    for (let place = this.#first; place !== null;) {
      const next: Place<T> | null = place.after;
      yield place.value;
      place = next;
    }
  }
}
