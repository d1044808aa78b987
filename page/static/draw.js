// Draws images with their hidden cells, confidence maps and the image to edit.

import { store } from "./store.js";

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
function sureness(probability) {
  return 1 + Math.log(Math.max(probability, 1e-9)) / Math.log(store.model.codes);
}

/** Turn bytes (H, W, C) into something a canvas can draw. */
export function picture(bytes) {
  const { size: [height, width], channels } = store.model;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = bytes[channels * i + (channels === 1 ? 0 : c)];
    image.data[4 * i + 3] = 255;
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** Prepare a canvas, a multiple of the image whose longer side is about `wanted`; returns its context. */
export function prepare(canvas, wanted) {
  const { size: [height, width] } = store.model;
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
export function rowsAndColumns() {
  const { grid } = store.model;
  return grid.length === 2 ? grid : [1, grid[0]];
}

/** The number of tokens of an image. */
export function tokenCount() {
  return store.model.grid.reduce((product, side) => product * side);
}

/** Whether tokens are of cells of the image, so that it can be edited. */
export function hasCells() {
  return store.model.grid.length === 2;
}

function eachCell({ width, height }, draw) {
  const [rows, columns] = rowsAndColumns();
  const [across, down] = [width / columns, height / rows];
  for (let i = 0; i < rows * columns; i++) {
    draw(i, (i % columns) * across, Math.floor(i / columns) * down, across, down);
  }
}

/** Cover the cells that `isHidden` names with plain rectangles. */
export function drawHidden(context, isHidden) {
  const [fill, line] = [color("--hidden"), color("--hidden-line")];
  eachCell(context.canvas, (i, x, y, across, down) => {
    if (!isHidden(i)) return;
    context.fillStyle = line;
    context.fillRect(x, y, across, down);
    context.fillStyle = fill;
    const edge = Math.max(1, Math.min(across, down) / 24);
    context.fillRect(x + edge / 2, y + edge / 2, across - edge, down - edge);
  });
}

/** Draw an image of a group at a step, or its confidence map. */
export function drawStep(canvas, group, index, number, shown = "image", wanted = 128) {
  const context = prepare(canvas, wanted);
  const step = group.steps[number];
  const { size: [height, width], channels } = store.model;
  const cells = index * tokenCount();
  if (!step) return drawHidden(context, () => true);
  if (shown === "image") {
    const start = index * height * width * channels;
    context.drawImage(picture(step.pixels.subarray(start)), 0, 0, canvas.width, canvas.height);
    return drawHidden(context, (i) => hasCells() && step.hidden[cells + i]);
  }
  drawHidden(context, () => true);
  eachCell(canvas, (i, x, y, across, down) => {
    context.fillStyle = heat(sureness(step.confidence[cells + i]));
    // A hidden cell shows what it would be as a smaller one.
    const inset = step.hidden[cells + i] ? Math.min(across, down) / 4 : 0;
    context.fillRect(x + inset, y + inset, across - 2 * inset, down - 2 * inset);
  });
}

/** Draw the lines between cells. */
export function drawGrid(context) {
  const [rows, columns] = rowsAndColumns();
  const { width, height } = context.canvas;
  context.strokeStyle = "rgb(128 128 128 / 45%)";
  context.lineWidth = 1;
  context.beginPath();
  for (let i = 1; i < columns; i++) {
    const at = Math.round((i * width) / columns) + 0.5;
    context.moveTo(at, 0);
    context.lineTo(at, height);
  }
  for (let i = 1; i < rows; i++) {
    const at = Math.round((i * height) / rows) + 0.5;
    context.moveTo(0, at);
    context.lineTo(width, at);
  }
  context.stroke();
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
