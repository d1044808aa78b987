// The easel: the image to edit, and the cells of it that are regenerated.
// codes.js, review.js and crop.js show something else on it.

import { toBase64 } from "./api.js";
import { easelOf, keepEasel } from "./archive.js";
import {
  ARROWS, cellAt, drawFrames, drawGrid, drawHidden, drawPainted, hasCells, placeOf, prepare, rowsAndColumns, tokenCount,
} from "./draw.js";
import { radios } from "./form.js";
import { goTo } from "./groups.js";
import { emit, id, on, store } from "./store.js";

const canvas = id("canvas");
const frame = id("frame");
const SIDE = 512; // pixels of the canvas, about
const STILL = { right: 0, down: 0 };
const MOST_ZOOM = 4;
const MOST_UNDO = 100;

export const easel = {
  original: null, // { file, name, label, validation, photo: key of the file it was cut from, part }
  picture: null, // of it
  cells: [], // true where a cell is regenerated
  shift: STILL, // of the image, in cells
  past: [], // earlier originals, cells and shifts
  reviewed: null, // key of the group of variants that is looked through
};
let over = null; // what is shown in place of the original: { draw, state, press, move, release, key, isWhole }
let tool = "brush";
let zoom = 1;
let drag = null; // what the pointer began
let hover = null; // the cell under the pointer
let focus = 0; // the cell that the keyboard is at
let aside = null; // the user's easel during the tour

/** Put an image on the easel; `next` has all of `original`. Undo brings back what was there. */
export async function begin(next) {
  const past = easel.original ? [...easel.past, now()].slice(-MOST_UNDO) : [];
  await show({ original: next, cells: Array(tokenCount()).fill(false), shift: STILL, past });
  keep();
  if (!next) return;
  location.hash = "edit";
  // After the view has changed.
  requestAnimationFrame(() => setTimeout(goTo, 0, id("easel")));
}

async function show({ original, cells, shift, past, reviewed = null }) {
  const isSame = original === easel.original, { model } = store;
  const picture = original && (isSame ? easel.picture : await createImageBitmap(original.file));
  if (store.model !== model) return; // chosen meanwhile
  const { classes, has_null: hasNull } = model;
  const unlabeled = hasNull ? classes.length : classes.length > 1 ? -1 : 0; // none is chosen
  if (!isSame) id("edit-class").selectedIndex = original?.label ?? unlabeled;
  Object.assign(easel, { original, picture, cells, shift, past, reviewed });
  lay(null);
  emit("easel");
}

/** Keep the easel for the next visit. */
export function keep() {
  const { picture, ...kept } = easel;
  if (kept.original && !store.touring) keepEasel(store.model.id, { ...kept, shape: shapeOfModel() });
}

/** What an image must have so that this model can edit it. */
function shapeOfModel() {
  return JSON.stringify([store.model.size, store.model.grid, store.model.channels]);
}

/** Show the easel of an earlier visit. */
export async function restore() {
  const model = store.model.id;
  const kept = await easelOf(model);
  if (store.model.id === model && kept?.shape === shapeOfModel() && !store.touring) await show(kept);
}

/** Take everything off the easel; `bringBack` puts it there again. */
export function clearAway() {
  aside = { ...easel, label: id("edit-class").selectedIndex };
  return show({ original: null, cells: [], shift: STILL, past: [] });
}

export async function bringBack() {
  await show(aside);
  id("edit-class").selectedIndex = aside.label;
}

/** What the server is asked for to find an original. */
export async function sourceOf({ validation, file }) {
  return validation === undefined ? { file: toBase64(new Uint8Array(await file.arrayBuffer())) } : { validation };
}

/** Show something in place of the original, or the original again with null. */
export function lay(what) {
  over = what;
  drag = null;
  draw();
  emit("laid");
}

/** Whether the pointer is at it. */
export const isPainting = () => drag !== null;

export const isLaid = (what) => over === what;

function now() {
  const { original, cells, shift, reviewed } = easel;
  return { original, cells: [...cells], shift, reviewed };
}

function remember() {
  easel.past = [...easel.past, now()].slice(-MOST_UNDO);
}

/** Whether a cell lies outside the shifted image. */
function isOutside(i) {
  const [rows, columns] = rowsAndColumns();
  const [row, column] = placeOf(i);
  const [across, down] = [column - easel.shift.right, row - easel.shift.down];
  return across !== within(across, columns) || down !== within(down, rows);
}

function within(at, count) {
  return Math.min(count - 1, Math.max(0, at));
}

export function draw() {
  if (!store.model) return;
  const { original, cells, shift, past } = easel;
  const context = prepare(canvas, SIDE * zoom);
  if (over) {
    over.draw(context);
  } else if (original) {
    drawOriginal(context);
    const shown = marked();
    drawPainted(context, (i) => shown[i] && !isOutside(i));
  } else {
    drawHidden(context, () => true);
  }
  if (!over?.isWhole) drawGrid(context);
  const at = document.activeElement === canvas ? focus : hover;
  if (at !== null && tool !== "move" && !over?.isWhole) {
    const isUnder = over ? (i) => i === at : (i) => isBrushed(i, at);
    drawFrames(context, isUnder, "#000", 1 / 16);
    drawFrames(context, isUnder, "#fff", 1 / 32);
  }
  const count = cells.filter((is, i) => is || isOutside(i)).length;
  id("canvas-state").textContent = over
    ? over.state()
    : original
      ? `${original.name}: ${count} of ${cells.length} cells will be regenerated.`
      : hasCells()
        ? "Take an original: a generated image, one of the validation split, or a file."
        : "This model's tokens are of the whole image, so it cannot keep a part of one.";
  id("edit-go").disabled = !original || !count || !hasCells();
  id("undo").disabled = !past.length;
  id("clear").disabled = id("invert").disabled = !original;
}

/** Draw the original where it is shifted to. */
export function drawOriginal(context) {
  const [rows, columns] = rowsAndColumns();
  const [x, y] = [(easel.shift.right * canvas.width) / columns, (easel.shift.down * canvas.height) / rows];
  context.drawImage(easel.picture, x, y, canvas.width, canvas.height);
  drawHidden(context, isOutside);
}

/** The cells, with the rectangle that is being drawn. */
function marked() {
  if (drag?.tool !== "rectangle") return easel.cells;
  return easel.cells.map((is, i) => is || isInside(i, drag.from, drag.to));
}

function isInside(i, from, to) {
  const [ends, other] = [placeOf(from), placeOf(to)];
  return placeOf(i).every((at, axis) =>
    at >= Math.min(ends[axis], other[axis]) && at <= Math.max(ends[axis], other[axis]));
}

/** Whether the brush covers a cell when it is at another one; a large brush is round. */
function isBrushed(i, at) {
  const size = tool === "rectangle" ? 1 : Number(id("brush-size").value);
  const [[row, column], [y, x]] = [placeOf(i), placeOf(at)];
  return Math.hypot(row - y, column - x) <= size / 2;
}

function paint(at, is) {
  easel.cells.forEach((_, i) => isBrushed(i, at) && (easel.cells[i] = is));
}

/** A shift that leaves some of the image inside. */
function limited(right, down) {
  const [rows, columns] = rowsAndColumns();
  const limit = (moved, count) => Math.min(count - 1, Math.max(1 - count, moved));
  return { right: limit(right, columns), down: limit(down, rows) };
}

canvas.addEventListener("pointerdown", (event) => {
  if (!easel.original || event.button || !event.isPrimary) return;
  canvas.setPointerCapture(event.pointerId);
  const at = cellAt(event);
  focus = at;
  if (over) {
    over.press(at, event);
    return draw();
  }
  remember();
  drag = { tool, from: at, to: at, x: event.clientX, y: event.clientY, shift: easel.shift };
  move(event);
});

function move(event) {
  const at = (hover = cellAt(event));
  over?.move?.(event);
  if (!drag) return draw();
  const [rows, columns] = rowsAndColumns();
  if (drag.tool === "move") {
    const right = Math.round(((event.clientX - drag.x) / canvas.clientWidth) * columns);
    const down = Math.round(((event.clientY - drag.y) / canvas.clientHeight) * rows);
    easel.shift = limited(drag.shift.right + right, drag.shift.down + down);
  } else if (drag.tool !== "rectangle") {
    // A fast pointer jumps over cells: mark those between, too.
    const [[y0, x0], [y1, x1]] = [placeOf(drag.to), placeOf(at)];
    const count = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1);
    for (let i = 0; i <= count; i++) {
      const column = Math.round(x0 + ((x1 - x0) * i) / count);
      const row = Math.round(y0 + ((y1 - y0) * i) / count);
      paint(row * columns + column, drag.tool === "brush");
    }
  }
  drag.to = at;
  draw();
}

function release() {
  over?.release?.();
  if (over) return draw();
  if (!drag) return;
  easel.cells = [...marked()];
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
canvas.addEventListener("pointercancel", () => {
  // Two fingers zoom the page: what the first of them painted was not meant.
  if (drag) undo();
  release();
});
canvas.addEventListener("pointerleave", () => {
  hover = null;
  draw();
});
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", () => {
  over?.release?.();
  draw();
});

canvas.addEventListener("keydown", (event) => {
  const [rows, columns] = rowsAndColumns();
  const [right, down] = ARROWS[event.key] ?? [0, 0];
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (!easel.original) return;
  else if (over?.key?.(event)) draw();
  else if (event.key === " " && tool !== "move" && !over) {
    remember();
    paint(focus, tool !== "eraser" && !easel.cells[focus]);
    changed();
  } else if (tool === "move" && (right || down)) {
    remember();
    easel.shift = limited(easel.shift.right + right, easel.shift.down + down);
    changed();
  } else if (right || down) {
    const [row, column] = placeOf(focus);
    focus = within(row + down, rows) * columns + within(column + right, columns);
    if (over) over.press(focus);
    draw();
    scrollToFocus();
  } else return;
  event.preventDefault();
});
canvas.addEventListener("keyup", () => {
  over?.release?.();
  if (over) draw();
});

async function undo() {
  drag = null;
  const before = easel.past.pop();
  if (before) await show({ ...before, past: easel.past });
  changed();
}

id("undo").addEventListener("click", undo);

function change(next) {
  remember();
  Object.assign(easel, next);
  lay(null);
  keep();
}

id("invert").addEventListener("click", () => change({ cells: easel.cells.map((is) => !is) }));
id("clear").addEventListener("click", () => change({ cells: easel.cells.map(() => false), shift: STILL }));
id("brush-size").addEventListener("input", draw);

/** Bring the cell that was touched last to the middle of the frame. */
function scrollToFocus() {
  const [rows, columns] = rowsAndColumns();
  const [row, column] = placeOf(focus);
  const to = (at, count, length, shown) => ((at + 0.5) / count) * length - shown / 2;
  frame.scrollTo(to(column, columns, canvas.clientWidth, frame.clientWidth),
    to(row, rows, canvas.clientHeight, frame.clientHeight));
}

function zoomTo(wanted) {
  zoom = wanted;
  canvas.style.setProperty("--zoom", zoom);
  scrollToFocus();
  id("zoom-in").disabled = zoom === MOST_ZOOM;
  id("zoom-out").disabled = zoom === 1;
}

id("zoom-in").addEventListener("click", () => zoomTo(Math.min(MOST_ZOOM, zoom * 2)));
id("zoom-out").addEventListener("click", () => zoomTo(Math.max(1, zoom / 2)));

radios(id("tools"), "tool", (value) => {
  tool = value;
  canvas.classList.toggle("moving", value === "move");
  lay(null);
  emit("tool");
});
on("model", () => {
  [focus, hover] = [0, null];
  const [rows, columns] = rowsAndColumns();
  id("brush-size").max = Math.max(1, Math.min(rows, columns) - 1);
  Object.assign(easel, { original: null, past: [] });
  begin(null);
});
on("theme", draw);
new ResizeObserver(draw).observe(canvas); // lines fit its size
