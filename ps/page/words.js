// Numbers, durations and decisions in words.
//
// The one rule: the same thing is said with the same words everywhere; a number without a value is a dash.

export const NOTHING = "–";

/** `w1, w2`, and from the fourth on `w1, w2, w3 and 4 more`. */
export function names(ranks, most = 3) {
  if (ranks.length <= 1) return ranks[0] ?? "nobody";
  const more = ranks.length - most;
  if (more > 0) return `${ranks.slice(0, most).join(", ")} and ${more} more`;
  return `${ranks.slice(0, -1).join(", ")} and ${ranks.at(-1)}`;
}

/** `1 worker`, `2 workers`. */
export function counted(count, noun) {
  return `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
}

export function whole(value) {
  return Number.isFinite(value) ? Math.round(value).toLocaleString("en").replaceAll(",", "\u202f") : NOTHING;
}

/** Four significant digits: figures such as a loss. */
export function figure(value) {
  if (!Number.isFinite(value)) return NOTHING;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2).replace(/e\+?/, "\u2009e");
  if (size >= 1000) return value.toFixed(0);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4);
}

/** A setting such as a learning rate: without zeros at its end. */
export function setting(value) {
  return Number.isFinite(value) ? trimmed(value) : NOTHING;
}

/** A number a second. */
export function rate(value) {
  if (!Number.isFinite(value)) return NOTHING;
  return value >= 100 ? whole(value) : value.toFixed(value >= 10 ? 1 : 2);
}

/** Of an axis: as few digits as tell its ticks apart. */
export function tick(value, step) {
  if (Math.abs(value) >= 10_000) return `${trimmed(value / 1000)}k`;
  const digits = Math.min(6, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  return value.toFixed(digits);
}

function trimmed(value) {
  return String(Number(value.toPrecision(3)));
}

export function percent(share) {
  if (share === null || share === undefined) return NOTHING;
  return share > 0 && share < 0.005 ? "<1\u202f%" : `${Math.round(share * 100)}\u202f%`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NOTHING;
  if (seconds < 60) return seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds)} s`;
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${two((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

/** The time of day, `12:03:05`. */
export function clockTime(date) {
  return date.toTimeString().slice(0, 8);
}

export function policy({ mode, staleness, switching_at: switchingAt }) {
  const meant = switchingAt === null || switchingAt === undefined ? "" : `, from clock ${whole(switchingAt)} on`;
  if (mode === "sync") return `sync: all in rounds${meant}`;
  if (mode === "async") return `async: no bound${meant}`;
  return staleness === 0 ? `ssp: nobody ahead${meant}` : `ssp: at most ${whole(staleness)} ahead${meant}`;
}

/** What a worker does, and if it waits: for whom and why. */
export function doing(worker, bound) {
  const { state, why, lag } = worker;
  if (state !== "waiting") return state === "idle" ? "on its way" : state;
  if (!why) return "waits";
  const whom = why.waiting_for ?? [];
  if (!whom.length) return `waits: ${why.detail || why.reason}`;
  if (why.reason === "lag") return `waits for ${names(whom)}: leads by ${lag} > ${bound}`;
  if (why.reason === "waiting-for-round") return `waits for ${names(whom)} to close the round`;
  if (why.reason === "next-round") return `waits for ${names(whom)}, then joins the next round`;
  return `waits for ${names(whom)}: ${why.detail || why.reason}`;
}
