// The view "Training": the numbers and pictures of runs, read again while they grow.

import { attempt, getJson } from "./api.js";
import { lines, readable, short } from "./charts.js";
import { color, figure } from "./draw.js";
import { fill, radios } from "./form.js";
import { element, id, keep, on, store } from "./store.js";
import { showSweep } from "./sweep.js";
import { row } from "./table.js";
import { why } from "./terms.js";

const POLL_MS = 2000;
const LIVE_SECONDS = 90; // a run that wrote numbers so recently is training
const COLORS = 6;
const DASHES = ["none", "6 3", "2 3", "8 3 2 3", "12 4"];

let runs = [];
let { stage } = store.watched;
let timer = null;
const drawn = new Map(); // what the parts of the view show, so that pictures load once
const shown = new Map(); // id of a run -> number of its color
const boxes = new Map(); // id of a run -> its row in the list
const numbers = new Map(); // "id stage" -> { version, count, columns, clock }
const settings = new Map(); // "id stage" -> its options
// Numbers that say how far a run is; they are on the x axis.
const CLOCK = { epoch: "train/epoch", images: "train/images", progress: "train/progress" };

/** The charts of a stage: those that people look for first, then every other number. */
function charts(names) {
  const isStudent = stage === "student";
  const first = [
    ["Loss", isStudent ? "divergence" : "loss", ["train/loss"]],
    ["Validation loss", isStudent ? "divergence" : "validation loss", ["val/loss"]],
    ["Accuracy by share hidden", "accuracy", names.filter((name) => /^val\/accuracy/.test(name))],
    ["FID of samples", "FID", ["samples/fid"]],
    ["Learning rate", "learning rate", ["train/lr"]],
    ["Images per second", "speed", ["train/images_per_second"]],
  ];
  const used = new Set([...Object.values(CLOCK), ...first.flatMap(([, , of]) => of)]);
  const titled = (name) => name.replace("val/", "Validation ").replace("samples/", "Samples: ")
    .replace(/^train\/(.)/, (_, one) => one.toUpperCase());
  const others = names.filter((name) => !used.has(name))
    .map((name) => [titled(name).replaceAll("_", " "), "number", [name]]);
  return [...first, ...others].filter(([, , of]) => of.some((name) => names.includes(name)));
}

async function look() {
  runs = await getJson("api/runs");
  for (const run of shown.keys()) if (!runs.some((one) => one.id === run)) shown.delete(run);
  const before = store.watched.runs?.filter((run) => runs.some((one) => one.id === run));
  if (!shown.size && runs.length) (before?.length ? before : [runs[0].id]).forEach((run, n) => shown.set(run, n));
  id("no-runs").hidden = runs.length > 0;
  showRuns();
  const reads = await Promise.allSettled(chosen().map(readOn));
  id("no-rows").hidden = !runs.length || chosen().some((run) => run.stages.includes(stage));
  showCharts();
  showDifferences();
  showPictures();
  // A run that cannot be read hides no other one.
  const failed = reads.find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
}

const named = ({ name, id }) => [name, id];

function chosen() {
  return runs.filter((run) => shown.has(run.id));
}

async function readOn(run) {
  if (!run.stages.includes(stage)) return;
  const key = `${run.id} ${stage}`;
  const known = numbers.get(key) ?? empty(0);
  const got = await getJson(`api/runs/${run.id}/rows/${stage}?version=${known.version}&known=${known.count}`);
  // Another look may have been first.
  const table = got.start ? known : empty(got.version);
  got.rows.slice(table.count - got.start).forEach((one) => add(table, one));
  numbers.set(key, table);
  if (!settings.has(key)) settings.set(key, await getJson(`api/runs/${run.id}/settings/${stage}`));
}

function empty(version) {
  return { version, count: 0, columns: new Map(), clock: { step: [0], epoch: [0], hours: [0] }, images: 0 };
}

/** Add a row of numbers to the columns, each with steps and values, and to the clock. */
function add(table, numbersOfRow) {
  const { step, ...named } = numbersOfRow;
  table.count++;
  for (const [name, value] of Object.entries(named)) {
    if (!table.columns.has(name)) table.columns.set(name, { step: [], ys: [] });
    const column = table.columns.get(name);
    column.step.push(step);
    column.ys.push(value);
  }
  if (!(CLOCK.images in named)) return;
  const { clock } = table;
  const seconds = (named[CLOCK.images] - table.images) / named["train/images_per_second"];
  table.images = named[CLOCK.images];
  clock.step.push(step);
  clock.epoch.push(named[CLOCK.epoch]);
  clock.hours.push(clock.hours.at(-1) + Math.max(0, seconds) / 3600);
}

/** Where the points of a column are on the x axis; null if the run does not tell. */
function xsOf({ clock }, column, unit) {
  if (unit === "step") return column.step;
  if (clock.step.length < 2) return null;
  if (column.unit !== unit || column.xs.length !== column.step.length) {
    let i = 1;
    column.unit = unit;
    column.xs = column.step.map((step) => {
      while (i < clock.step.length - 1 && clock.step[i] < step) i++;
      const share = (step - clock.step[i - 1]) / (clock.step[i] - clock.step[i - 1] || 1);
      return clock[unit][i - 1] + share * (clock[unit][i] - clock[unit][i - 1]);
    });
  }
  return column.xs;
}

function tableOf(run) {
  return numbers.get(`${run.id} ${stage}`) ?? empty(0);
}

function runColor(run) {
  return color(`--run-${(shown.get(run) % COLORS) + 1}`);
}

function duration(seconds) {
  const units = [[90, 1, "s"], [5400, 60, "min"], [172800, 3600, "h"], [Infinity, 86400, "days"]];
  const [, size, unit] = units.find(([most]) => seconds < most);
  return `${Math.round(seconds / size)} ${unit}`;
}

/** Say whether a run trains, is finished or has stopped. */
function state({ age, trains, progress, left }) {
  const isNew = age < LIVE_SECONDS;
  if (trains ?? (isNew && progress !== 1)) return left ? `training, ${duration(left)} left` : "training";
  if (progress === 1) return `finished ${duration(age)} ago`;
  // A training on another machine holds no lock here.
  const share = progress === null ? "" : `${isNew ? "" : "stopped "}at ${Math.floor(100 * progress)} %, `;
  return `${share}${duration(age)} ago`;
}

/** Make the row of a run; it stays while the run is there, so that nothing moves under the pointer. */
function boxOf(run, name) {
  const input = element("input", { type: "checkbox" });
  input.addEventListener("change", () => {
    const free = [...Array(runs.length).keys()].find((n) => ![...shown.values()].includes(n));
    if (input.checked) shown.set(run, free);
    else shown.delete(run);
    store.watched.runs = [...shown.keys()];
    keep();
    attempt(look);
  });
  return element("label", { className: "run" }, input, element("i"), element("span", {}, name), element("small"));
}

function showRuns() {
  const gone = [...boxes.keys()].filter((run) => !runs.some((one) => one.id === run));
  const added = runs.filter((run) => !boxes.has(run.id));
  for (const run of gone) boxes.delete(run);
  for (const run of added) boxes.set(run.id, boxOf(run.id, run.name));
  if (gone.length || added.length) id("runs").replaceChildren(...runs.map((run) => boxes.get(run.id)));
  for (const run of runs) {
    const [input, sample, , when] = boxes.get(run.id).children;
    input.checked = shown.has(run.id);
    sample.style.background = input.checked ? runColor(run.id) : "";
    when.textContent = state(run);
    when.classList.toggle("live", when.textContent.startsWith("training"));
  }
}

function showCharts() {
  const names = [...new Set(chosen().flatMap((run) => [...tableOf(run).columns.keys()]))];
  const wanted = charts(names);
  const place = id("charts");
  const titles = wanted.map(([title]) => title);
  // Keep the boxes while their titles stay, so that nothing jumps.
  if (place.dataset.titles !== titles.join()) {
    place.dataset.titles = titles.join();
    place.replaceChildren(...wanted.map(([title, term]) => {
      const drawing = element("div");
      drawing.setAttribute("aria-label", `${title}; the arrows read it`);
      readable(drawing);
      return element("article", { className: "chart" }, element("h2", {}, `${title} `, why(term)), drawing);
    }));
  }
  const { unit, isLog, smoothing } = store.watched;
  wanted.forEach(([, , of], i) =>
    lines(place.children[i].lastElementChild, seriesOf(of, unit), { unit, isLog, smoothing }));
  const silent = chosen().filter((run) => tableOf(run).count && tableOf(run).clock.step.length < 2);
  id("no-clock").hidden = unit === "step" || !silent.length;
}

function seriesOf(names, unit) {
  const found = [];
  for (const run of chosen()) {
    names.forEach((name, i) => {
      const table = tableOf(run);
      const column = table.columns.get(name);
      const xs = column && xsOf(table, column, unit);
      if (!xs) return;
      const part = name.replace(/^val\/accuracy_(\d+)_(\d+)$/, "$1–$2 %").replace("val/accuracy", "all");
      // A single run has a color for each of its lines.
      const own = shown.size === 1 && names.length > 1;
      found.push({
        name: names.length > 1 ? part : "",
        run: shown.size > 1 ? run.name : "",
        xs,
        ys: column.ys,
        color: own ? color(`--run-${(i % COLORS) + 1}`) : runColor(run.id),
        dashes: names.length > 1 && !own ? DASHES[i % DASHES.length] : undefined,
      });
    });
  }
  return found;
}

/** Whether a part of the view has to be drawn again, because what it shows has changed. */
function isNew(part, what) {
  const text = JSON.stringify([stage, what]);
  const is = drawn.get(part) !== text;
  drawn.set(part, text);
  return is;
}

/** Show the options in which the chosen runs differ. */
function showDifferences() {
  const of = chosen().filter((run) => settings.has(`${run.id} ${stage}`));
  const options = of.map((run) => settings.get(`${run.id} ${stage}`));
  const names = [...new Set(options.flatMap(Object.keys))];
  const differing = names.filter((name) => new Set(options.map((one) => one[name])).size > 1);
  id("differences").hidden = !differing.length;
  const lines = differing.map((name) => [name, ...options.map((one) => one[name] ?? "")]);
  const head = ["option", ...of.map(({ name }) => name)];
  if (!isNew("differences", [head, lines])) return;
  id("difference-table").replaceChildren(row("th", head), ...lines.map((line) => row("td", line)));
}

function showPictures() {
  const withPreviews = chosen().filter((run) => run.previews[stage]?.length);
  if (isNew("previews", withPreviews.map((run) => [run.id, run.previews[stage]]))) {
    id("previews").hidden = !withPreviews.length;
    fill(id("preview-run"), withPreviews.map(named));
    showPreviews();
  }
  const withImages = chosen().filter((run) => run.reconstructions);
  if (isNew("reconstructions", withImages.map((run) => [run.id, run.reconstructions]))) {
    id("reconstructions").hidden = !withImages.length;
    id("reconstruction-list").replaceChildren(...withImages.map(reconstruction));
  }
  const withSweep = chosen().filter((run) => run.sweep);
  if (isNew("sweep", withSweep.map((run) => [run.id, run.sweep]))) {
    id("sweep").hidden = !withSweep.length;
    fill(id("sweep-run"), withSweep.map(named));
    if (withSweep.length) attempt(() => showSweep(id("sweep-run").value));
  }
}

function reconstruction({ id: run, name, reconstructions: time }) {
  // With its time, so that a newer one loads.
  return figure(`api/runs/${run}/reconstructions?${time}`, `Originals and reconstructions of ${name}`, name);
}

function showPreviews() {
  const steps = runs.find((run) => run.id === id("preview-run").value)?.previews[stage] ?? [];
  const slider = id("preview-step");
  const atEnd = slider.value === slider.max;
  slider.max = Math.max(0, steps.length - 1);
  if (atEnd) slider.value = slider.max;
  showPreview();
}

function showPreview() {
  const run = id("preview-run").value;
  const step = runs.find((one) => one.id === run)?.previews[stage]?.[id("preview-step").value];
  if (step === undefined) return;
  id("preview").src = `api/runs/${run}/preview/${stage}/${step}`;
  id("preview-at").textContent = `step ${short(step)}`;
}

id("preview-run").addEventListener("change", showPreviews);
id("preview-step").addEventListener("input", showPreview);
id("sweep-run").addEventListener("change", (event) => attempt(() => showSweep(event.target.value)));
const CHOICES = [["unit", "value", "change"], ["isLog", "checked", "change"], ["smoothing", "valueAsNumber", "input"]];
for (const [name, part, event] of CHOICES) {
  const input = id(`chart-${name}`);
  input[part] = store.watched[name];
  input.addEventListener(event, () => {
    store.watched[name] = input[part];
    keep();
    showCharts();
  });
}
radios(id("stages"), "stage", (value) => {
  stage = store.watched.stage = value;
  keep();
  if (timer) attempt(look);
}, stage);

/** Begin to look, and look again as long as the view is open. */
export async function follow(is) {
  clearTimeout(timer);
  timer = null;
  if (!is) return;
  const again = async () => {
    if (!document.hidden) await attempt(look);
    if (timer) timer = setTimeout(again, POLL_MS);
  };
  timer = setTimeout(again, 0);
}

on("theme", () => timer && (showRuns(), showCharts()));
