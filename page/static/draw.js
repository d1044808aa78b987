// Draws images with their hidden cells, confidence maps and the image to edit.

import { store } from "./store.js";

const STOPS = [[30, 34, 71], [43, 75, 143], [47, 143, 157], [143, 201, 122], [246, 229, 141]];

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The colour of a share from 0 to 1, from dark blue to yellow. */
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
  const { size, channels } = store.model;
  const image = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = bytes[channels * i + (channels === 1 ? 0 : c)];
    image.data[4 * i + 3] = 255;
  }
  const canvas = new OffscreenCanvas(size, size);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** Prepare a canvas of about `wanted` pixels, a multiple of the image's, and return its context. */
export function prepare(canvas, wanted) {
  const { size } = store.model;
  const side = size * Math.max(1, Math.round(wanted / size));
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, side, side);
  return context;
}

function eachCell(side, draw) {
  const { grid } = store.model;
  const cell = side / grid;
  for (let i = 0; i < grid * grid; i++) draw(i, (i % grid) * cell, Math.floor(i / grid) * cell, cell);
}

/** Cover the cells that `isHidden` names with plain squares. */
export function drawHidden(context, isHidden) {
  const [fill, line] = [colour("--hidden"), colour("--hidden-line")];
  eachCell(context.canvas.width, (i, x, y, cell) => {
    if (!isHidden(i)) return;
    context.fillStyle = line;
    context.fillRect(x, y, cell, cell);
    context.fillStyle = fill;
    const edge = Math.max(1, cell / 24);
    context.fillRect(x + edge / 2, y + edge / 2, cell - edge, cell - edge);
  });
}

/** Draw an image of a group at a step, or its confidence map. */
export function drawStep(canvas, group, index, number, shown = "image", wanted = 128) {
  const context = prepare(canvas, wanted);
  const step = group.steps[number];
  const { grid, size, channels } = store.model;
  const cells = index * grid * grid;
  if (!step) return drawHidden(context, () => true);
  if (shown === "image") {
    const start = index * size * size * channels;
    context.drawImage(picture(step.pixels.subarray(start)), 0, 0, canvas.width, canvas.width);
    return drawHidden(context, (i) => step.hidden[cells + i]);
  }
  drawHidden(context, () => true);
  eachCell(canvas.width, (i, x, y, cell) => {
    context.fillStyle = heat(sureness(step.confidence[cells + i]));
    // A hidden cell shows what it would be as a smaller square.
    const inset = step.hidden[cells + i] ? cell / 4 : 0;
    context.fillRect(x + inset, y + inset, cell - 2 * inset, cell - 2 * inset);
  });
}

/** Draw the lines between cells. */
export function drawGrid(context) {
  const { grid } = store.model;
  const side = context.canvas.width;
  context.strokeStyle = "rgb(128 128 128 / 45%)";
  context.lineWidth = 1;
  context.beginPath();
  for (let i = 1; i < grid; i++) {
    const at = Math.round((i * side) / grid) + 0.5;
    context.moveTo(at, 0);
    context.lineTo(at, side);
    context.moveTo(0, at);
    context.lineTo(side, at);
  }
  context.stroke();
}

/** Mark the painted cells. */
export function drawPainted(context, isPainted) {
  const accent = colour("--accent");
  eachCell(context.canvas.width, (i, x, y, cell) => {
    if (!isPainted(i)) return;
    context.globalAlpha = 0.6;
    context.fillStyle = accent;
    context.fillRect(x, y, cell, cell);
    context.globalAlpha = 1;
    context.strokeStyle = accent;
    context.lineWidth = 2;
    context.strokeRect(x + 1, y + 1, cell - 2, cell - 2);
  });
}
