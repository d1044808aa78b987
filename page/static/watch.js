// The panel "Watch the decoding": the chosen image at every step, its plan, a branch, its command.

import { fromBase64, tell } from "./api.js";
import { openCell, midway, written } from "./cell.js";
import { bars } from "./charts.js";
import { ARROWS, cellAt, color, drawFrames, drawStep, hasCells, placeOf, revealedAt, rowsAndColumns, tokenCount } from "./draw.js";
import { changedSettings, classSelect, radios } from "./form.js";
import { drawGroup, fileName, imageName, imageNumber, make } from "./groups.js";
import { className, element, emit, id, isOpen, on, store } from "./store.js";

const panel = id("watch");
const canvas = id("watch-canvas");
const slider = id("step");
const film = id("film");
const FRAME_MS = 350;
const FRAME_PIXELS = 64;
const EXPLAINED = {
  image: "What is known; hidden cells are covered.",
  imagined: "What the image would be with the tokens that this step drew; the line goes around what is known.",
  surest: "What the image would be with the likeliest tokens; the line goes around what is known.",
  confidence: "How likely the token of each cell was, on a logarithmic scale.",
  order: "When each cell became known: early ones are blue, late ones are yellow.",
};
let shown = "image";
let follows = true; // the slider stays at the newest step
let focus = 0; // the cell that the keyboard is at
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
  const { start, request, model } = group;
  const isLess = start.counts.length < request.sampling.step;
  classSelect(id("branch-class"), start.labels[index]);
  id("chance").textContent = `${(100 / model.codes).toPrecision(2)} %, mere chance`;
  id("facts").replaceChildren(...[
    ["Class", className(start.labels[index], model)],
    ["Seed", start.seed],
    ["Image", `${imageNumber(group, index)} (${index + 1} of ${start.labels.length})`],
    ["Steps", start.counts.length + (isLess ? ", as many as there are hidden tokens" : "")],
    ["Settings", changedSettings(request.sampling, model, start.ignored)],
    ["Model", `${model.run}, ${start.fingerprint}`],
  ].flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  // An option a line, as a shell reads it.
  id("command").textContent = start.command_lines.join(" \\\n  ");
  id("command-note").replaceChildren(...commandNote(group, index));
  update();
}

function commandNote(group, index) {
  const { request } = group;
  const number = request.edit ? String(index) : imageNumber(group, index);
  const file = `images/${number.padStart(6, "0")}.png`;
  const needed = [];
  if (request.edit && !("validation" in request.edit)) needed.push(download("original.png", group.original));
  if (request.midway) needed.push(download("start_tokens.json", startTokens(request.midway)));
  const saves = needed.flatMap((link, i) => [i ? " and " : "It needs ", link]);
  return [...saves, needed.length ? "; save that beside it first. " : "", `This image is its ${file}.`];
}

function download(name, file) {
  return element("a", { href: URL.createObjectURL(file), download: name }, name);
}

/** Write the start of a branch as the command line reads it. */
function startTokens({ steps, tokens, hidden }) {
  const [numbers, isHidden] = [new Uint32Array(fromBase64(tokens).buffer), fromBase64(hidden)];
  const known = Array.from(numbers, (token, i) => (isHidden[i] ? null : token));
  return new Blob([JSON.stringify({ steps, tokens: known })], { type: "application/json" });
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
  drawFilm();
  URL.revokeObjectURL(link);
  link = file ? URL.createObjectURL(file) : null;
  if (link) id("save").href = link;
  else id("save").removeAttribute("href");
  id("save").download = fileName(group, index);
}

function draw() {
  const { group, index, number, step } = view();
  drawStep(canvas, group, index, number, shown, 320);
  const isOpened = (i) => i === focus && !id("cell").hidden;
  drawFrames(canvas.getContext("2d"), isOpened, color("--accent"), 0.1, group.model);
  drawGroup(group, number, shown);
  for (const frame of film.children) {
    const isNow = frame.dataset.number === String(number);
    const wasNow = frame.getAttribute("aria-pressed") === "true";
    if (isNow && !wasNow) film.scrollLeft = frame.offsetLeft - film.clientWidth / 2;
    frame.setAttribute("aria-pressed", isNow);
  }
  const steps = group.start.counts.length;
  const cells = tokenCount(group.model);
  const hidden = step ? step.hidden.subarray(index * cells, (index + 1) * cells) : [];
  const known = step ? cells - hidden.reduce((sum, one) => sum + one, 0) : 0;
  id("step-at").textContent = `Step ${slider.value} of ${steps}: ${known} of ${cells} tokens are known`;
  slider.setAttribute("aria-valuetext", id("step-at").textContent);
  bars(id("plan"), group.start, Number(slider.value) - 1);
  id("watch-cell").textContent = "Click a cell to see what the model could take there.";
  // The tokens mean nothing to another model.
  id("branch-form").querySelector("button").disabled = !step || !isOpen(group);
}

/** Draw the chosen image at every step, side by side; a click goes to the step. */
function drawFilm() {
  const { group, index } = store.chosen;
  while (film.children.length > group.steps.length) film.lastElementChild.remove();
  group.steps.forEach((_, number) => {
    const frame = film.children[number] ?? film.appendChild(newFrame(number));
    frame.setAttribute("aria-label", `Step ${group.first + number}`);
    drawStep(frame.firstElementChild, group, index, number, shown, FRAME_PIXELS);
  });
}

function newFrame(number) {
  const frame = element("button", {}, element("canvas"));
  frame.dataset.number = number;
  frame.addEventListener("click", () => {
    slider.value = store.chosen.group.first + number;
    slider.dispatchEvent(new Event("input"));
  });
  return frame;
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

function open(cell) {
  const { group, index, number, step } = view();
  if (!step || !isOpen(group)) return;
  openCell(group, index, number, cell);
  draw();
}

canvas.addEventListener("click", (event) => {
  focus = cellAt(event, store.chosen.group.model);
  open(focus);
});

canvas.addEventListener("keydown", (event) => {
  const [rows, columns] = rowsAndColumns(store.chosen.group.model);
  const [right, down] = ARROWS[event.key] ?? [0, 0];
  if (!(right || down || event.key === "Enter")) return;
  event.preventDefault();
  focus = Math.min(rows * columns - 1, Math.max(0, focus + right + down * columns));
  open(focus);
});

canvas.addEventListener("pointermove", (event) => {
  const { group, index, step } = view();
  if (!step) return;
  const place = cellAt(event, group.model);
  const [row, column] = placeOf(place, group.model);
  const cell = index * tokenCount(group.model) + place;
  const share = (step.confidence[cell] * 100).toPrecision(2);
  const state = step.hidden[cell]
    ? "hidden; the model would be"
    : `known since step ${revealedAt(group, cell)}; the model was`;
  id("watch-cell").textContent = `Row ${row + 1}, column ${column + 1}: ${state} ${share} % sure`;
});

id("branch-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { group, index, number } = view();
  if (group.first + number >= group.start.counts.length) {
    return tell("At the last step nothing is hidden: move the slider to an earlier one, and branch there.");
  }
  const label = Number(id("branch-class").value);
  const state = midway(group, index, number);
  const request = {
    ...group.request,
    labels: [label],
    seed: id("branch-seed").value,
    count: Number(id("branch-count").value),
    first_image: imageNumber(group, index),
    before: state.before,
    midway: written(state),
  };
  const from = `step ${state.steps} of “${imageName(group, index)}”`;
  const title = `${className(label)}, seed ${request.seed}, from ${from}`;
  make(title, request, group.place, group.original, { model: group.model });
});

id("edit-this").addEventListener("click", () => emit("edit", store.chosen));

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
  id("explained").textContent = EXPLAINED[value];
  if (store.chosen) update();
});
id("cell-close").addEventListener("click", draw);
on("model", () => store.chosen && update());
on("chosen", showChosen);
on("group", (group) => group === store.chosen?.group && update());
on("theme", () => store.chosen && update());
