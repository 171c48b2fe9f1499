// What is drawn, as numbers: series of a curve, ticks of an axis, names and mean of a histogram.
//
// The one rule: numbers in, numbers out. What was not measured (null, not a number) is left out, never drawn as zero.

/** Points that are kept; beyond it every second one goes, as on the server. */
export const MOST_POINTS = 1024;

/** The history with one more point. */
export function extended(points, point) {
  const last = points.at(-1);
  if (last && point.seconds <= last.seconds) return points;
  const longer = [...points, point];
  return longer.length <= MOST_POINTS ? longer : longer.filter((_, index) => (longer.length - 1 - index) % 2 === 0);
}

/** The names of all figures of a group, "loss" first, then in alphabetical order. */
export function figureNames(points, group) {
  const names = new Set(points.flatMap((point) => Object.keys(point.groups[group]?.figures ?? {})));
  return [...names].sort((one, other) => (other === "loss") - (one === "loss") || (one < other ? -1 : 1));
}

/** One figure over `over`: "seconds" or "min_clock". */
export function series(points, group, figure, over = "seconds") {
  const found = [];
  for (const point of points) {
    const there = point.groups[group];
    const y = there?.figures?.[figure];
    if (Number.isFinite(y)) found.push({ x: over === "seconds" ? point.seconds : there[over], y });
  }
  return found;
}

/**
 * How much a total of a group ("version", "updates") grew a second, at each point: since the newest one that is
 * `over` seconds older, or else since the first.
 */
export function rates(points, group, total, over = 5) {
  const found = [];
  let before = 0;
  for (let index = 1; index < points.length; index += 1) {
    const after = points[index];
    while (before + 1 < index && points[before + 1].seconds <= after.seconds - over) before += 1;
    const grown = after.groups[group]?.[total] - points[before].groups[group]?.[total];
    const passed = after.seconds - points[before].seconds;
    if (grown >= 0 && passed > 0) found.push({ x: after.seconds, y: grown / passed });
  }
  return found;
}

/** What the time axis of a run this long is told in: `{name, size}`, the size in seconds. */
export function timeUnit(seconds) {
  if (seconds > 3 * 3600) return { name: "hours", size: 3600 };
  return seconds > 300 ? { name: "minutes", size: 60 } : { name: "seconds", size: 1 };
}

/** The next of 1, 2, 5, 10, 20, ... that is not below `value`. */
export function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= value * (1 - 1e-9));
}

/** About `count` round values from `low` to `high`, all within. */
export function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const step = roundUp((high - low) / count);
  const found = [];
  const last = Math.floor(high / step + 1e-9);
  for (let index = Math.ceil(low / step - 1e-9); index <= last; index += 1) found.push(index * step);
  return found;
}

/** What each bar of a histogram counts: 0, 1, 4–5, ..., >55. Upper bounds are included. */
export function bucketNames(bounds) {
  const names = bounds.map((bound, index) => {
    const from = index === 0 ? bound : bounds[index - 1] + 1;
    return from === bound ? String(bound) : `${from}–${bound}`;
  });
  return [...names, `>${bounds.at(-1)}`];
}

/**
 * The mean of a histogram, and whether it is exact: a bar of several values counts with its middle, the last with its
 * lower end. Null without counts.
 */
export function histogramMean(bounds, counts) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return null;
  let sum = 0;
  let exact = true;
  counts.forEach((count, index) => {
    const from = index === 0 ? bounds[0] : bounds[index - 1] + 1;
    const to = index < bounds.length ? bounds[index] : from;
    sum += (count * (from + to)) / 2;
    if (count && (from !== to || index === bounds.length)) exact = false;
  });
  return { mean: sum / total, exact };
}
