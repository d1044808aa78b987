// The table of a sweep, and a heat map of one score over two settings; a cell shows its images.
// The best cell by that score has a frame.

import { getJson } from "./api.js";
import { short } from "./charts.js";
import { heat } from "./draw.js";
import { id } from "./store.js";

let sweep = null; // { run, settings, scores, rows, strips, better }

/** Load and show the sweep of a run. */
export async function showSweep(run) {
  const got = await getJson(`api/runs/${run}/sweep`);
  const names = Object.keys(got.rows[0]);
  const scores = names.filter((name) => !got.settings.includes(name));
  sweep = { ...got, run, scores };
  const varied = got.settings.filter((name) => valuesOf(name).length > 1);
  const axes = varied.length ? varied : got.settings.slice(0, 1);
  fill(id("sweep-x"), axes, axes[0]);
  fill(id("sweep-y"), axes, axes[1] ?? axes[0]);
  fill(id("sweep-score"), scores, "fid");
  showTable(varied);
  showHeat();
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  select.value = chosen;
}

function valuesOf(name) {
  const values = [...new Set(sweep.rows.map((row) => row[name]))];
  return values.every((value) => value !== "" && !isNaN(value)) ? values.sort((a, b) => a - b) : values;
}

function cell(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function showTable(varied) {
  const columns = [...varied, ...sweep.scores];
  const head = document.createElement("tr");
  head.append(...columns.map((name) => cell("th", name)));
  const rows = sweep.rows.map((row) => {
    const line = document.createElement("tr");
    line.append(...columns.map((name) => cell("td", row[name])));
    return line;
  });
  id("sweep-table").replaceChildren(head, ...rows);
}

function showHeat() {
  const [x, y, score] = ["sweep-x", "sweep-y", "sweep-score"].map((name) => id(name).value);
  const down = x === y ? [null] : valuesOf(y);
  const numbers = sweep.rows.map((row) => Number(row[score])).filter(Number.isFinite);
  const range = [Math.min(...numbers), Math.max(...numbers)];
  const better = sweep.better[score]; // undefined for a number that does not rank settings
  id("better").textContent = better ? `${better} is better` : "";
  const table = document.createElement("table");
  const head = document.createElement("tr");
  head.append(cell("th", ""), ...valuesOf(x).map((value) => cell("th", `${x} ${value}`)));
  table.append(head);
  for (const value of down) {
    const line = document.createElement("tr");
    line.append(cell("th", value === null ? "" : `${y} ${value}`));
    for (const across of valuesOf(x)) {
      const box = document.createElement("td");
      // Other settings may vary, too: the cell shows the best of its rows.
      const fitting = sweep.rows.flatMap((row, i) =>
        row[x] === across && (value === null || row[y] === value) ? [i] : []);
      const merit = (i) => Number(sweep.rows[i][score]) * (better === "lower" ? -1 : 1);
      if (fitting.length) {
        const shown = better ? fitting.reduce((a, b) => (merit(b) > merit(a) ? b : a)) : fitting[0];
        const isBest = Boolean(better) && Number(sweep.rows[shown][score]) === range[better === "lower" ? 0 : 1];
        box.append(heatButton(shown, score, range, isBest));
      }
      line.append(box);
    }
    table.append(line);
  }
  id("heat").replaceChildren(table);
  id("strip").hidden = true;
}

function heatButton(number, score, [low, high], isBest) {
  const value = Number(sweep.rows[number][score]);
  const share = high > low ? (value - low) / (high - low) : 0;
  const button = cell("button", short(value));
  button.type = "button";
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
  const row = sweep.rows[number];
  caption.textContent = [...sweep.settings, ...sweep.scores].filter((name) => row[name] !== "")
    .map((name) => `${name} ${row[name]}`).join(", ");
}

for (const name of ["sweep-x", "sweep-y", "sweep-score"]) id(name).addEventListener("change", showHeat);
