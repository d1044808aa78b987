// Small charts in SVG: lines over steps, and the bars of a plan.

import { element } from "./store.js";

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [360, 200, 44, 22, 8];
const MOST_POINTS = 300; // groups of points of a line; more cannot be seen
const KEYS = 50; // presses of an arrow from one end to the other

function svg(name, attributes, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Round values between two bounds, about `count` of them. */
export function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? 10 * power;
  const first = Math.ceil(low / step);
  // Counted, because adding a step may change nothing: a huge number has no room for it.
  const many = Math.min(Math.floor(high / step + 1e-9) - first + 1, 4 * count);
  return Array.from({ length: Math.max(0, many) || 0 }, (_, i) => (first + i) * step);
}

export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return size < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(4));
}

/**
 * The indices of the points that can be seen: of many neighbors the lowest and the highest. Without
 * numbers above 0 a logarithm has nothing to show.
 */
function seen(ys, isLog) {
  const size = Math.ceil(ys.length / MOST_POINTS);
  const kept = [];
  for (let from = 0; from < ys.length; from += size) {
    let [low, high] = [-1, -1];
    for (let i = from; i < Math.min(from + size, ys.length); i++) {
      if (isLog && ys[i] <= 0) continue;
      if (low < 0 || ys[i] < ys[low]) low = i;
      if (high < 0 || ys[i] > ys[high]) high = i;
    }
    if (low >= 0) kept.push(Math.min(low, high));
    if (low !== high) kept.push(Math.max(low, high));
  }
  return kept;
}

const means = new WeakMap(); // by points; making room for them takes longer than filling it

/** The mean of what came before, in which older values count less; a share of 0 changes nothing. */
function smoothed(ys, share) {
  if (!share) return ys;
  let made = means.get(ys);
  if (made?.length !== ys.length) means.set(ys, (made = new Float64Array(ys.length)));
  else if (made.share === share) return made;
  let mean = 0;
  let weight = 0;
  for (let i = 0; i < ys.length; i++) {
    weight = share * weight + 1 - share;
    mean += ((1 - share) / weight) * (ys[i] - mean);
    made[i] = mean;
  }
  return Object.assign(made, { share });
}

function reach(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

let cursorAt = null; // where the cursor of all charts is; null for their ends

/** Let the pointer, or the arrows, move one cursor over all charts that are beside each other. */
export function readable(place) {
  place.tabIndex = 0;
  place.setAttribute("role", "group");
  const moveTo = (x) => {
    cursorAt = x;
    for (const other of document.querySelectorAll("[data-chart]")) other.read?.(x);
  };
  place.dataset.chart = "";
  place.addEventListener("pointermove", (event) => moveTo(place.valueAt(event.clientX)));
  place.addEventListener("pointerleave", () => moveTo(null));
  place.addEventListener("blur", () => moveTo(null));
  place.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const [low, high] = place.reach;
    moveTo(Math.min(high, Math.max(low, (cursorAt ?? high) + (by * (high - low)) / KEYS)));
  });
}

/**
 * Draw lines in a `readable` place. Each has a name, a run (empty if there is only one), a color,
 * perhaps dashes, and the coordinates `xs`, in order, and `ys`. `unit` names the x axis.
 */
export function lines(place, series, { unit, isLog, smoothing }) {
  const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": true });
  const shown = series.map((line) => {
    const ys = smoothed(line.ys, smoothing);
    return { ...line, ys, kept: seen(ys, isLog) };
  }).filter((line) => line.kept.length);
  if (!shown.length) return place.replaceChildren(series.length ? "Nothing is above 0." : "");
  const scaled = isLog ? Math.log10 : (y) => y;
  const [x0, x1] = reach(shown.flatMap(({ xs }) => [xs[0], xs.at(-1)]));
  let [y0, y1] = reach(shown.flatMap(({ ys, kept }) => kept.map((i) => scaled(ys[i]))));
  if (y0 === y1) [y0, y1] = [y0 - Math.abs(y0 / 20 || 1), y1 + Math.abs(y1 / 20 || 1)];
  const px = (x) => LEFT + ((x - x0) / (x1 - x0 || 1)) * (WIDTH - LEFT - 8);
  const py = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - BOTTOM - TOP);
  for (const y of ticks(y0, y1, 4)) {
    drawn.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - 8, y1: py(y), y2: py(y) }));
    drawn.append(svg("text", { x: LEFT - 8, y: py(y) + 4, "text-anchor": "end" }, short(isLog ? 10 ** y : y)));
  }
  for (const x of ticks(x0, x1, 4)) {
    drawn.append(svg("text", { x: px(x), y: HEIGHT - 4, "text-anchor": "middle" }, short(x)));
  }
  for (const { xs, ys, kept, color, dashes } of shown) {
    const path = kept.map((i, n) => `${n ? "L" : "M"}${px(xs[i]).toFixed(1)} ${py(scaled(ys[i])).toFixed(1)}`);
    drawn.append(svg("path", { class: "line", d: path.join(""), stroke: color, "stroke-dasharray": dashes ?? "none" }));
    if (kept.length > 1) continue;
    drawn.append(svg("circle", { cx: px(xs[kept[0]]), cy: py(scaled(ys[kept[0]])), r: 2.5, fill: color }));
  }
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM });
  const readout = element("div", { className: "read" });
  drawn.append(cursor);
  place.replaceChildren(drawn, readout);
  place.reach = [x0, x1];
  place.valueAt = (clientX) => {
    const box = drawn.getBoundingClientRect();
    const share = (((clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - 8);
    const x = x0 + Math.min(Math.max(share, 0), 1) * (x1 - x0);
    return unit === "step" ? Math.round(x) : x;
  };
  place.read = (x) => {
    cursor.setAttribute("visibility", x === null || x < x0 || x > x1 ? "hidden" : "visible");
    for (const name of ["x1", "x2"]) cursor.setAttribute(name, px(x ?? x1));
    const values = shown.map((line, i) => {
      const isNext = line.run && line.run !== shown[i - 1]?.run;
      return element("span", {}, isNext ? `${line.run}: ` : "", reading(line, x, x1));
    });
    readout.replaceChildren(element("span", {}, `${unit} ${short(x ?? x1)}`), ...values);
  };
  place.read(cursorAt);
}

/** The index of the number nearest to x; the numbers are in order. */
function nearest(xs, x) {
  let [low, high] = [0, xs.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle;
    else high = middle;
  }
  return x - xs[low] < xs[high] - x ? low : high;
}

/** Write the value of a line nearest to x, in its color; past its end where it ended, without x its last one. */
function reading(line, x, end) {
  const last = line.xs.at(-1);
  const atLast = last < end ? ` at ${short(last)}` : "";
  const text = element("b");
  text.style.color = line.color;
  if (line.dashes) text.append(dashSample(line));
  const shown = x === null
    ? short(line.ys.at(-1)) + atLast
    : x > last ? `ended${atLast}` : short(line.ys[nearest(line.xs, x)]);
  text.append(`${line.name} ${shown}`);
  return text;
}

/** Draw a piece of a line, so that its dashes can be recognized. */
function dashSample({ color, dashes }) {
  const drawn = svg("svg", { viewBox: "0 0 26 8", "aria-hidden": true });
  drawn.append(svg("line", { class: "line", x2: 26, y1: 4, y2: 4, stroke: color, "stroke-dasharray": dashes }));
  return drawn;
}

/** Draw how many tokens each step of a plan reveals; `now` is the step that is shown. */
export function bars(place, { counts, temperatures, guidance }, now) {
  const [height, top] = [84, 14];
  const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img" });
  const most = Math.max(...counts, 1);
  const wide = WIDTH / counts.length;
  counts.forEach((count, i) => {
    const tall = (count / most) * (height - top - 4);
    const box = { x: i * wide + wide * 0.1, width: wide * 0.8, y: height - tall, height: tall, rx: 3 };
    drawn.append(svg("rect", { class: i === now ? "bar now" : "bar", ...box }));
    if (wide >= 20) {
      drawn.append(svg("text", { x: (i + 0.5) * wide, y: height - tall - 4, "text-anchor": "middle" }, count));
    }
  });
  drawn.setAttribute("aria-label", `Tokens revealed at each step: ${counts.join(", ")}`);
  const [temperature, weight] = [temperatures, guidance].map((values) => values[now]?.toFixed(2));
  const words = now < 0
    ? "Before the first step everything is hidden."
    : `Step ${now + 1}: ${counts[now]} token${counts[now] === 1 ? "" : "s"}, temperature ${temperature}, guidance ${weight}`;
  place.replaceChildren(drawn, element("div", { className: "read" }, words));
}
