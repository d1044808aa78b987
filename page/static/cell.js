// The box "Cell": which tokens a step could take there, how likely each is, and what it would look like.

import { askJson, attempt, fileOf, toBase64 } from "./api.js";
import { drawPatch, hasCells, placeOf, revealedAt, tokenCount } from "./draw.js";
import { imageName, imageNumber, make } from "./groups.js";
import { className, element, id, isOpen, on, store } from "./store.js";
import { row as tableRow } from "./table.js";

const PATCH = 3; // cells across a picture: the cell with its neighbors
const SIDE = 42; // pixels of it
const box = id("cell");
let latest = 0; // number of the newest question; older answers come too late

/** What a decoding needs to continue from a step of a group's image. */
export function midway(group, index, number) {
  const cells = tokenCount(group.model);
  const { tokens, hidden, confidence } = group.steps[number];
  const [from, to] = [index * cells, (index + 1) * cells];
  return {
    steps: group.first + number,
    tokens: tokens.slice(4 * from, 4 * to),
    hidden: hidden.slice(from, to),
    before: confidence.slice(from, to), // stays with what is known
  };
}

/** Write it as the server reads it, which does not need the confidence. */
export function written({ steps, tokens, hidden }) {
  return { steps, tokens: toBase64(tokens), hidden: toBase64(hidden) };
}

/** A request for one image of a group. */
function requestOf(group, index) {
  const { before, midway: earlier, ...request } = group.request;
  return { ...request, labels: [group.start.labels[index]], count: 1, first_image: imageNumber(group, index) };
}

/** Show what the step decided about a cell: the step that revealed it, or the shown one. */
export async function openCell(group, index, number, cell) {
  const question = ++latest;
  const at = index * tokenCount(group.model) + cell;
  const isKnown = !group.steps[number].hidden[at];
  const decided = isKnown ? revealedAt(group, at) - group.first : number;
  box.hidden = false;
  const [row, column] = placeOf(cell, group.model);
  id("cell-title").textContent = `Row ${row + 1}, column ${column + 1}`;
  id("cell-choices").replaceChildren();
  if (decided < 1) {
    id("cell-state").textContent = isKnown ? "It was known from the start." : "No step has looked at it yet.";
    return;
  }
  id("cell-state").textContent = "Asking the model …";
  const request = { ...requestOf(group, index), cell, midway: written(midway(group, index, decided - 1)) };
  const got = await attempt(() => askJson("api/cell", request));
  if (question !== latest) return;
  if (!got) return close();
  const kept = `rank ${got.rank}; the ${got.num_kept} best are kept, the last of them with ${short(got.line)}`;
  id("cell-state").textContent =
    `Step ${group.first + decided} drew token ${got.drawn} with score ${short(got.score)}: ${kept}.`;
  const pictures = await Promise.all(got.files.map((file) => createImageBitmap(fileOf(file))));
  const state = midway(group, index, decided);
  const isLast = group.first + decided >= group.start.counts.length;
  id("cell-choices").replaceChildren(...got.tokens.map((token, i) => {
    // In percent.
    const shares = [got.with_class, got.without_class, got.guided].map((of) => (of ? short(100 * of[i]) : "–"));
    const take = element("button", { className: "quiet" }, "Take");
    take.setAttribute("aria-label", `Take it: token ${token}`);
    // Only a known cell can change without changing how many are hidden.
    take.disabled = !isKnown || isLast || token === got.drawn || !isOpen(group);
    take.addEventListener("click", () => takeToken(group, index, state, cell, token));
    return tableRow("td", [patchOf(pictures[i], cell, group.model), token, ...shares, take]);
  }));
}

function short(value) {
  return value === null ? "no score" : String(+Number(value).toPrecision(3));
}

/** Cut a cell with its neighbors out of an image. */
function patchOf(picture, cell, model) {
  const canvas = element("canvas");
  const context = drawPatch(canvas, SIDE, picture, cell, PATCH, model);
  for (const [style, at] of [["#000", SIDE / PATCH - 0.5], ["#fff", SIDE / PATCH + 0.5]]) {
    context.strokeStyle = style;
    context.strokeRect(at, at, SIDE - 2 * at, SIDE - 2 * at);
  }
  return canvas;
}

/** Decode the image again from a step, with another token in a cell. */
function takeToken(group, index, state, cell, token) {
  const tokens = new Uint8Array(state.tokens);
  new DataView(tokens.buffer).setUint32(4 * cell, token, true);
  const label = className(group.start.labels[index]);
  const title = `${label}, token ${token} at step ${state.steps} of “${imageName(group, index)}”`;
  const { before } = state;
  const request = { ...requestOf(group, index), before, midway: written({ ...state, tokens }) };
  make(title, request, group.place, group.original, { model: group.model });
}

export function close() {
  latest++;
  box.hidden = true;
}

id("cell-close").addEventListener("click", close);
on("chosen", close);
on("model", () => (id("watch-canvas").tabIndex = hasCells() ? 0 : -1));
