// The one sentence: who holds whom up, and why; and which workers to show when there are too many for a lane each.
//
// The one rule: the verdict rests on measured time (who was waited for in the last ten seconds), so that it does not
// flicker with every snapshot; what is true right now stands beside it. Whom the sentence names the headline names too.

import { waits } from "./stages.js";
import { counted, duration, names, percent, shortName, whole } from "./words.js";

/** A rank that others waited for during this share of the last ten seconds holds them up. */
const HOLDING_SHARE = 0.2;

/** Or during this share of the last two, and now: whoever stands still is seen at once, and not two seconds later. */
const STALLED_SHARE = 0.5;

/** The ranks that hold others up, the worst first. Of whom nothing is measured yet: those that are waited for now. */
export function holders(workers) {
  const holds = ({ heldShare, stallShare, awaitedBy }) =>
    heldShare === null ? awaitedBy > 0 : heldShare >= HOLDING_SHARE || (awaitedBy > 0 && stallShare >= STALLED_SHARE);
  const found = workers.filter(holds);
  return found.sort((one, other) => other.heldShare - one.heldShare || other.awaitedBy - one.awaitedBy);
}

/** `{kind, headline, detail, short}`: what to know of the group now. `short` is for the window's title. */
export function glance(view, ending) {
  const { workers } = view;
  if (ending === "finished") {
    const clock = view.until === null || view.over ? "" : ` at clock ${whole(view.until)}`;
    const made = `${whole(view.version)} versions of the model were made.`;
    const detail = view.over ? `${sentence(view.over)} ${made}` : made;
    return said("done", `The run has finished${clock}`, detail, "finished");
  }
  if (ending === "stopping") {
    const detail = "Workers are told, and the state is saved if it is kept.";
    return said("done", "The server is stopping", detail, "stopping");
  }
  if (!workers.length) {
    const begun = view.version > 0;
    if (view.forming.length) {
      const [first, ...others] = view.forming;
      const more = others.length ? ` ${counted(others.length, "other replica")} ${others.length === 1 ? "waits" : "wait"} too.` : "";
      const detail = `Each of its ${whole(first.stages)} stages is a process; it ${begun ? "goes on" : "begins"} when all are there.${more}`;
      return said("waiting", waits(first), detail, "waiting for stages");
    }
    const detail = begun ? "The run goes on when one joins." : "The run begins when one joins.";
    return said("empty", begun ? "No worker is here" : "No worker has joined yet", detail, "no worker");
  }

  const waiting = workers.filter((worker) => worker.state === "waiting");
  const opening = waiting.find((worker) => worker.why?.reason === "waiting-for-workers");
  if (opening && waiting.length === workers.length) {
    return said("waiting", "Waiting for more workers", sentence(opening.why.detail), "waiting for workers");
  }

  const wait = `${counted(waiting.length, "worker")} ${waiting.length === 1 ? "waits" : "wait"} now`;
  const without = view.rounds_since_step ?? 0;
  if (without) {
    const which = without === 1 ? "The last round" : `The last ${whole(without)} rounds`;
    const few = `There were fewer updates than ${view.aggregation} needs; nothing is published.`;
    return said("stuck", `${which} made no step`, waiting.length ? `${few} ${wait}.` : few, "no step");
  }

  const front = Math.max(...workers.map((worker) => worker.lag));
  const ahead = front > 0 ? `The fastest is ${whole(front)} ahead of the slowest.` : "All are at the same clock.";
  const blamed = holders(workers);
  if (!blamed.length) {
    const brief = waiting.some((worker) => worker.why?.waiting_for?.length) ? ", not for long yet" : "";
    const now = waiting.length ? `${wait}${brief}.` : "Right now nobody waits.";
    return said("running", "Nobody holds the others up", `${now} ${ahead}`, "running");
  }
  const [worst] = blamed;
  const ranks = blamed.map((worker) => worker.rank);
  const whom = blamed.filter((worker) => worker.awaitedBy > 0).map((worker) => worker.rank);
  const now = waiting.length ? `${wait}${whom.length ? ` for ${names(whom)}` : ""}.` : "Right now nobody waits.";
  const over = `the last ${whole(Math.max(1, view.heldOver ?? 10))} s`;
  const share = `${shortName(worst.rank)} was waited for ${percent(worst.heldShare)} of ${over}.`;
  const detail = [now, ...(worst.heldShare === null ? [] : [share]), ahead].join(" ");
  const hold = ranks.length === 1 ? "holds" : "hold";
  return said("held", `${names(ranks)} ${hold} the others up`, detail, `${names(ranks, 1)} ${hold} others up`);
}

/** The order of the lanes when they are many: who holds the others up, who is in trouble, and the rest as they were. */
export function urgentFirst(workers) {
  const first = holders(workers);
  const next = workers.filter((worker) => worker.silentSeconds !== null && !first.includes(worker));
  const moved = new Set([...first, ...next]);
  return [...moved, ...workers.filter((worker) => !moved.has(worker))];
}

/** The lanes to show of many, in natural order: those waited for, those in trouble, the first and the most waiting. */
export function notable(workers, most) {
  const weight = ({ silentSeconds, awaitedBy, heldShare, waitingShare }) =>
    (silentSeconds === null ? 0 : 4) + (awaitedBy ? 2 + (heldShare ?? 0) : 0) + (waitingShare ?? 0);
  const front = [...workers].sort((one, other) => other.clock - one.clock).slice(0, 2);
  const rest = workers.filter((worker) => !front.includes(worker)).sort((one, other) => weight(other) - weight(one));
  const chosen = new Set([...front, ...rest].slice(0, most));
  return workers.filter((worker) => chosen.has(worker));
}

/** How long a worker was silent, in words; null when all is well. */
export function trouble(worker) {
  if (worker.silentSeconds === null) return null;
  return `silent for ${duration(worker.silentSeconds)}, given up in ${duration(Math.max(0, worker.leaseLeft))}`;
}

/**
 * The window that the race shows, in iterations ahead of the slowest: `{last, gate, label}`. Whoever stands right of
 * the gate has to wait. Gate null: none, or out of sight.
 */
export function track(view) {
  const { policy, workers } = view;
  const furthest = workers.reduce((most, worker) => Math.max(most, worker.lag), 0);
  const open = { last: openEnd(furthest), gate: null, label: "" };
  if (policy.switching_at !== null && policy.switching_at !== undefined) {
    const gate = policy.switching_at - view.min_clock - 0.5;
    return { last: Math.max(open.last, Math.ceil(gate)), gate, label: `sync from ${whole(policy.switching_at)}` };
  }
  if (policy.mode === "sync") {
    return { last: Math.max(1, furthest), gate: 0.5, label: `round ${whole(view.round.number)}` };
  }
  if (policy.mode === "async") return open;
  const bound = policy.staleness;
  // A bound far beyond everybody would press the field together at the start.
  if (bound > 20 && bound > 4 * furthest) return { ...open, label: `bound ${whole(bound)} →` };
  return { last: Math.max(bound + 1, furthest), gate: bound + 0.5, label: `bound ${whole(bound)}` };
}

function openEnd(furthest) {
  const steps = [4, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100];
  // Two digits: it does not change with every iteration, however far one is ahead.
  const size = 10 ** (Math.floor(Math.log10(Math.max(1, furthest))) - 1);
  return steps.find((step) => step >= furthest) ?? Math.ceil(furthest / (5 * size)) * 5 * size;
}

function said(kind, headline, detail, short) {
  return { kind, headline, detail, short };
}

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}
