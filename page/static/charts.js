// Small charts in SVG: lines over steps, and the bars of a plan.

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [360, 200, 44, 22, 8];
const MOST_POINTS = 600; // of a line; more cannot be seen

function svg(name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
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

/** Take every so many points away; the last one stays. */
function thinned(points) {
  const every = Math.ceil(points.length / MOST_POINTS);
  return points.filter((_, i) => i % every === 0 || i === points.length - 1);
}

/**
 * Draw lines. Each has a name, a run (empty if there is only one), a color, perhaps dashes, and
 * points [step, value] in order.
 * Moving over the chart reads the values nearest to the pointer.
 */
export function lines(place, series) {
  const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const points = series.flatMap((line) => line.points);
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const reach = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  const [x0, x1] = reach(xs);
  let [y0, y1] = reach(ys);
  if (y0 === y1) [y0, y1] = [y0 - Math.abs(y0 / 20 || 1), y1 + Math.abs(y1 / 20 || 1)];
  const px = (x) => LEFT + ((x - x0) / (x1 - x0 || 1)) * (WIDTH - LEFT - 8);
  const py = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - BOTTOM - TOP);
  for (const y of ticks(y0, y1, 4)) {
    drawn.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - 8, y1: py(y), y2: py(y) }));
    drawn.append(svg("text", { x: LEFT - 8, y: py(y) + 4, "text-anchor": "end" }, short(y)));
  }
  for (const x of ticks(x0, x1, 4)) {
    drawn.append(svg("text", { x: px(x), y: HEIGHT - 4, "text-anchor": "middle" }, short(x)));
  }
  for (const line of series) {
    const path = thinned(line.points).map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`);
    const stroke = { class: "line", d: path.join(""), stroke: line.color, "stroke-dasharray": line.dashes ?? "none" };
    drawn.append(svg("path", stroke));
    if (line.points.length === 1) {
      const [x, y] = line.points[0];
      drawn.append(svg("circle", { cx: px(x), cy: py(y), r: 2.5, fill: line.color }));
    }
  }
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  drawn.append(cursor);
  const read = document.createElement("div");
  read.className = "read";
  const tellAt = (x) => {
    const names = [...new Set(series.map((line) => line.run))];
    const runs = names.flatMap((run) => {
      const values = series.filter((line) => line.run === run).map((line) => reading(line, x));
      return run ? [`${run}:`, ...values] : values;
    });
    read.replaceChildren(...[`step ${short(x)}`, ...runs].map((one) => {
      const part = document.createElement("span");
      part.append(one);
      return part;
    }));
  };
  drawn.addEventListener("pointermove", (event) => {
    const box = drawn.getBoundingClientRect();
    const share = (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - 8);
    const x = Math.round(x0 + Math.min(Math.max(share, 0), 1) * (x1 - x0));
    for (const name of ["x1", "x2"]) cursor.setAttribute(name, px(x));
    cursor.setAttribute("visibility", "visible");
    tellAt(x);
  });
  drawn.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    tellAt(x1);
  });
  tellAt(x1);
  place.replaceChildren(drawn, read);
}

/** Write the value of a line nearest to a step, in its color; past its end, where it ended. */
function reading(line, x) {
  const last = line.points.at(-1)[0];
  const nearest = line.points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
  const text = document.createElement("b");
  text.style.color = line.color;
  if (line.dashes) text.append(dashSample(line));
  text.append(`${line.name} ${x > last ? `ended at ${short(last)}` : short(nearest[1])}`);
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
    const box = { x: i * wide + wide * 0.1, width: wide * 0.8, y: height - tall, height: tall, rx: Math.min(3, wide / 4) };
    drawn.append(svg("rect", { class: i === now ? "bar now" : "bar", ...box }));
    if (wide >= 20) {
      drawn.append(svg("text", { x: (i + 0.5) * wide, y: height - tall - 4, "text-anchor": "middle" }, count));
    }
  });
  drawn.setAttribute("aria-label", `Tokens revealed at each step: ${counts.join(", ")}`);
  const read = document.createElement("div");
  read.className = "read";
  read.textContent = now < 0
    ? "Before the first step everything is hidden."
    : `Step ${now + 1}: ${counts[now]} tokens, temperature ${temperatures[now].toFixed(2)}, guidance ${guidance[now].toFixed(2)}`;
  place.replaceChildren(drawn, read);
}
