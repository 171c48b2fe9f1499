// The log of decisions: what was decided, when, about whom, and why; the newest first.
//
// The one rule: it says what the server said. Filters hide, they never change.

import { el, keyed, setAttribute, setText, span } from "./dom.js";
import { clockTime, NOTHING, plain } from "./words.js";

/** Rows in the page. Older ones are in the server's log. */
const MOST_ROWS = 300;

/** What deserves a second look. */
const BAD = new Set(["non-finite", "step-failed", "too-few-updates", "late", "same-updates", "slow-reader"]);
const BAD_REASONS = new Set(["lease-expired", "iteration-too-long"]);

export class Log {
  #nodes;
  #onRank;
  #drawn = "";

  /** `nodes`: `{rows, kind, rank, note, ranks}`. `onRank(rank)`: the filter by rank was changed. */
  constructor(nodes, onRank) {
    this.#nodes = nodes;
    this.#onRank = onRank;
    nodes.kind.addEventListener("change", () => onRank(nodes.rank.value));
    nodes.rank.addEventListener("input", () => onRank(nodes.rank.value));
  }

  get rank() {
    return this.#nodes.rank.value.trim();
  }

  set rank(rank) {
    this.#nodes.rank.value = rank;
    this.#onRank(rank);
  }

  draw(run, group, ranks) {
    const { rows, kind, note } = this.#nodes;
    const key = JSON.stringify([run.status?.epoch, run.news, group, kind.value, this.rank]);
    this.#choices(run.decisions, ranks);
    if (key === this.#drawn) return;
    this.#drawn = key;
    const ours = run.decisions.filter((one) => one.group === null || one.group === group);
    const wished = (one) => (!kind.value || one.kind === kind.value) && (!this.rank || one.rank === this.rank);
    const found = ours.filter(wished);
    const shown = found.slice(-MOST_ROWS).reverse();
    const hidden = ours.length - found.length;
    setText(note, hidden ? `${found.length} of ${ours.length}` : "");
    keyed(rows, shown, (one) => one.id, makeRow, () => {});
    const empty = hidden ? "Nothing of this kind." : "Nothing was decided yet.";
    setAttribute(rows, "data-empty", shown.length ? null : empty);
  }

  #choices(decisions, ranks) {
    const kinds = [...new Set(decisions.map((one) => one.kind))].sort();
    const { kind, ranks: list } = this.#nodes;
    // The first option, "all", is the page's own and has no key of its own.
    const items = ["", ...kinds];
    keyed(kind, items, (one) => one, (one) => el("option", { value: one }, one || "all"), () => {});
    keyed(list, ranks.slice(0, 200), (one) => one, (one) => el("option", { value: one }), () => {});
  }
}

function makeRow(decision) {
  const { kind, rank, reason, detail } = decision;
  const time = new Date(decision.time * 1000);
  const bad = BAD.has(kind) || BAD_REASONS.has(reason);
  const after = `${decision.seconds.toFixed(1)} s after the start`;
  return el(
    "div",
    { class: bad ? "row bad" : "row", "data-kind": kind },
    el("time", { datetime: time.toISOString(), title: after }, clockTime(time)),
    span("kind", kind),
    span("rank", rank ?? NOTHING),
    span("what", detail ? plain(detail) : NOTHING, " ", span("reason", reason ?? "")),
  );
}
