// The stages of a replica, as segments: what each does, and which share of its last iteration it computed.
//
// The one rule: how far a segment is filled is measured (the rest of it is waiting for neighbours); the words are what
// its stage does now. The stage that holds the others is the server's judgement.

import { el, keyed, setAttribute, setProperty, setText, show, span } from "./dom.js";
import { counted, duration, names, percent, shortName, whole } from "./words.js";

/** With more stages than this a segment has room for its number alone. */
const WORDY = 8;

/** Forming replicas that are shown; the others are counted. */
const MOST_FORMING = 8;

const WORDS = { waiting: "waits", pushed: "has pushed", idle: "on its way", missing: "is missing", here: "is here" };

export function makeStages() {
  return el("span", { class: "stages", role: "cell", "data-label": "stages", hidden: "" });
}

/** `replica`: its `stages`, and which one is `holding` the others; null for a worker that is no replica. */
export function drawStages(node, replica) {
  show(node, replica !== null);
  if (replica === null) return;
  const brief = replica.stages.length > WORDY;
  node.classList.toggle("brief", brief);
  keyed(node, replica.stages, ({ stage }) => stage, () => span("stage"), (segment, stage) => {
    const holds = stage.stage === replica.holding;
    const words = holds ? "holds the others" : (WORDS[stage.state] ?? stage.state);
    const busy = busyShare(stage);
    setAttribute(segment, "data-state", stage.state);
    setAttribute(segment, "data-holding", holds);
    setProperty(segment, "--busy", (busy ?? 0).toFixed(3));
    const share = busy === null ? "" : `, ${percent(busy)} busy`;
    setText(segment, brief ? whole(stage.stage) : `${whole(stage.stage)} ${words}${share}`);
    setAttribute(segment, "title", sentence(stage, words, busy));
  });
}

/** Replicas whose life has not begun, and which of their stages are there. */
export function drawForming(node, forming) {
  show(node, forming.length > 0);
  const shown = forming.slice(0, MOST_FORMING);
  const rows = shown.length < forming.length ? [...shown, { rank: "", more: forming.length - shown.length }] : shown;
  keyed(node, rows, ({ rank }) => rank, makeRow, (row, { rank, stages, missing, more }) => {
    setText(row.firstElementChild, more ? `and ${counted(more, "more replica")}` : waits({ rank, missing }));
    setAttribute(row, "data-rank", rank);
    drawStages(row.lastElementChild, more ? null : { stages: there(stages, missing), holding: null });
  });
}

/** `r0 waits for stages 0 and 2`. */
export function waits({ rank, missing }) {
  return `${shortName(rank)} waits for ${missing.length === 1 ? "stage" : "stages"} ${names(missing.map(String))}`;
}

function makeRow() {
  return el("div", { class: "forming-row", role: "listitem" }, span("forming-words"), makeStages());
}

function there(stages, missing) {
  const lacking = new Set(missing);
  const state = (stage) => (lacking.has(stage) ? "missing" : "here");
  return Array.from({ length: stages }, (_, stage) => ({ stage, state: state(stage) }));
}

/** Null where nothing was told yet. */
function busyShare({ computed_seconds: computed, waited_seconds: waited }) {
  return Number.isFinite(computed) && computed + waited > 0 ? computed / (computed + waited) : null;
}

function sentence(stage, words, busy) {
  const begin = `stage ${whole(stage.stage)} ${words}`;
  if (busy === null) return begin;
  const [computed, waited] = [stage.computed_seconds, stage.waited_seconds].map(short);
  return `${begin}; in its last iteration it computed for ${computed} and waited ${waited} for its neighbours`;
}

function short(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : duration(seconds);
}
