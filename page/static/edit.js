// The view "Edit": an original, the cells of it to regenerate, and variants.

import { attempt, fromBase64, getJson, ofModel, tell, toBase64, upload } from "./api.js";
import { easelOf, keepEasel } from "./archive.js";
import { drawGrid, drawHidden, drawPainted, hasCells, prepare, rowsAndColumns, tokenCount } from "./draw.js";
import { classSelect, radios } from "./form.js";
import { imageNumber, make } from "./groups.js";
import { className, emit, id, on, store } from "./store.js";

const canvas = id("canvas");
const easel = id("easel");
const SIDE = 512; // pixels of the canvas, about
const MOST_UNDO = 100;

let original = null; // { file, picture, name, label, validation }
let cells = []; // true where a cell is regenerated
let shift = { right: 0, down: 0 }; // of the image, in cells
let past = []; // earlier cells and shifts
let tool = "brush";
let drag = null; // what the pointer began
let focus = 0; // the cell that the keyboard is at

/** Put an image on the easel; `next` has all of `original` but its picture. */
async function begin(next) {
  await show({ original: next, cells: Array(tokenCount()).fill(false), shift: { right: 0, down: 0 }, past: [] });
  keep();
}

async function show(easel) {
  const { original: next } = easel;
  original = next && { ...next, picture: await createImageBitmap(next.file) };
  ({ cells, shift, past } = easel);
  id("edit-class").selectedIndex = next?.label ?? id("edit-class").options.length - 1;
  draw();
}

/** Keep the easel for the next visit. */
function keep() {
  if (!original) return;
  const { picture, ...kept } = original;
  keepEasel(store.model.id, { original: kept, cells, shift, past, shape: shapeOfModel() });
}

/** What an image must have so that this model can edit it. */
function shapeOfModel() {
  return JSON.stringify([store.model.size, store.model.grid, store.model.channels]);
}

/** Show the easel of an earlier visit. */
async function restore() {
  const model = store.model.id;
  const kept = await easelOf(model);
  if (store.model.id !== model || kept?.shape !== shapeOfModel()) return;
  await show(kept);
}

function remember() {
  past.push({ cells: [...cells], shift: { ...shift } });
  if (past.length > MOST_UNDO) past.shift();
}

/** Whether a cell lies outside the shifted image. */
function isOutside(i) {
  const [rows, columns] = rowsAndColumns();
  const [row, column] = placeOf(i);
  return !isWithin(column - shift.right, columns) || !isWithin(row - shift.down, rows);
}

/** Row and column of a cell. */
function placeOf(i) {
  const [, columns] = rowsAndColumns();
  return [Math.floor(i / columns), i % columns];
}

function isWithin(at, count) {
  return at >= 0 && at < count;
}

function within(at, count) {
  return Math.min(count - 1, Math.max(0, at));
}

function draw() {
  const context = prepare(canvas, SIDE);
  const [rows, columns] = rowsAndColumns();
  const [across, down] = [canvas.width / columns, canvas.height / rows];
  if (original) {
    const [x, y] = [shift.right * across, shift.down * down];
    context.drawImage(original.picture, x, y, canvas.width, canvas.height);
    drawHidden(context, isOutside);
    drawPainted(context, (i) => marked()[i] && !isOutside(i));
  } else {
    drawHidden(context, () => true);
  }
  drawGrid(context);
  if (document.activeElement === canvas && tool !== "move") {
    const [row, column] = placeOf(focus);
    for (const [width, color, inset] of [[3, "#fff", 2], [1, "#000", 4]]) {
      context.lineWidth = width;
      context.strokeStyle = color;
      const [x, y] = [column * across + inset, row * down + inset];
      context.strokeRect(x, y, across - 2 * inset, down - 2 * inset);
    }
  }
  const count = cells.filter((is, i) => is || isOutside(i)).length;
  id("canvas-state").textContent = original
    ? `${original.name}: ${count} of ${cells.length} cells will be regenerated.`
    : hasCells()
      ? "Take an original: a generated image, one of the validation split, or a file."
      : "This model's tokens are of the whole image, so it cannot keep a part of one.";
  id("edit-go").disabled = !original || !count || !hasCells();
  id("undo").disabled = !past.length;
  id("clear").disabled = id("invert").disabled = !original;
}

/** The cells, with the rectangle that is being drawn. */
function marked() {
  if (drag?.tool !== "rectangle") return cells;
  return cells.map((is, i) => is || isInside(i, drag.from, drag.to));
}

function isInside(i, from, to) {
  const [ends, other] = [placeOf(from), placeOf(to)];
  return placeOf(i).every((at, axis) =>
    at >= Math.min(ends[axis], other[axis]) && at <= Math.max(ends[axis], other[axis]));
}

function cellAt(event) {
  const [rows, columns] = rowsAndColumns();
  const place = canvas.getBoundingClientRect();
  const along = (at, size, count) => within(Math.floor((at / size) * count), count);
  const row = along(event.clientY - place.top, place.height, rows);
  return row * columns + along(event.clientX - place.left, place.width, columns);
}

/** A shift that leaves some of the image inside. */
function limited(right, down) {
  const [rows, columns] = rowsAndColumns();
  const limit = (moved, count) => Math.min(count - 1, Math.max(1 - count, moved));
  return { right: limit(right, columns), down: limit(down, rows) };
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
  const [rows, columns] = rowsAndColumns();
  if (drag.tool === "move") {
    const right = Math.round(((event.clientX - drag.x) / canvas.clientWidth) * columns);
    const down = Math.round(((event.clientY - drag.y) / canvas.clientHeight) * rows);
    shift = limited(drag.shift.right + right, drag.shift.down + down);
  } else if (drag.tool !== "rectangle") {
    // A fast pointer jumps over cells: mark those between, too.
    const [[y0, x0], [y1, x1]] = [placeOf(drag.to), placeOf(at)];
    const count = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1);
    for (let i = 0; i <= count; i++) {
      const column = Math.round(x0 + ((x1 - x0) * i) / count);
      const row = Math.round(y0 + ((y1 - y0) * i) / count);
      cells[row * columns + column] = drag.tool === "brush";
    }
  }
  drag.to = at;
  draw();
}

function release() {
  if (!drag) return;
  cells = [...marked()];
  drag = null;
  changed();
}

/** Show and keep what the user has just changed. */
function changed() {
  draw();
  keep();
}

canvas.addEventListener("pointermove", move);
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", draw);

canvas.addEventListener("keydown", (event) => {
  const [rows, columns] = rowsAndColumns();
  const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (!original) return;
  else if (event.key === " " && tool !== "move") {
    remember();
    cells[focus] = tool !== "eraser" && !cells[focus];
  } else if (tool === "move" && (right || down)) {
    remember();
    shift = limited(shift.right + right, shift.down + down);
  } else if (right || down) {
    const [row, column] = placeOf(focus);
    focus = within(row + down, rows) * columns + within(column + right, columns);
  } else return;
  event.preventDefault();
  changed();
});

function undo() {
  const before = past.pop();
  if (before) ({ cells, shift } = before);
  changed();
}

id("undo").addEventListener("click", undo);
id("invert").addEventListener("click", () => {
  remember();
  cells = cells.map((is) => !is);
  changed();
});
id("clear").addEventListener("click", () => {
  remember();
  cells = cells.map(() => false);
  shift = { right: 0, down: 0 };
  changed();
});

/** Take a finished image as the original. */
function takeChosen(chosen) {
  const file = chosen?.group.files[chosen.index];
  if (!file) return tell("Choose a finished image first, under Generate or below.");
  const { group, index } = chosen;
  const label = group.start.labels[index];
  return begin({ file, label, name: `${className(label, group.model)} · ${imageNumber(group, index)}` });
}

async function takeFile(file) {
  if (!file) return;
  const most = store.page.most_upload;
  if (file.size > most) return tell(`The file has more than ${most >> 20} MB.`);
  await attempt(async () => {
    const got = await upload(ofModel("upload"), file);
    const [height, width] = store.model.size;
    const was = got.was.join(" × ");
    await begin(received(got, `Your file, ${was} pixels, brought to ${width} × ${height}`));
  });
}

function received(got, name) {
  const file = new Blob([fromBase64(got.file)], { type: "image/png" });
  return { file, name, label: got.label ?? null };
}

id("take-generated").addEventListener("click", () => attempt(() => takeChosen(store.chosen)));
id("take-validation").addEventListener("click", () =>
  attempt(async () => {
    if (!id("validation-index").reportValidity()) return;
    const index = Number(id("validation-index").value);
    const got = await getJson(ofModel(`validation/${index}`));
    id("validation-index").max = got.count - 1;
    await begin({ ...received(got, `Validation image ${index}`), validation: index });
  }));
id("file").addEventListener("change", (event) => {
  takeFile(event.target.files[0]);
  event.target.value = ""; // the same file may be opened again
});
// A file may be dropped anywhere: the browser would leave the page to show it.
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    easel.classList.add("dropping");
  });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, () => easel.classList.remove("dropping"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (!file || !store.model) return;
  emit("dropped", file, () => {
    location.hash = "edit";
    takeFile(file);
  });
});

id("edit-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const label = Number(id("edit-class").value);
  const seed = id("edit-seed").value;
  const source = "validation" in original
    ? { validation: original.validation }
    : { file: toBase64(new Uint8Array(await original.file.arrayBuffer())) };
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
  make(title, request, "variants", original.file);
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
  attempt(restore);
});
on("edit", takeChosen);
on("theme", () => store.model && draw());
