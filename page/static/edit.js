// The view "Edit": an original, the cells of it that are made anew, and variants.

import { attempt, fromBase64, getJson, tell, toBase64, upload } from "./api.js";
import { drawGrid, drawHidden, drawPainted, picture, prepare } from "./draw.js";
import { classSelect, radios } from "./form.js";
import { make } from "./groups.js";
import { className, id, on, store } from "./store.js";

const canvas = id("canvas");
const easel = id("easel");
const SIDE = 512; // pixels of the canvas, about
const MOST_UNDO = 100;

let original = null; // { source, pixels, file, name, label }
let cells = []; // true where a cell is made anew
let shift = { right: 0, down: 0 }; // of the image, in cells
let past = []; // earlier cells and shifts
let tool = "brush";
let drag = null; // what the pointer began
let focus = 0; // the cell that the keyboard is at

function begin(next) {
  original = next;
  cells = Array(store.model.grid ** 2).fill(false);
  shift = { right: 0, down: 0 };
  past = [];
  id("edit-class").selectedIndex = next?.label ?? id("edit-class").options.length - 1;
  draw();
}

function remember() {
  past.push({ cells: [...cells], shift: { ...shift } });
  if (past.length > MOST_UNDO) past.shift();
}

/** Whether a cell lies outside the shifted image. */
function isOutside(i) {
  const { grid } = store.model;
  const column = (i % grid) - shift.right;
  const row = Math.floor(i / grid) - shift.down;
  return column < 0 || column >= grid || row < 0 || row >= grid;
}

function draw() {
  const context = prepare(canvas, SIDE);
  const { grid } = store.model;
  const cell = canvas.width / grid;
  if (original) {
    const [x, y] = [shift.right * cell, shift.down * cell];
    context.drawImage(picture(original.pixels), x, y, canvas.width, canvas.width);
    drawHidden(context, isOutside);
    drawPainted(context, (i) => marked()[i] && !isOutside(i));
  } else {
    drawHidden(context, () => true);
  }
  drawGrid(context);
  if (document.activeElement === canvas && tool !== "move") {
    context.lineWidth = 3;
    context.strokeStyle = "#fff";
    context.strokeRect((focus % grid) * cell + 2, Math.floor(focus / grid) * cell + 2, cell - 4, cell - 4);
    context.lineWidth = 1;
    context.strokeStyle = "#000";
    context.strokeRect((focus % grid) * cell + 4, Math.floor(focus / grid) * cell + 4, cell - 8, cell - 8);
  }
  const anew = cells.filter((is, i) => is || isOutside(i)).length;
  id("canvas-state").textContent = original
    ? `${original.name}: ${anew} of ${cells.length} cells are made anew.`
    : "Take an original: a generated image, one of the validation split, or a file.";
  id("edit-go").disabled = !original || !anew;
  id("undo").disabled = !past.length;
  id("clear").disabled = id("invert").disabled = !original;
}

/** The cells, with the rectangle that is being drawn. */
function marked() {
  if (drag?.tool !== "rectangle") return cells;
  return cells.map((is, i) => is || isInside(i, drag.from, drag.to));
}

function isInside(i, from, to) {
  const { grid } = store.model;
  const between = (at, a, b) => at >= Math.min(a, b) && at <= Math.max(a, b);
  return between(i % grid, from % grid, to % grid) &&
    between(Math.floor(i / grid), Math.floor(from / grid), Math.floor(to / grid));
}

function cellAt(event) {
  const { grid } = store.model;
  const place = canvas.getBoundingClientRect();
  const along = (at, size) => Math.min(grid - 1, Math.max(0, Math.floor((at / size) * grid)));
  return along(event.clientY - place.top, place.height) * grid + along(event.clientX - place.left, place.width);
}

function limited(cellsMoved) {
  const most = store.model.grid - 1;
  return Math.min(most, Math.max(-most, cellsMoved));
}

canvas.addEventListener("pointerdown", (event) => {
  if (!original || event.button) return;
  canvas.setPointerCapture(event.pointerId);
  remember();
  const at = cellAt(event);
  drag = { tool, from: at, to: at, x: event.clientX, y: event.clientY, shift: { ...shift } };
  move(event);
});

function move(event) {
  if (!drag) return;
  const at = cellAt(event);
  const { grid } = store.model;
  if (drag.tool === "move") {
    const cell = canvas.clientWidth / grid;
    shift.right = limited(drag.shift.right + Math.round((event.clientX - drag.x) / cell));
    shift.down = limited(drag.shift.down + Math.round((event.clientY - drag.y) / cell));
  } else if (drag.tool !== "rectangle") {
    // A fast pointer jumps over cells: mark those between, too.
    const [x0, y0, x1, y1] = [drag.to % grid, Math.floor(drag.to / grid), at % grid, Math.floor(at / grid)];
    const count = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1);
    for (let i = 0; i <= count; i++) {
      const column = Math.round(x0 + ((x1 - x0) * i) / count);
      const row = Math.round(y0 + ((y1 - y0) * i) / count);
      cells[row * grid + column] = drag.tool === "brush";
    }
  }
  drag.to = at;
  draw();
}

function release() {
  if (!drag) return;
  cells = [...marked()];
  drag = null;
  draw();
}

canvas.addEventListener("pointermove", move);
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", draw);

canvas.addEventListener("keydown", (event) => {
  const { grid } = store.model;
  const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (!original) return;
  else if (event.key === " " && tool !== "move") {
    remember();
    cells[focus] = tool !== "eraser" && !cells[focus];
  } else if (tool === "move" && (right || down)) {
    remember();
    shift = { right: limited(shift.right + right), down: limited(shift.down + down) };
  } else if (right || down) {
    const column = Math.min(grid - 1, Math.max(0, (focus % grid) + right));
    const row = Math.min(grid - 1, Math.max(0, Math.floor(focus / grid) + down));
    focus = row * grid + column;
  } else return;
  event.preventDefault();
  draw();
});

function undo() {
  const before = past.pop();
  if (before) ({ cells, shift } = before);
  draw();
}

id("undo").addEventListener("click", undo);
id("invert").addEventListener("click", () => {
  remember();
  cells = cells.map((is) => !is);
  draw();
});
id("clear").addEventListener("click", () => {
  remember();
  cells = cells.map(() => false);
  shift = { right: 0, down: 0 };
  draw();
});

/** Take a finished image as the original. */
function takeChosen(chosen) {
  const file = chosen?.group.files[chosen.index];
  if (!file) return tell("Choose a finished image first, under Generate or below.");
  const { size, channels } = store.model;
  const length = size * size * channels;
  const { group, index } = chosen;
  const pixels = group.steps.at(-1).pixels.slice(index * length, (index + 1) * length);
  const label = group.start.labels[index];
  begin({ pixels, file, label, name: `${className(label)} · ${group.start.first_image + index}` });
}

async function takeFile(file) {
  if (!file) return;
  const most = store.page.most_upload;
  if (file.size > most) return tell(`The file has more than ${most >> 20} MB.`);
  await attempt(async () => {
    const got = await upload(`api/models/${store.model.id}/upload`, file);
    const { size } = store.model;
    const was = got.was.join(" × ");
    begin(received(got, `Your file, ${was} pixels, brought to ${size} × ${size}`));
  });
}

function received(got, name) {
  const file = new Blob([fromBase64(got.file)], { type: "image/png" });
  return { pixels: fromBase64(got.pixels), file, name, label: got.label ?? null };
}

id("take-generated").addEventListener("click", () => attempt(() => takeChosen(store.chosen)));
id("take-validation").addEventListener("click", () =>
  attempt(async () => {
    const index = Number(id("validation-index").value);
    const got = await getJson(`api/models/${store.model.id}/validation/${index}`);
    id("validation-index").max = got.count - 1;
    begin({ ...received(got, `Validation image ${index}`), validation: index });
  }));
id("file").addEventListener("change", (event) => {
  takeFile(event.target.files[0]);
  event.target.value = ""; // the same file may be opened again
});
for (const name of ["dragenter", "dragover"]) {
  id("edit").addEventListener(name, (event) => {
    event.preventDefault();
    easel.classList.add("dropping");
  });
}
for (const name of ["dragleave", "drop"]) {
  id("edit").addEventListener(name, () => easel.classList.remove("dropping"));
}
id("edit").addEventListener("drop", (event) => {
  event.preventDefault();
  takeFile(event.dataTransfer.files[0]);
});

id("edit-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const label = Number(id("edit-class").value);
  const seed = Number(id("edit-seed").value);
  const source = "validation" in original
    ? { validation: original.validation }
    : { pixels: toBase64(original.pixels) };
  const { grow, keep_decoded: keepDecoded } = store.editing;
  const edit = {
    ...source,
    ...shift,
    grow,
    put_back: !keepDecoded,
    cells: cells.flatMap((is, i) => (is ? [i] : [])),
  };
  const request = {
    edit,
    seed,
    labels: [label],
    count: Number(id("edit-count").value),
    first_image: 0,
    sampling: { ...store.sampling },
  };
  const title = `${className(label)}, seed ${seed}, in ${original.name}`;
  make(title, request, id("variants"), original.file);
});

radios(id("tools"), "tool", (value) => {
  tool = value;
  canvas.classList.toggle("moving", value === "move");
  if (store.model) draw();
});
on("model", () => {
  classSelect(id("edit-class"), 0);
  focus = 0;
  begin(null);
});
on("edit", takeChosen);
on("theme", () => store.model && draw());
