// Staleness, and who held the others: rows of a name, a bar and a number.
//
// The one rule: every bar has its number beside it; length alone is for the glance. A row has room for any name and any
// number, so nothing runs together however many rows there are.

import { el, keyed, setAttribute, setProperty, setText, show, span } from "./dom.js";
import { bucketNames, histogramMean } from "./figures.js";
import { count as countWords, duration, NOTHING, percent, shortName, whole } from "./words.js";

/** Rows that are shown even when they are empty: the picture does not jump with the first stale update. */
const LEAST_ROWS = 6;

const MOST_HOLDERS = 8;

const RANK_LETTERS = 14;

export function drawStaleness(place, note, histogram) {
  const { bounds, counts } = histogram ?? { bounds: [0], counts: [0, 0] };
  const mean = histogramMean(bounds, counts);
  setText(note, mean ? `mean ${mean.exact ? "" : "about "}${mean.mean.toFixed(2)}` : "no update yet");
  const last = Math.max(LEAST_ROWS - 1, counts.findLastIndex((count) => count > 0));
  const total = counts.reduce((sum, count) => sum + count, 0);
  const most = Math.max(1, ...counts);
  const names = bucketNames(bounds);
  const rows = counts.slice(0, last + 1).map((count, index) => ({ name: names[index], count }));
  keyed(place, rows, ({ name }) => name, () => makeRow("stale-row", "count"), (node, { name, count }) => {
    fill(node, name, count / most, countWords(count));
    setAttribute(node, "title", `staleness ${name}: ${whole(count)} of ${whole(total)} updates`);
    setAttribute(node, "aria-label", `staleness ${name}: ${whole(count)} updates`);
  });
}

export function drawHeld(place, note, view) {
  const here = view.workers.map(({ rank, heldSeconds, heldShare }) => ({ rank, heldSeconds, heldShare, left: false }));
  const gone = view.gone.map((one) => ({ ...one, heldShare: null, left: true }));
  const held = [...here, ...gone].filter(({ heldSeconds }) => heldSeconds > 0);
  held.sort((one, other) => other.heldSeconds - one.heldSeconds);
  const shown = held.slice(0, MOST_HOLDERS);
  const more = held.length - shown.length;
  const rest = more ? `; ${whole(more)} more held less` : "";
  setText(note, shown.length ? `time in which others waited for it${rest}` : nobodyHeld(view));
  show(place, shown.length > 0);
  const keyOf = ({ rank, left }) => `${left ? "left" : "here"} ${rank}`;
  keyed(place, shown, keyOf, () => makeRow("held-row", "value"), (node, { rank, heldSeconds, heldShare, left }) => {
    fill(node, shortName(rank, RANK_LETTERS), heldSeconds / shown[0].heldSeconds, duration(heldSeconds));
    setAttribute(node, "data-left", left ? "" : null);
    const total = `others waited ${duration(heldSeconds)} for ${rank}`;
    const now = left ? "it has left" : `of the last 10 s: ${heldShare === null ? NOTHING : percent(heldShare)}`;
    setAttribute(node, "title", `${total}; ${now}`);
  });
}

/** Times are those of live workers, and of those that have left while this page looked on. */
function nobodyHeld({ workers, version }) {
  if (workers.length) return "So far nobody has waited for anybody.";
  return version > 0 ? "No worker is here; of those that have left it is not known." : "Nobody is here to wait.";
}

function makeRow(kind, number) {
  return el("div", { class: kind, role: "listitem" }, span("name"), span("bar"), span(number));
}

function fill(node, name, share, number) {
  const [nameNode, bar, numberNode] = node.children;
  setText(nameNode, name);
  setProperty(bar, "--share", share.toFixed(4));
  setText(numberNode, number);
}
