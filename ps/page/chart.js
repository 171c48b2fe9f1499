// A line chart that can be read with the pointer and with the arrow keys.
//
// The one rule: lines join measured points and nothing else; the readout gives the point's own values.

import { el, setProperty, setText, show, svg } from "./dom.js";
import { ticks } from "./figures.js";
import { tick as tickWords } from "./words.js";

const EDGE = { top: 40, right: 14, bottom: 36, left: 46 };

/** The width of a digit of the ticks, in pixels. */
const DIGIT = 7;

/** Nothing is drawn beyond this: differences of the largest floats are no floats. */
const FAR = 1e300;

export class LineChart {
  #place;
  #drawing = svg("svg", { class: "drawing", "aria-hidden": "true" });
  #readout = el("output", { class: "readout" });
  #empty = el("p", { class: "empty" });
  #what = { lines: [], marks: [] };
  #cursor = null;
  #asKey = "";
  /** Where the axis begins: its numbers stand before it. */
  #left = EDGE.left;

  /** `name`: what the chart shows, for those who hear it. `empty`: said while there are no points. */
  constructor(place, name, empty) {
    this.#place = place;
    setText(this.#empty, empty);
    place.append(this.#drawing, this.#readout, this.#empty);
    place.tabIndex = 0;
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", `${name}; arrow keys read the points`);
    place.addEventListener("pointermove", (event) => this.#point(event));
    place.addEventListener("pointerleave", () => this.#moveTo(null));
    place.addEventListener("blur", () => this.#moveTo(null));
    place.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#draw()).observe(place);
  }

  /**
   * `lines`: `[{name, kind, points: [{x, y}]}]`, the first one undermost; `marks`: `[{x, text}]`, moments worth a
   * vertical line; `fromZero`: the axis begins at 0; `xLabel`, `yLabel`; `xSize`: what one unit of the axis' numbers
   * is; `sayX`, `sayY`: a value in words; `newest`: words before the newest point's, when it is not of now.
   */
  draw(what) {
    // Drawing is the dearest thing on the page: not without a reason.
    const ends = what.lines.map(({ name, points }) => [name, points.length, points[0], points.at(-1)]);
    const key = JSON.stringify([what.xLabel, what.yLabel, what.marks, what.newest, ends]);
    if (key === this.#asKey) return;
    this.#asKey = key;
    this.#what = what;
    this.#draw();
  }

  #draw() {
    const { lines, marks } = this.#what;
    const all = lines.flatMap((line) => line.points);
    show(this.#empty, all.length < 2);
    show(this.#readout, all.length >= 2);
    this.#drawing.toggleAttribute("hidden", all.length < 2);
    const [width, height] = [this.#place.clientWidth, this.#place.clientHeight];
    if (all.length < 2 || width < 80) return;
    const scale = scaleOf(all, this.#what, width, height);
    this.#left = scale.left;
    this.#drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#drawing.replaceChildren(
      ...this.#axes(scale, width, height),
      ...this.#marks(marks, scale, height),
      ...lines.map((line) => lineNode(line, scale)),
    );
    const label = this.#drawing.querySelector(".axis-name.y");
    setProperty(this.#readout, "--before", label ? `${label.textContent.length * DIGIT + 12}px` : "0px");
    this.#say(scale, height);
  }

  #axes(scale, width, height) {
    const nodes = [];
    const { xLabel, yLabel } = this.#what;
    for (const { value, words } of scale.y.ticks) {
      const y = scale.y.at(value);
      const place = { class: "tick", x: scale.left - 7, y: y + 4, "text-anchor": "end" };
      nodes.push(svg("line", { class: "grid", x1: scale.left, x2: width - EDGE.right, y1: y, y2: y }));
      nodes.push(svg("text", place, words));
    }
    for (const { value, words } of scale.x.ticks) {
      const place = { class: "tick", x: scale.x.at(value), y: height - EDGE.bottom + 16, "text-anchor": "middle" };
      nodes.push(svg("text", place, words));
    }
    nodes.push(svg("text", { class: "axis-name", x: width - EDGE.right, y: height - 4, "text-anchor": "end" }, xLabel));
    // The readout needs the room on a phone.
    if (width > 420) nodes.push(svg("text", { class: "axis-name y", x: 0, y: 14 }, yLabel));
    return nodes;
  }

  /** A line for each moment, and its name where there is room for it before the next one. */
  #marks(marks, scale, height) {
    const { low, high, at: placeOf } = scale.x;
    const inside = marks.filter(({ x }) => x >= low && x <= high).map(({ x, text }) => ({ at: placeOf(x), text }));
    return inside.flatMap(({ at, text }, index) => {
      const line = svg("line", { class: "mark", x1: at, x2: at, y1: EDGE.top, y2: height - EDGE.bottom });
      const room = (inside[index + 1]?.at ?? this.#place.clientWidth) - at;
      if (room < 8 + DIGIT * text.length) return [line];
      // Above the lines, not among them.
      return [line, svg("text", { class: "mark-name", x: at, y: EDGE.top - 5 }, text)];
    });
  }

  /** The value at the cursor, or the newest one. */
  #say(scale, height) {
    const { lines, sayX, sayY, newest } = this.#what;
    const points = longest(lines);
    const at = this.#cursor === null ? points.at(-1).x : nearest(points, this.#cursor).x;
    const drawn = lines.filter(({ points }) => points.length);
    const found = drawn.map(({ name, points }) => ({ name, ...nearest(points, at) }));
    const before = newest && this.#cursor === null ? `${newest} ` : "";
    setText(this.#readout, `${before}${sayX(at)}: ${found.map(({ name, y }) => `${name} ${sayY(y)}`).join(", ")}`);
    if (this.#cursor === null) return;
    const x = scale.x.at(at);
    this.#drawing.append(svg("line", { class: "cursor", x1: x, x2: x, y1: EDGE.top, y2: height - EDGE.bottom }));
    for (const { x: there, y } of found) {
      this.#drawing.append(svg("circle", { class: "spot", cx: scale.x.at(there), cy: scale.y.at(y), r: 3.5 }));
    }
  }

  #point(event) {
    const box = this.#place.getBoundingClientRect();
    const share = (event.clientX - box.left - this.#left) / (box.width - this.#left - EDGE.right);
    const xs = this.#xs();
    if (xs.length) this.#moveTo(xs[0] + share * (xs.at(-1) - xs[0]));
  }

  #key(event) {
    const xs = this.#xs();
    const here = this.#cursor === null ? xs.length - 1 : xs.indexOf(nearest(xs.map((x) => ({ x })), this.#cursor).x);
    const stride = event.shiftKey ? 10 : 1;
    const target = { ArrowLeft: here - stride, ArrowRight: here + stride, Home: 0, End: xs.length - 1 }[event.key];
    if (target === undefined || !xs.length || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.#readout.setAttribute("aria-live", "polite"); // only whoever asks for a point is told of it
    this.#moveTo(xs[Math.min(xs.length - 1, Math.max(0, target))]);
  }

  #xs() {
    return longest(this.#what.lines).map(({ x }) => x);
  }

  #moveTo(x) {
    if (x === null) this.#readout.removeAttribute("aria-live");
    this.#cursor = x;
    this.#draw();
  }
}

/** The point whose x is closest. Points are in the order of x. */
export function nearest(points, x) {
  let [low, high] = [0, points.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle].x <= x) low = middle;
    else high = middle;
  }
  return Math.abs(points[high].x - x) < Math.abs(points[low].x - x) ? points[high] : points[low];
}

function longest(lines) {
  return lines.reduce((most, { points }) => (points.length > most.length ? points : most), []);
}

function scaleOf(points, { fromZero, xSize }, width, height) {
  const xs = points.map((point) => point.x);
  const ys = points.map((point) => Math.max(-FAR, Math.min(FAR, point.y)));
  const [lowX, highX] = [Math.min(...xs), Math.max(...xs)];
  let [lowY, highY] = [fromZero ? 0 : Math.min(...ys), Math.max(...ys)];
  if (highY === lowY) [lowY, highY] = [fromZero ? 0 : lowY - Math.abs(lowY || 1) / 2, highY + Math.abs(highY || 1) / 2];
  const room = (highY - lowY) * 0.06;
  const up = [height - EDGE.bottom, EDGE.top];
  const y = axis(fromZero ? 0 : lowY - room, highY + room, up, Math.max(2, Math.floor(height / 55)));
  const left = Math.max(EDGE.left, 9 + DIGIT * Math.max(0, ...y.ticks.map(({ words }) => words.length)));
  const across = [left, width - EDGE.right];
  const last = highX > lowX ? highX : lowX + 1;
  // As many as there are, or as have room for their words.
  let count = Math.max(3, Math.floor(width / 90));
  let x = axis(lowX, last, across, count, xSize);
  for (; count > 1 && crowded(x); count -= 1) x = axis(lowX, last, across, count - 1, xSize);
  return { x, y, left };
}

function axis(low, high, [from, to], count, size = 1) {
  const found = ticks(low / size, high / size, count);
  const step = found.length > 1 ? found[1] - found[0] : (high - low) / size;
  const largest = Math.max(Math.abs(low), Math.abs(high)) / size;
  // Clamped: what lies beyond every scale is drawn at its end.
  const at = (value) => from + Math.max(0, Math.min(1, (value - low) / (high - low))) * (to - from);
  return { low, high, at, ticks: found.map((value) => ({ value: value * size, words: tickWords(value, step, largest) })) };
}

function crowded({ ticks: all, at }) {
  return all.some(({ value, words }, index) => {
    const next = all[index + 1];
    return next && at(next.value) - at(value) < 6 + (DIGIT * (words.length + next.words.length)) / 2;
  });
}

function lineNode({ points, kind }, scale) {
  const places = points.map(({ x, y }) => `${scale.x.at(x).toFixed(1)} ${scale.y.at(y).toFixed(1)}`);
  return svg("path", { class: `line ${kind}`, d: places.length ? `M${places.join("L")}` : "" });
}
