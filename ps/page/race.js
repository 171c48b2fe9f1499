// The race: a lane for each worker, placed by how far it is ahead of the slowest, with the bound as a gate.
//
// The one rule: a runner stands where its clock was measured. From one measurement to the next it glides for an eighth
// of a second, never beyond the newer one; whoever prefers no motion sees none.

import { el, keyed, setAttribute, setProperty, setText, show, span, symbol } from "./dom.js";
import { drawField } from "./field.js";
import { notable, track, trouble } from "./glance.js";
import { doing, figure, percent, whole } from "./words.js";

/** With more workers than this the field is shown first, and the lanes of a few. */
const MANY = 60;
const FEW = 12;

/** The few stay for so long, so that one can read them. */
const FEW_SECONDS = 3;

/** With more lanes than this each is half as high. */
const COMPACT = 16;

/** Ticks on the axis, the two ends included. */
const MOST_TICKS = 11;

export class Race {
  #nodes;
  #onChosen;
  #redraw;
  #all = false;
  #focused = null;
  #few = { ranks: new Set(), until: 0 };
  #chosen = "";

  /** `nodes`: the elements of the page by name. `onChosen(rank)`: a lane was chosen, or none ("") any more. */
  constructor(nodes, onChosen, redraw) {
    this.#nodes = nodes;
    this.#onChosen = onChosen;
    this.#redraw = redraw;
    nodes.showAll.addEventListener("click", () => this.toggleAll());
    nodes.rows.addEventListener("keydown", (event) => this.#key(event));
    nodes.rows.addEventListener("click", (event) => this.#choose(event.target.closest(".lane")));
    nodes.rows.addEventListener("focusin", (event) => this.#focus(event.target.closest(".lane")));
  }

  /** All lanes, or the field and a few of them. */
  toggleAll() {
    this.#all = !this.#all;
    this.#redraw();
  }

  /** The rank whose decisions are shown: its lane is marked. */
  mark(rank) {
    this.#chosen = rank;
  }

  focus() {
    (this.#nodes.rows.querySelector('[tabindex="0"]') ?? this.#nodes.showAll).focus();
  }

  draw(view) {
    const { lanes, showAll, note, field, rows, figureHead } = this.#nodes;
    const { workers } = view;
    const course = track(view);
    const many = workers.length > MANY;
    const shown = many && !this.#all ? this.#chooseFew(workers) : workers;
    const last = course.last + 1;
    setProperty(lanes, "--columns", String(last));
    setProperty(lanes, "--gate", course.gate === null ? "2" : ((course.gate + 0.5) / last).toFixed(4));
    setAttribute(lanes, "data-gate", course.gate === null ? null : "");
    lanes.classList.toggle("compact", shown.length > COMPACT);
    lanes.classList.toggle("wide-columns", last <= 24);
    this.#axis(course, view.min_clock);
    show(showAll, many);
    setText(showAll, this.#all ? "Show the field" : `Show all ${whole(workers.length)} lanes`);
    setAttribute(showAll, "aria-pressed", String(this.#all));
    const summed = many && !this.#all;
    setText(note, summed ? `the field, and ${FEW} lanes that matter most now` : "iterations ahead of the slowest");
    show(field, summed);
    if (summed) drawField(field, workers, course);
    const reported = reportedName(workers);
    setText(figureHead, reported);
    if (!shown.some((worker) => worker.rank === this.#focused)) this.#focused = shown[0]?.rank ?? null;
    const update = (node, worker) => this.#lane(node, worker, view, last, reported);
    keyed(rows, shown, (worker) => worker.rank, makeLane, update);
  }

  #chooseFew(workers) {
    const kept = workers.filter((worker) => this.#few.ranks.has(worker.rank));
    if (kept.length === FEW && performance.now() < this.#few.until) return kept;
    const chosen = notable(workers, FEW);
    const ranks = new Set(chosen.map((worker) => worker.rank));
    this.#few = { ranks, until: performance.now() + FEW_SECONDS * 1000 };
    return chosen;
  }

  #lane(node, worker, view, last, reported) {
    const { rank, runner, words, clock, lag, value, share } = node.parts;
    const at = ((worker.lag + 0.5) / last).toFixed(4);
    setAttribute(node, "data-rank", worker.rank);
    setAttribute(node, "data-state", worker.state);
    setAttribute(node, "data-awaited", worker.awaitedBy || null);
    setAttribute(node, "tabindex", worker.rank === this.#focused ? "0" : "-1");
    setAttribute(node, "aria-selected", String(worker.rank === this.#chosen));
    setText(rank, worker.rank);
    setAttribute(rank, "title", `${worker.rank}, life ${worker.incarnation}`);
    setProperty(node, "--at", at);
    if (runner.dataset.state !== worker.state) {
      runner.dataset.state = worker.state;
      runner.replaceChildren(symbol(worker.state));
    }
    const said = doing(worker, view.policy.staleness);
    setText(words.doing, said);
    setAttribute(words.doing, "title", worker.why?.detail ?? null);
    show(words.awaited, worker.awaitedBy > 0);
    setText(words.awaitedText, `${whole(worker.awaitedBy)} ${worker.awaitedBy === 1 ? "waits" : "wait"} for it`);
    const silent = trouble(worker);
    show(words.silent, silent !== null);
    if (silent) setText(words.silentText, silent);
    setText(clock, whole(worker.clock));
    setText(lag, worker.lag ? `+${whole(worker.lag)}` : "0");
    setAttribute(value, "data-label", reported);
    setText(value, figure(worker.reported[reported]));
    setText(share.firstElementChild, percent(worker.waitingShare));
    setProperty(share, "--share", (worker.waitingShare ?? 0).toFixed(3));
  }

  #axis(course, minClock) {
    const { axis } = this.#nodes;
    const every = Math.max(1, Math.ceil((course.last + 1) / MOST_TICKS));
    const marks = [];
    for (let lag = 0; lag <= course.last; lag += every) {
      const text = lag === 0 ? `clock ${whole(minClock)}` : `+${lag}`;
      marks.push({ key: `tick ${lag}`, kind: "tick", at: (lag + 0.5) / (course.last + 1), text });
    }
    if (course.label) {
      const at = course.gate === null ? 1 : (course.gate + 0.5) / (course.last + 1);
      marks.push({ key: "gate", kind: at === 1 ? "gate-name end" : "gate-name", at, text: course.label });
    }
    keyed(axis, marks, ({ key }) => key, () => el("span"), (node, mark) => {
      setAttribute(node, "class", mark.kind);
      setProperty(node, "--at", mark.at.toFixed(4));
      setText(node, mark.text);
    });
  }

  #key(event) {
    const lane = event.target.closest(".lane");
    if (!lane || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...this.#nodes.rows.children];
    const here = all.indexOf(lane);
    const target = { ArrowUp: here - 1, ArrowDown: here + 1, Home: 0, End: all.length - 1 }[event.key];
    if (target !== undefined) all[Math.min(all.length - 1, Math.max(0, target))].focus();
    else if (event.key === "Enter" || event.key === " ") this.#choose(lane);
    else return;
    event.preventDefault();
  }

  /** One lane is in the order of Tab; the arrow keys move among the others. */
  #focus(lane) {
    if (!lane) return;
    for (const other of this.#nodes.rows.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    lane.tabIndex = 0;
    this.#focused = lane.dataset.rank;
  }

  #choose(lane) {
    if (lane) this.#onChosen(lane.dataset.rank === this.#chosen ? "" : lane.dataset.rank);
  }
}

function makeLane() {
  const cell = (kind, label, ...inner) => el("span", { class: kind, role: "cell", "data-label": label }, ...inner);
  const told = (kind, sign) => {
    const text = el("span");
    return [el("span", { class: kind, hidden: "" }, symbol(sign), text), text];
  };
  const doingNode = span("doing");
  const [awaited, awaitedText] = told("awaited", "hourglass");
  const [silent, silentText] = told("silent-note", "silent");
  const runner = span("runner");
  const parts = {
    rank: el("span", { class: "rank", role: "rowheader" }),
    runner,
    words: { doing: doingNode, awaited, awaitedText, silent, silentText },
    clock: cell("number", "clock"),
    lag: cell("number ahead", "ahead"),
    value: cell("number", "loss"),
    share: cell("number share", "waited", el("span")),
  };
  const course = cell("course", "place", span("trace"), runner);
  const node = el("div", { class: "lane", role: "row" });
  const sentence = cell("words", "", awaited, doingNode, silent);
  node.append(parts.rank, course, sentence, parts.clock, parts.lag, parts.value, parts.share);
  node.parts = parts;
  return node;
}

/** The figure that lanes show: the loss, or else what most report. */
function reportedName(workers) {
  const counts = new Map();
  const reported = workers.flatMap((worker) => Object.keys(worker.reported));
  for (const name of reported) counts.set(name, (counts.get(name) ?? 0) + 1);
  if (counts.has("loss") || !counts.size) return "loss";
  return [...counts].sort(([, one], [, other]) => other - one)[0][0];
}
