// The panel "Watch the decoding": the chosen image at every step, its plan, a branch, its command.

import { toBase64 } from "./api.js";
import { bars } from "./charts.js";
import { drawStep, hasCells, rowsAndColumns, tokenCount } from "./draw.js";
import { changedSettings, classSelect, radios } from "./form.js";
import { make } from "./groups.js";
import { className, emit, id, on, store } from "./store.js";

const panel = id("watch");
const canvas = id("watch-canvas");
const slider = id("step");
const FRAME_MS = 350;
let shown = "image";
let follows = true; // the slider stays at the newest step
let timer = null;
let link = null; // address of the image to save

function view() {
  const { group, index } = store.chosen;
  const number = Number(slider.value) - group.first;
  return { group, index, number, step: group.steps[number] };
}

function showChosen() {
  panel.hidden = !store.chosen;
  stopPlaying();
  if (!store.chosen) return;
  follows = true;
  const { group, index } = store.chosen;
  const { start, request } = group;
  classSelect(id("branch-class"), start.labels[index]);
  id("facts").replaceChildren(...[
    ["Class", className(start.labels[index])],
    ["Seed", start.seed],
    ["Image", `${start.first_image + index} (${index + 1} of ${start.labels.length})`],
    ["Settings", changedSettings(request.sampling)],
    ["Model", `${store.model.run}, ${start.fingerprint}`],
  ].flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
  // An option a line, as a shell reads it.
  id("command").textContent = (start.command_lines ?? []).join(" \\\n  ");
  id("command").hidden = id("copy").hidden = !start.command;
  id("command-note").replaceChildren(...commandNote(group, index));
  update();
}

function commandNote(group, index) {
  const { start, request } = group;
  if (!start.command) return ["A branch has no command of its own: it begins in the middle of another image."];
  const number = request.edit ? index : start.first_image + index;
  const file = `images/${String(number).padStart(6, "0")}.png`;
  if (!request.edit || "validation" in request.edit) return [`This image is its ${file}.`];
  const save = document.createElement("a");
  save.href = URL.createObjectURL(group.original);
  save.download = "original.png";
  save.textContent = "original.png";
  return ["It edits ", save, `; save that beside it first. This image is its ${file}.`];
}

function update() {
  if (!store.chosen) return;
  const { group, index } = store.chosen;
  const last = group.first + Math.max(0, group.steps.length - 1);
  slider.min = group.first;
  slider.max = last;
  if (follows) slider.value = last;
  draw();
  // What can be done once the image is finished.
  const file = group.files[index];
  id("edit-this").disabled = !file || !hasCells();
  if (link) URL.revokeObjectURL(link);
  link = file ? URL.createObjectURL(file) : null;
  if (link) id("save").href = link;
  else id("save").removeAttribute("href");
  id("save").download = `${className(group.start.labels[index])}_${group.start.seed}_${group.start.first_image + index}.png`;
}

function draw() {
  const { group, index, number, step } = view();
  drawStep(canvas, group, index, number, shown, 320);
  const steps = group.start.counts.length;
  const cells = tokenCount();
  const hidden = step ? step.hidden.subarray(index * cells, (index + 1) * cells) : [];
  const known = step ? cells - hidden.reduce((sum, one) => sum + one, 0) : 0;
  id("step-at").textContent = `Step ${slider.value} of ${steps}: ${known} of ${cells} tokens are known`;
  slider.setAttribute("aria-valuetext", id("step-at").textContent);
  bars(id("plan"), group.start, Number(slider.value) - 1);
  id("watch-cell").textContent = "";
  // From the last step nothing is left to decode.
  id("branch-form").querySelector("button").disabled = !step || Number(slider.value) >= steps;
}

function stopPlaying() {
  clearInterval(timer);
  timer = null;
  id("play").textContent = "Play";
}

id("play").addEventListener("click", () => {
  if (timer) return stopPlaying();
  if (slider.value === slider.max) slider.value = slider.min;
  follows = false;
  id("play").textContent = "Pause";
  draw();
  timer = setInterval(() => {
    slider.stepUp();
    draw();
    if (slider.value === slider.max) stopPlaying();
  }, FRAME_MS);
});

slider.addEventListener("input", () => {
  stopPlaying();
  follows = slider.value === slider.max;
  draw();
});

canvas.addEventListener("pointermove", (event) => {
  if (!store.chosen) return;
  const { index, step } = view();
  const [rows, columns] = rowsAndColumns();
  const column = Math.floor((event.offsetX / canvas.clientWidth) * columns);
  const row = Math.floor((event.offsetY / canvas.clientHeight) * rows);
  const cell = index * tokenCount() + row * columns + column;
  if (!step || column < 0 || column >= columns || row < 0 || row >= rows) return;
  const share = (step.confidence[cell] * 100).toPrecision(2);
  const state = step.hidden[cell] ? "hidden; the model would be" : "known; the model was";
  id("watch-cell").textContent = `Row ${row + 1}, column ${column + 1}: ${state} ${share} % sure`;
});

id("branch-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { group, index, step } = view();
  const cells = tokenCount();
  const label = Number(id("branch-class").value);
  const steps = Number(slider.value);
  const request = {
    ...group.request,
    labels: [label],
    seed: Number(id("branch-seed").value),
    count: Number(id("branch-count").value),
    first_image: group.start.first_image + index,
    before: step.confidence.subarray(index * cells, (index + 1) * cells),
    midway: {
      steps,
      tokens: toBase64(step.tokens.subarray(4 * index * cells, 4 * (index + 1) * cells)),
      hidden: toBase64(step.hidden.subarray(index * cells, (index + 1) * cells)),
    },
  };
  const from = `${className(group.start.labels[index])} · ${group.start.first_image + index}`;
  const title = `${className(label)}, seed ${request.seed}, from step ${steps} of “${from}”`;
  make(title, request, group.element.parentElement, group.original);
});

id("edit-this").addEventListener("click", () => {
  emit("edit", store.chosen);
  const show = () => id("easel").scrollIntoView();
  if (location.hash === "#edit") return show();
  addEventListener("hashchange", show, { once: true });
  location.hash = "edit";
});

id("copy").addEventListener("click", async () => {
  const text = id("command").textContent;
  try {
    await navigator.clipboard.writeText(text);
    id("copy").textContent = "Copied";
  } catch {
    // The clipboard needs a secure address: without one, select the command for Ctrl-C.
    getSelection().selectAllChildren(id("command"));
    id("copy").textContent = "Press Ctrl-C";
  }
  setTimeout(() => (id("copy").textContent = "Copy"), 2000);
});

radios(id("shown"), "shown", (value) => {
  shown = value;
  id("scale").hidden = value !== "confidence";
  id("watch-cell").hidden = value === "image";
  if (store.chosen) draw();
});
on("model", () => (id("chance").textContent = `${(100 / store.model.codes).toPrecision(2)} %, mere chance`));
on("chosen", showChosen);
on("group", (group) => group === store.chosen?.group && update());
on("theme", () => store.chosen && draw());
