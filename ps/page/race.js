// The race: a lane for each worker, placed by how far it is ahead of the slowest, with the bound as a gate.
//
// The one rule: a runner stands where its clock was measured. From one measurement to the next it glides for an eighth
// of a second, never beyond the newer one; whoever prefers no motion sees none.

import { el, keyed, setAttribute, setProperty, setText, show, span, symbol } from "./dom.js";
import { drawField } from "./field.js";
import { roundUp } from "./figures.js";
import { notable, track, trouble, urgentFirst } from "./glance.js";
import { drawForming, drawStages, makeStages } from "./stages.js";
import { count, counted, doing, figure, percent, shortName, whole } from "./words.js";

/** With more workers than this the field is shown first, and the lanes of a few. */
const MANY = 60;
const FEW = 12;

/** With more lanes than this not all are in sight: those that matter come first. */
const IN_SIGHT = 8;

/** The few, and the order of the lanes, stay for so long, so that one can read them. */
const STAY_SECONDS = 3;

/** With more lanes than this each is half as high. */
const COMPACT = 16;

/** Ticks on the axis, the two ends included: no more than this, and no more than have room for their words. */
const MOST_TICKS = 11;

/** The width of a letter on the axis, and the gap between two of its words, in pixels. */
const LETTER = 7;
const GAP = 10;

/** Up to so many columns each has a line; with more, runners keep clear of the ends by this many pixels (page.css). */
const WIDE_COLUMNS = 24;
const EDGE = 14.4;

/** Above this a clock is told in short; how far one is ahead stands beside it. */
const LONG_CLOCK = 1e8;

const RANK_LETTERS = 13;

export class Race {
  #nodes;
  #onChosen;
  #redraw;
  #all = false;
  #focused = null;
  #few = { ranks: new Set(), until: 0 };
  #order = { ranks: new Map(), until: 0 };
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
    new ResizeObserver(redraw).observe(nodes.axis);
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
    const { lanes, showAll, note, field, rows, figureHead, forming } = this.#nodes;
    const { workers } = view;
    const course = track(view);
    const many = workers.length > MANY;
    const shown = this.#ordered(many && !this.#all ? this.#chooseFew(workers) : workers);
    const last = course.last + 1;
    setProperty(lanes, "--columns", String(last));
    setProperty(lanes, "--gate", course.gate === null ? "2" : ((course.gate + 0.5) / last).toFixed(4));
    setAttribute(lanes, "data-gate", course.gate === null ? null : "");
    lanes.classList.toggle("compact", shown.length > COMPACT);
    lanes.classList.toggle("wide-columns", last <= WIDE_COLUMNS);
    this.#axis(course, view.min_clock);
    show(showAll, many);
    setText(showAll, this.#all ? "Show the field" : `Show all ${whole(workers.length)} lanes`);
    setAttribute(showAll, "aria-pressed", String(this.#all));
    const summed = many && !this.#all;
    show(note, workers.length > 0);
    setText(note, summed ? `the field, and ${FEW} lanes that matter most now` : "iterations ahead of the slowest");
    show(field, summed);
    if (summed) drawField(field, workers, course);
    const reported = reportedName(workers);
    setText(figureHead, reported);
    if (!shown.some((worker) => worker.rank === this.#focused)) this.#focused = shown[0]?.rank ?? null;
    const update = (node, worker) => this.#lane(node, worker, view, last, reported);
    keyed(rows, shown, (worker) => worker.rank, makeLane, update);
    show(lanes, workers.length > 0);
    drawForming(forming, view.forming);
  }

  #chooseFew(workers) {
    const kept = workers.filter((worker) => this.#few.ranks.has(worker.rank));
    if (kept.length === FEW && performance.now() < this.#few.until) return kept;
    const chosen = notable(workers, FEW);
    const ranks = new Set(chosen.map((worker) => worker.rank));
    this.#few = { ranks, until: performance.now() + STAY_SECONDS * 1000 };
    return chosen;
  }

  /** Many lanes: who is waited for stands above the fold. The order stays while the same ones are there, for a while. */
  #ordered(workers) {
    if (workers.length <= IN_SIGHT) return workers;
    const { ranks, until } = this.#order;
    if (workers.length === ranks.size && performance.now() < until && workers.every(({ rank }) => ranks.has(rank))) {
      return [...workers].sort((one, other) => ranks.get(one.rank) - ranks.get(other.rank));
    }
    const ordered = urgentFirst(workers);
    const places = new Map(ordered.map(({ rank }, place) => [rank, place]));
    this.#order = { ranks: places, until: performance.now() + STAY_SECONDS * 1000 };
    return ordered;
  }

  #lane(node, worker, view, last, reported) {
    const { rank, runner, words, clock, lag, value, share, stages } = node.parts;
    const at = ((worker.lag + 0.5) / last).toFixed(4);
    setAttribute(node, "data-rank", worker.rank);
    setAttribute(node, "data-state", worker.state);
    setAttribute(node, "data-awaited", worker.awaitedBy || null);
    setAttribute(node, "tabindex", worker.rank === this.#focused ? "0" : "-1");
    setAttribute(node, "aria-selected", String(worker.rank === this.#chosen));
    setText(rank, shortName(worker.rank, RANK_LETTERS));
    setAttribute(rank, "title", `${worker.rank}, life ${worker.incarnation}`);
    setProperty(node, "--at", at);
    if (runner.dataset.state !== worker.state) {
      runner.dataset.state = worker.state;
      runner.replaceChildren(symbol(worker.state));
    }
    const said = doing(worker, view.policy.staleness);
    setText(words.doing, said);
    const late = worker.lateUpdates ? `${counted(worker.lateUpdates, "update")} of it came late` : null;
    setAttribute(words.doing, "title", [worker.why?.detail, late].filter(Boolean).join("; ") || null);
    show(words.awaited, worker.awaitedBy > 0);
    setText(words.awaitedText, `${whole(worker.awaitedBy)} ${worker.awaitedBy === 1 ? "waits" : "wait"} for it`);
    const silent = trouble(worker);
    show(words.silent, silent !== null);
    if (silent) setText(words.silentText, silent);
    setText(clock, worker.clock < LONG_CLOCK ? whole(worker.clock) : count(worker.clock));
    setAttribute(clock, "title", whole(worker.clock));
    setText(lag, worker.lag ? `+${worker.lag < 1e6 ? whole(worker.lag) : count(worker.lag)}` : "0");
    setAttribute(value, "data-label", shortName(reported, RANK_LETTERS));
    setText(value, figure(worker.reported[reported]));
    setText(share.firstElementChild, percent(worker.waitingShare));
    setProperty(share, "--share", (worker.waitingShare ?? 0).toFixed(3));
    drawStages(stages, worker.replica);
  }

  #axis(course, minClock) {
    const { axis } = this.#nodes;
    const places = course.last + 1;
    const width = axis.clientWidth || 1e4;
    const share = (text) => (LETTER * text.length) / width;
    // Half of a word may be beyond its place, never beyond the axis.
    const edge = places > WIDE_COLUMNS ? EDGE / width : 0;
    const inside = (at, text) =>
      Math.max(share(text) / 2, Math.min(1 - share(text) / 2, edge + at * (1 - 2 * edge)));
    const start = `clock ${minClock < LONG_CLOCK ? whole(minClock) : count(minClock)}`;
    const least = Math.ceil(places / MOST_TICKS);
    const words = (LETTER * `+${whole(course.last)}`.length + GAP) / width;
    const every = roundUp(Math.max(1, least, places * words));
    const marks = [{ key: "tick 0", kind: "tick", at: inside(0.5 / places, start), text: start }];
    for (let lag = every; lag <= course.last; lag += every) {
      const text = `+${whole(lag)}`;
      const at = inside((lag + 0.5) / places, text);
      const before = marks.at(-1);
      const free = at - share(text) / 2 - before.at - share(before.text) / 2;
      if (free * width >= GAP) marks.push({ key: `tick ${lag}`, kind: "tick", at, text });
    }
    if (course.label) {
      const at = inside(course.gate === null ? 1 : (course.gate + 0.5) / places, course.label);
      marks.push({ key: "gate", kind: "gate-name", at, text: course.label });
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
    stages: makeStages(),
  };
  const course = cell("course", "place", span("trace"), runner);
  const node = el("div", { class: "lane", role: "row" });
  const sentence = cell("words", "", awaited, doingNode, silent);
  node.append(parts.rank, course, sentence, parts.clock, parts.lag, parts.value, parts.share, parts.stages);
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
