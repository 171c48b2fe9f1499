// The field: all workers at once, where a lane for each would be too much.
//
// The one rule: everybody is counted, in exactly one row.

import { el, keyed, setAttribute, setProperty, setText, span } from "./dom.js";
import { counted, names, NOTHING, whole } from "./words.js";

const STATES = ["computing", "waiting", "idle"];

const MOST_BINS = 12;

/** For each distance from the slowest how many stand there, and in which state. */
export function drawField(field, workers, course) {
  const width = Math.max(1, Math.ceil((course.last + 1) / MOST_BINS));
  const bins = [];
  for (let from = 0; from <= course.last; from += width) {
    const here = workers.filter((worker) => worker.lag >= from && worker.lag < from + width);
    bins.push({ from, to: from + width - 1, here, beyond: course.gate !== null && from > course.gate });
  }
  const most = Math.max(1, ...bins.map((bin) => bin.here.length));
  keyed(field, bins, ({ from }) => from, makeBin, (node, bin) => {
    const [label, stack, said] = node.children;
    setAttribute(node, "class", bin.beyond ? "bin beyond" : "bin");
    setText(label, bin.from === bin.to ? `+${bin.from}` : `+${bin.from}–${bin.to}`);
    const counts = STATES.map((state) => ({ state, count: bin.here.filter((one) => one.state === state).length }));
    const there = counts.filter(({ count }) => count);
    keyed(stack, there, ({ state }) => state, () => el("span"), (part, { state, count }) => {
      setProperty(part, "--share", (count / most).toFixed(4));
      setAttribute(part, "class", `part ${state}`);
    });
    const awaited = bin.here.filter((worker) => worker.awaitedBy > 0).map((worker) => worker.rank);
    const states = there.map(({ state, count }) => `${whole(count)} ${state === "idle" ? "on the way" : state}`);
    const whom = awaited.length ? `; others wait for ${names(awaited)}` : "";
    setText(said, states.length ? `${states.join(", ")}${whom}` : NOTHING);
    setAttribute(node, "aria-label", `${counted(bin.here.length, "worker")} ${label.textContent}`);
  });
}

function makeBin() {
  return el("div", { role: "listitem" }, span("label"), span("stack"), span("said"));
}
