// The table of a sweep, and a heat map of one score over two settings; a cell shows its images.
// The best cell by that score has a frame.

import { getJson } from "./api.js";
import { short } from "./charts.js";
import { heat } from "./draw.js";
import { fill } from "./form.js";
import { element, id } from "./store.js";
import { crossTable, row } from "./table.js";

let sweep = null; // { run, settings, scores, rows, strips, better }

/** Load and show the sweep of a run. */
export async function showSweep(run) {
  const got = await getJson(`api/runs/${run}/sweep`);
  const names = Object.keys(got.rows[0]);
  const scores = names.filter((name) => !got.settings.includes(name));
  sweep = { ...got, run, scores };
  const varied = got.settings.filter((name) => valuesOf(name).length > 1);
  const axes = varied.length ? varied : got.settings.slice(0, 1);
  fill(id("sweep-x"), axes);
  fill(id("sweep-y"), axes, axes[1]);
  fill(id("sweep-score"), scores, "fid");
  showTable(varied);
  showHeat();
}

function valuesOf(name) {
  const values = [...new Set(sweep.rows.map((row) => row[name]))];
  return values.every((value) => value !== "" && !isNaN(value)) ? values.sort((a, b) => a - b) : values;
}

function showTable(varied) {
  const columns = [...varied, ...sweep.scores];
  const rows = sweep.rows.map((one) => row("td", columns.map((name) => one[name] ?? "")));
  id("sweep-table").replaceChildren(row("th", columns), ...rows);
}

function showHeat() {
  const [x, y, score] = ["sweep-x", "sweep-y", "sweep-score"].map((name) => id(name).value);
  const down = x === y ? [null] : valuesOf(y);
  const numbers = sweep.rows.map((row) => parseFloat(row[score])).filter(Number.isFinite);
  const range = [Math.min(...numbers), Math.max(...numbers)];
  const better = sweep.better[score]; // undefined for a number that does not rank settings
  id("better").textContent = better ? `${better} is better` : "";
  const merit = (i) => parseFloat(sweep.rows[i][score]) * (better === "lower" ? -1 : 1);
  id("heat").replaceChildren(crossTable(x, valuesOf(x), y, down, (right, below) => {
    // Other settings may vary, too: the cell shows the best of its rows.
    const fits = (one) => one[x] === right && (below === null || one[y] === below);
    const fitting = sweep.rows.flatMap((one, i) => (fits(one) ? [i] : []));
    if (!fitting.length) return "";
    const shown = better ? fitting.reduce((a, b) => (merit(b) > merit(a) || isNaN(merit(a)) ? b : a)) : fitting[0];
    const isBest = Boolean(better) && parseFloat(sweep.rows[shown][score]) === range[better === "lower" ? 0 : 1];
    return heatButton(shown, score, range, isBest);
  }));
  id("strip").hidden = true;
}

function heatButton(number, score, [low, high], isBest) {
  const value = parseFloat(sweep.rows[number][score]);
  const share = high > low && value >= low ? (value - low) / (high - low) : 0;
  const button = element("button", {}, isNaN(value) ? "none" : short(value));
  button.style.background = heat(share);
  button.style.color = share > 0.55 ? "#14161a" : "#fff";
  button.classList.toggle("best", isBest);
  button.setAttribute("aria-label", `${button.textContent}${isBest ? ", the best" : ""}`);
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    for (const other of id("heat").querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
    showStrip(number);
  });
  return button;
}

function showStrip(number) {
  const [image, caption] = id("strip").children;
  id("strip").hidden = false;
  image.hidden = !sweep.strips[number];
  if (sweep.strips[number]) image.src = `api/runs/${sweep.run}/sweep/${number}`;
  const shown = sweep.rows[number];
  caption.textContent = [...sweep.settings, ...sweep.scores].filter((name) => shown[name] !== "")
    .map((name) => `${name} ${shown[name]}`).join(", ");
}

for (const name of ["sweep-x", "sweep-y", "sweep-score"]) id(name).addEventListener("change", showHeat);
