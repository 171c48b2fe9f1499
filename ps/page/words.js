// Numbers, durations and decisions in words.
//
// The one rule: the same thing is said with the same words everywhere, and no number or name is too long for its place:
// whatever its size, a number has a handful of characters. What has no value is a dash; a figure that the server tells as
// null was measured, and is not finite.

export const NOTHING = "–";

/** `w1, w2`, and from the fourth on `w1, w2, w3 and 4 more`. */
export function names(ranks, most = 3) {
  if (!ranks.length) return "nobody";
  const shown = ranks.slice(0, most).map((rank) => shortName(rank));
  const more = ranks.length - shown.length;
  if (more > 0) return `${shown.join(", ")} and ${whole(more)} more`;
  return shown.length === 1 ? shown[0] : `${shown.slice(0, -1).join(", ")} and ${shown.at(-1)}`;
}

/** A name of at most `most` characters: what tells ranks apart is mostly at the end, so it is cut in the middle. */
export function shortName(name, most = 24) {
  if (name.length <= most) return name;
  const end = Math.ceil((most - 1) * 0.6);
  return `${name.slice(0, most - 1 - end)}…${name.slice(-end)}`;
}

/** Who is in quarantine, and the first one's reason. `rows`: the first of `count`. */
export function keptOut(rows, count) {
  if (!rows.length) return "";
  const [{ rank, why }] = rows;
  const others = count - 1;
  return `Kept out: ${shortName(rank)} (${why})${others ? ` and ${counted(others, "other")}` : ""}.`;
}

/** `1 worker`, `2 workers`. */
export function counted(count, noun) {
  return `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
}

export function whole(value) {
  if (!Number.isFinite(value)) return NOTHING;
  return Math.abs(value) < 1e15 ? Math.round(value).toLocaleString("en").replaceAll(",", "\u202f") : figure(value);
}

/** A count in a narrow place: as it is while it is small, else three digits and how many follow. */
export function count(value) {
  if (!Number.isFinite(value)) return NOTHING;
  if (Math.abs(value) < 1e4) return whole(value);
  for (const [size, sign] of [[1e15, ""], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    // Rounded, 999 950 has seven digits.
    if (Math.abs(value) >= size * 0.9995) return sign ? `${trimmed(value / size)}${sign}` : figure(value);
  }
  return whole(value);
}

/** Four significant digits: figures such as a loss. Null: measured, and not finite. */
export function figure(value) {
  if (value === null) return "NaN";
  if (!Number.isFinite(value)) return NOTHING;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2).replace(/e\+?/, "\u2009e");
  if (size >= 1000) return value.toFixed(0);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4);
}

/** A setting such as a learning rate: without zeros at its end. */
export function setting(value) {
  return Number.isFinite(value) && Math.abs(value) < 1e6 ? trimmed(value) : figure(value ?? undefined);
}

/** A number a second. */
export function rate(value) {
  if (!Number.isFinite(value)) return NOTHING;
  if (value >= 100) return value < 1e6 ? whole(value) : count(value);
  if (value === 0) return "0";
  return value < 0.005 ? "<0.01" : value.toFixed(value >= 10 ? 1 : 2);
}

/** Of an axis that goes as far as `largest`: as few digits as tell its ticks apart. */
export function tick(value, step, largest = Math.abs(value)) {
  if (value === 0) return "0";
  const fine = Math.floor(Math.log10(step) + 1e-9);
  if (largest >= 1e6 || fine < -5) {
    const digits = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.abs(value)) + 1e-9) - fine));
    return value.toExponential(digits).replace(/\.?0*e\+?/, "e");
  }
  if (largest >= 1e4 && step >= 100) return `${(value / 1000).toFixed(Math.max(0, 3 - fine))}k`;
  return value.toFixed(Math.max(0, -fine));
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
  const days = Math.floor(seconds / 86_400);
  return days < 1000 ? `${days} d ${Math.floor((seconds % 86_400) / 3600)} h` : `${count(days)} d`;
}

/** The time of day, `12:03:05`. */
export function clockTime(date) {
  return date.toTimeString().slice(0, 8);
}

/** How a group's workers wait for each other, and what is made of a round's updates if that is not their mean. */
export function policy({ mode, staleness, quorum, grace_seconds: grace, switching_at: switchingAt }, aggregation) {
  const meant = switchingAt === null || switchingAt === undefined ? "" : `, from clock ${whole(switchingAt)} on`;
  if (mode === "sync") {
    const rule = aggregation && aggregation !== "mean" ? `, ${aggregation}` : "";
    return `sync: ${quorum ? quorumWords(quorum, grace) : "all in rounds"}${rule}${meant}`;
  }
  if (mode === "async") return `async: no bound${meant}`;
  return staleness === 0 ? `ssp: nobody ahead${meant}` : `ssp: at most ${whole(staleness)} ahead${meant}`;
}

/** `grace`: seconds; null: as the pace of the pushes advises. */
function quorumWords(quorum, grace) {
  const then = grace === 0 ? "" : `, then ${grace === null || grace === undefined ? "a grace" : `${duration(grace)} of grace`}`;
  return `rounds of ${whole(quorum)}${then}`;
}

/** Why one waits, by the server's reason, for a reader who does not know its words; the rest has the server's own. */
const WHY = {
  lag: (whom, { lag }, bound) => `waits for ${whom}: ${whole(lag)} ahead, ${whole(bound)} allowed`,
  "waiting-for-round": (whom) => `waits for ${whom} to close the round`,
  "next-round": (whom) => `waits for ${whom}, then goes on with the next round`,
  switching: (whom) => `waits for ${whom}, then sync begins`,
  "own-update": () => "waits until its own update is in the model",
  "waiting-for-step": () => "waits while the round’s step is computed",
  "no-parameters": () => "waits until a worker offers the first values",
};

/** A decision's words. The server's, but for its comparison of a lead with the bound, which is short for a log. */
export function plain(detail) {
  return detail.replace(/^(\S+) leads (.+) by (\d+) > (\d+)$/, "$1 is $3 ahead of $2, $4 allowed");
}

/** What a worker does, and if it waits: for whom and why; and whether its newest update was late. */
export function doing(worker, bound) {
  return `${stateWords(worker, bound)}${worker.newestLate ? "; its update was late" : ""}`;
}

function stateWords(worker, bound) {
  const { state, why } = worker;
  if (state !== "waiting") return state === "idle" ? "on its way" : state;
  if (!why) return "waits";
  const whom = why.waiting_for ?? [];
  const words = WHY[why.reason];
  if (words) return words(whom.length ? names(whom) : "others", worker, bound);
  return `waits${whom.length ? ` for ${names(whom)}` : ""}: ${why.detail || why.reason}`;
}
