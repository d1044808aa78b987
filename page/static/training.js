// The view "Training": the numbers and pictures of runs, read again while they grow.

import { attempt, getJson } from "./api.js";
import { lines, short } from "./charts.js";
import { color } from "./draw.js";
import { radios } from "./form.js";
import { id, keep, on, store } from "./store.js";
import { showSweep } from "./sweep.js";
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
const numbers = new Map(); // "id stage" -> { version, rows }

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
  const used = new Set(first.flatMap(([, , of]) => of));
  const titled = (name) => name.replace("val/", "Validation ").replace("samples/", "Samples: ").replace(/^train\/(.)/, (_, one) => one.toUpperCase());
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
  showPictures();
  // A run that cannot be read hides no other one.
  const failed = reads.find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
}

function chosen() {
  return runs.filter((run) => shown.has(run.id));
}

async function readOn(run) {
  if (!run.stages.includes(stage)) return;
  const key = `${run.id} ${stage}`;
  const known = numbers.get(key) ?? { version: 0, rows: [] };
  const query = `version=${known.version}&known=${known.rows.length}`;
  const got = await getJson(`api/runs/${run.id}/rows/${stage}?${query}`);
  numbers.set(key, { version: got.version, rows: [...known.rows.slice(0, got.start), ...got.rows] });
}

function rowsOf(run) {
  return numbers.get(`${run.id} ${stage}`)?.rows ?? [];
}

function runColor(run) {
  return color(`--run-${(shown.get(run) % COLORS) + 1}`);
}

function age(seconds) {
  if (seconds < LIVE_SECONDS) return "training";
  const [size, unit] = seconds < 3600 ? [60, "min"] : seconds < 172800 ? [3600, "h"] : [86400, "days"];
  return `${Math.round(seconds / size)} ${unit} ago`;
}

/** Make the row of a run; it stays while the run is there, so that nothing moves under the pointer. */
function boxOf(run, name) {
  const box = document.createElement("label");
  box.className = "run";
  const input = document.createElement("input");
  input.type = "checkbox";
  input.addEventListener("change", () => {
    const free = [...Array(runs.length).keys()].find((n) => ![...shown.values()].includes(n));
    if (input.checked) shown.set(run, free);
    else shown.delete(run);
    store.watched.runs = [...shown.keys()];
    keep();
    attempt(look);
  });
  const title = document.createElement("span");
  title.textContent = name;
  box.append(input, document.createElement("i"), title, document.createElement("small"));
  return box;
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
    when.textContent = age(run.age);
    when.classList.toggle("live", run.age < LIVE_SECONDS);
  }
}

function showCharts() {
  const names = [...new Set(chosen().flatMap(rowsOf).flatMap(Object.keys))].filter((name) => name !== "step");
  const wanted = charts(names);
  const place = id("charts");
  const titles = wanted.map(([title]) => title);
  // Keep the boxes while their titles stay, so that nothing jumps.
  if (place.dataset.titles !== titles.join()) {
    place.dataset.titles = titles.join();
    place.replaceChildren(...wanted.map(([title, term]) => {
      const box = document.createElement("article");
      box.className = "chart";
      const head = document.createElement("h3");
      head.append(`${title} `, why(term));
      box.append(head, document.createElement("div"));
      return box;
    }));
  }
  wanted.forEach(([title, , of], i) => {
    const box = place.children[i].lastElementChild;
    if (box.matches(":hover")) return; // somebody reads it
    const series = seriesOf(of);
    if (!series.length) return;
    lines(box, series);
    box.querySelector("svg").setAttribute("aria-label", `${title} by step`);
  });
}

function seriesOf(names) {
  const found = [];
  for (const run of chosen()) {
    names.forEach((name, i) => {
      const points = rowsOf(run).flatMap((row) => (name in row ? [[row.step, row[name]]] : []));
      if (!points.length) return;
      const part = name.replace(/^val\/accuracy_(\d+)_(\d+)$/, "$1–$2 %").replace("val/accuracy", "all");
      // A single run has a color for each of its lines.
      const own = shown.size === 1 && names.length > 1;
      found.push({
        name: names.length > 1 ? part : "",
        run: shown.size > 1 ? run.name : "",
        points,
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

function showPictures() {
  const withPreviews = chosen().filter((run) => run.previews[stage]?.length);
  if (isNew("previews", withPreviews.map((run) => [run.id, run.previews[stage]]))) {
    id("previews").hidden = !withPreviews.length;
    options(id("preview-run"), withPreviews);
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
    options(id("sweep-run"), withSweep);
    if (withSweep.length) attempt(() => showSweep(id("sweep-run").value));
  }
}

function reconstruction(run) {
  const figure = document.createElement("figure");
  const image = new Image();
  image.src = `api/runs/${run.id}/reconstructions?${run.reconstructions}`; // so that a newer one loads
  image.alt = `Originals and reconstructions of ${run.name}`;
  const caption = document.createElement("figcaption");
  caption.textContent = run.name;
  figure.append(image, caption);
  return figure;
}

/** Fill a select with runs, and keep what was chosen. */
function options(select, of) {
  const before = select.value;
  select.replaceChildren(...of.map((run) => new Option(run.name, run.id)));
  if (of.some((run) => run.id === before)) select.value = before;
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
