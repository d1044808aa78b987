// Draws images with their hidden cells, what the model imagines, maps and the image to edit.

import { element, store } from "./store.js";

const STOPS = [[30, 34, 71], [43, 75, 143], [47, 143, 157], [143, 201, 122], [246, 229, 141]];

export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The color of a share from 0 to 1, from dark blue to yellow. */
export function heat(share) {
  const place = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  const mix = STOPS[low].map((from, i) => Math.round(from + (STOPS[low + 1][i] - from) * (place - low)));
  return `rgb(${mix.join(" ")})`;
}

/** Place a probability between mere chance, 0, and certainty, 1, by its logarithm. */
function sureness(probability, { codes }) {
  return 1 + Math.log(Math.max(probability, 1e-9)) / Math.log(codes);
}

/** Prepare a canvas, a multiple of the image whose longer side is about `wanted`; returns its context. */
export function prepare(canvas, wanted, model = store.model) {
  const { size: [height, width] } = model;
  const times = Math.max(1, Math.round(wanted / Math.max(height, width)));
  if (canvas.width !== width * times) canvas.width = width * times;
  if (canvas.height !== height * times) canvas.height = height * times;
  canvas.style.aspectRatio = `${width} / ${height}`;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, canvas.width, canvas.height);
  return context;
}

/** Rows and columns of tokens; tokens that are not of cells stand in one row. */
export function rowsAndColumns({ grid } = store.model) {
  return grid.length === 2 ? grid : [1, grid[0]];
}

/** Cells to the right and down, by the key that goes there. */
export const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Row and column of a cell. */
export function placeOf(i, model = store.model) {
  const [, columns] = rowsAndColumns(model);
  return [Math.floor(i / columns), i % columns];
}

/** The cell of a canvas under the pointer, or the nearest one. */
export function cellAt({ offsetX, offsetY, target }, model = store.model) {
  const [rows, columns] = rowsAndColumns(model);
  const along = (at, size, count) => Math.min(count - 1, Math.max(0, Math.floor((at / size) * count)));
  return along(offsetY, target.clientHeight, rows) * columns + along(offsetX, target.clientWidth, columns);
}

/** The number of tokens of an image. */
export function tokenCount({ grid } = store.model) {
  return grid.reduce((product, side) => product * side);
}

/** Whether tokens are of cells of the image, so that it can be edited. */
export function hasCells({ grid } = store.model) {
  return grid.length === 2;
}

function eachCell({ width, height }, draw, model = store.model) {
  const [rows, columns] = rowsAndColumns(model);
  const [across, down] = [width / columns, height / rows];
  for (let i = 0; i < rows * columns; i++) {
    draw(i, (i % columns) * across, Math.floor(i / columns) * down, across, down);
  }
}

/** Cover the cells that `isHidden` names with plain rectangles. */
export function drawHidden(context, isHidden, model = store.model) {
  const [fill, line] = [color("--hidden"), color("--hidden-line")];
  eachCell(context.canvas, (i, x, y, across, down) => {
    if (!isHidden(i)) return;
    context.fillStyle = line;
    context.fillRect(x, y, across, down);
    context.fillStyle = fill;
    const edge = Math.max(1, Math.min(across, down) / 24);
    context.fillRect(x + edge / 2, y + edge / 2, across - edge, down - edge);
  }, model);
}

/** Draw lines between those neighbors for which `isLine` holds. */
function drawLines(context, style, width, isLine, model = store.model) {
  const [, columns] = rowsAndColumns(model);
  const before = (at) => Math.round(at) - (width >> 1);
  context.fillStyle = style;
  eachCell(context.canvas, (i, x, y, across, down) => {
    if (i % columns && isLine(i, i - 1)) context.fillRect(before(x), y, width, down);
    if (i >= columns && isLine(i, i - columns)) context.fillRect(x, before(y), across, width);
  }, model);
}

/** Draw the lines between cells, thick enough to be seen on a smaller canvas. */
export function drawGrid(context) {
  const { width, clientWidth } = context.canvas;
  drawLines(context, "rgb(128 128 128 / 45%)", Math.round(width / clientWidth) || 1, () => true);
}

/** Draw a frame inside each cell that `isIn` names; its width is a share of the cell. */
export function drawFrames(context, isIn, style, share, model = store.model) {
  context.strokeStyle = style;
  eachCell(context.canvas, (i, x, y, across, down) => {
    const width = (context.lineWidth = across * share);
    if (isIn(i)) context.strokeRect(x + width / 2, y + width / 2, across - width, down - width);
  }, model);
}

/**
 * Draw an image of a group at a step: the "image" with its hidden cells covered; the whole image
 * that the model imagines, as it would be "imagined" now or of its "surest" tokens; its
 * "confidence"; or the "order" in which the cells became known.
 */
export function drawStep(canvas, group, index, number, shown = "image", wanted = 128) {
  const { model } = group;
  const context = prepare(canvas, wanted, model);
  const step = group.steps[number];
  const cells = index * tokenCount(model);
  const isHidden = (i) => !step || step.hidden[cells + i] !== 0;
  const isMap = shown === "confidence" || shown === "order";
  if (!step || (!isMap && !step.imagined && !step.finished.length)) return drawHidden(context, () => true, model);
  if (isMap) {
    drawHidden(context, () => true, model);
    return drawMap(context, group, step, cells, shown);
  }
  const { size: [height, width] } = model;
  const whole = step.finished[index];
  const picture = whole ?? ((shown === "surest" && step.surest) || step.imagined);
  // The sheet of an earlier step has rows of at most eight images.
  const columns = Math.min(8, group.start.labels.length);
  const [left, top] = whole ? [0, 0] : [(index % columns) * width, Math.floor(index / columns) * height];
  context.drawImage(picture, left, top, width, height, 0, 0, canvas.width, canvas.height);
  if (!hasCells(model)) return;
  if (shown === "image") drawHidden(context, isHidden, model);
  else drawLines(context, color("--accent"), 2, (i, j) => isHidden(i) !== isHidden(j), model);
}

/** Draw a cell of a picture in the middle of so many; returns the context. */
export function drawPatch(canvas, side, picture, cell, cells = 1, model = store.model) {
  const [[rows, columns], [row, column]] = [rowsAndColumns(model), placeOf(cell, model)];
  const [across, down] = [picture.width / columns, picture.height / rows];
  const [left, top] = [column, row].map((at) => at - (cells - 1) / 2);
  const context = Object.assign(canvas, { width: side, height: side }).getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, left * across, top * down, cells * across, cells * down, 0, 0, side, side);
  return context;
}

/** Make a figure of a picture. */
export function figure(src, alt, words) {
  return element("figure", {}, element("img", { src, alt }), element("figcaption", {}, words));
}

/** Draw how much the colors of two drawings differ, on black. */
export function drawDifference(canvas, one, other) {
  [canvas.width, canvas.height] = [one.width, one.height];
  const context = canvas.getContext("2d");
  context.drawImage(one, 0, 0);
  context.globalCompositeOperation = "difference";
  context.drawImage(other, 0, 0, one.width, one.height);
}

/** Draw a color for each cell; a hidden cell shows a smaller one, of the token that it would take. */
function drawMap(context, group, step, cells, shown) {
  const { model } = group;
  eachCell(context.canvas, (i, x, y, across, down) => {
    const isHidden = step.hidden[cells + i] !== 0;
    if (shown === "order" && isHidden) return;
    context.fillStyle = heat(shown === "order"
      ? revealedAt(group, cells + i) / group.start.counts.length
      : sureness(step.confidence[cells + i], model));
    const inset = isHidden ? Math.min(across, down) / 4 : 0;
    context.fillRect(x + inset, y + inset, across - 2 * inset, down - 2 * inset);
  }, model);
}

/** The number of the step that revealed a cell; the first step's for what was known before. */
export function revealedAt(group, cell) {
  return group.first + group.steps.findIndex((step) => !step.hidden[cell]);
}

/** Mark the painted cells. */
export function drawPainted(context, isPainted) {
  const accent = color("--accent");
  eachCell(context.canvas, (i, x, y, across, down) => {
    if (!isPainted(i)) return;
    context.globalAlpha = 0.6;
    context.fillStyle = accent;
    context.fillRect(x, y, across, down);
    context.globalAlpha = 1;
    context.strokeStyle = accent;
    context.lineWidth = 2;
    context.strokeRect(x + 1, y + 1, across - 2, down - 2);
  });
}
