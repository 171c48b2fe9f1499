// Totals of the last half minute, and what their differences say: rates and shares of time.
//
// The one rule: a rate is a difference of two measured totals over the server's own time between them. Nothing is
// guessed: where there are not yet two measurements apart enough, the answer is null.

/** Seconds that the page looks back. */
export const WINDOW_SECONDS = 30;

/** Between two measurements that say anything. */
export const APART_SECONDS = 0.5;

export class Trail {
  #kept = [];

  constructor(seconds = WINDOW_SECONDS) {
    this.seconds = seconds;
  }

  /** `at`: seconds on the server's clock, never decreasing. `totals`: a Map of name to a total that only grows. */
  add(at, totals) {
    const kept = this.#kept;
    // The newest is always there; those before it stand apart, so that memory does not grow with the pace of news.
    if (kept.length > 1 && kept.at(-1).at - kept.at(-2).at < APART_SECONDS) kept.pop();
    kept.push({ at, totals });
    while (kept.length > 2 && kept[1].at <= at - this.seconds) kept.shift();
  }

  /** How much the total grew a second, over at most the last `seconds`. Null: not known. */
  rate(name, seconds = this.seconds) {
    const newest = this.#kept.at(-1);
    const last = newest?.totals.get(name);
    if (last === undefined) return null;
    const from = newest.at - seconds;
    let first = null;
    for (let index = this.#kept.length - 2; index >= 0; index -= 1) {
      const total = this.#kept[index].totals.get(name);
      // A total that was larger before belongs to a life before this one.
      if (total === undefined || total > last) break;
      first = this.#kept[index];
      if (first.at <= from) break;
    }
    const passed = first ? newest.at - first.at : 0;
    return passed < APART_SECONDS ? null : (last - first.totals.get(name)) / passed;
  }

  /** The same for a total of seconds: the share of time, 0 to 1. */
  share(name, seconds = this.seconds) {
    const rate = this.rate(name, seconds);
    return rate === null ? null : Math.min(1, Math.max(0, rate));
  }
}
