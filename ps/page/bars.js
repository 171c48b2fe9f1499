// Staleness as columns, and who held the others as bars.
//
// The one rule: every bar has its number beside it; length alone is for the glance.

import { el, keyed, setAttribute, setProperty, setText, span } from "./dom.js";
import { bucketNames, histogramMean } from "./figures.js";
import { duration, NOTHING, percent, whole } from "./words.js";

/** Columns that are shown even when they are empty: the picture does not jump with the first stale update. */
const LEAST_COLUMNS = 6;

const MOST_HOLDERS = 8;

export function drawStaleness(place, note, histogram) {
  const { bounds, counts } = histogram ?? { bounds: [0], counts: [0, 0] };
  const mean = histogramMean(bounds, counts);
  setText(note, mean ? `mean ${mean.exact ? "" : "about "}${mean.mean.toFixed(2)}` : "no update yet");
  const last = Math.max(LEAST_COLUMNS - 1, counts.findLastIndex((count) => count > 0));
  const total = counts.reduce((sum, count) => sum + count, 0);
  const most = Math.max(1, ...counts);
  const names = bucketNames(bounds);
  const columns = counts.slice(0, last + 1).map((count, index) => ({ name: names[index], count }));
  keyed(place, columns, ({ name }) => name, makeColumn, (node, { name, count }) => {
    const [number, , label] = node.children;
    setText(number, short(count));
    setText(label, name);
    setProperty(node, "--share", (count / most).toFixed(4));
    setAttribute(node, "title", `staleness ${name}: ${whole(count)} of ${whole(total)} updates`);
    setAttribute(node, "aria-label", `staleness ${name}: ${whole(count)} updates`);
  });
}

function makeColumn() {
  return el("div", { class: "column", role: "listitem" }, span("count"), span("bar"), span("label"));
}

function short(count) {
  if (count >= 1e6) return `${(count / 1e6).toPrecision(3)}M`;
  return count >= 1e4 ? `${Math.round(count / 1000)}k` : whole(count);
}

export function drawHeld(place, note, view) {
  const held = [...view.workers].sort((one, other) => other.heldSeconds - one.heldSeconds);
  const most = held[0]?.heldSeconds ?? 0;
  const shown = most > 0 ? held.slice(0, MOST_HOLDERS) : [];
  const more = held.length - shown.length;
  const rest = more ? `; ${more} more held less` : "";
  setText(note, most > 0 ? `time in which others waited for it${rest}` : "Nobody has waited for anybody.");
  keyed(place, shown, ({ rank }) => rank, makeBar, (node, worker) => {
    const [rank, bar, value] = node.children;
    setText(rank, worker.rank);
    setProperty(bar, "--share", (worker.heldSeconds / most).toFixed(4));
    const now = worker.heldShare === null ? NOTHING : percent(worker.heldShare);
    setText(value, duration(worker.heldSeconds));
    const total = `others waited ${duration(worker.heldSeconds)} for ${worker.rank}`;
    setAttribute(node, "title", `${total}; of the last 10 s: ${now}`);
  });
}

function makeBar() {
  return el("div", { class: "held-row", role: "listitem" }, span("rank"), span("bar"), span("value"));
}
