// The tool "Tokens": the original as the tokenizer sees it, a code for each cell.

import { askJson, attempt, fileOf, fromBase64 } from "./api.js";
import { color, drawFrames, drawPatch, placeOf, rowsAndColumns } from "./draw.js";
import { easel, lay, sourceOf } from "./easel.js";
import { id, on, store } from "./store.js";

const READABLE = 28; // pixels of a cell that holds a number
const PATCH = 64;
let seen = null; // { original, tokens, picture }
let chosen = null; // the cell whose code is shown

/** What the easel shows. */
export const tokens = {
  draw(context) {
    const { canvas } = context;
    const [rows, columns] = rowsAndColumns();
    const [across, down] = [canvas.width / columns, canvas.height / rows];
    context.drawImage(seen.picture, 0, 0, canvas.width, canvas.height);
    const isSame = (i) => seen.tokens[i] === seen.tokens[chosen];
    drawFrames(context, isSame, color("--accent"), 0.1);
    if (across < READABLE) return;
    context.font = `600 ${Math.round(across / 3.4)}px system-ui, sans-serif`;
    [context.textAlign, context.textBaseline, context.lineJoin] = ["center", "middle", "round"];
    [context.strokeStyle, context.fillStyle, context.lineWidth] = ["#000", "#fff", across / 12];
    seen.tokens.forEach((token, i) => {
      const [row, column] = placeOf(i);
      const place = [token, (column + 0.5) * across, (row + 0.5) * down];
      context.strokeText(...place);
      context.fillText(...place);
    });
  },
  state() {
    return `${seen.tokens.length} numbers, each one of ${store.model.codes} codes. Choose a cell to see its code.`;
  },
  press(cell) {
    chosen = cell;
    const code = seen.tokens[cell];
    const [row, column] = placeOf(cell);
    const count = seen.tokens.filter((other) => other === code).length;
    id("code").hidden = false;
    id("code-text").textContent = `Row ${row + 1}, column ${column + 1}: code ${code}, in ${count} of all cells.`;
    drawPatch(id("code-patch"), PATCH, seen.picture, cell);
  },
};

/** Ask which tokens the original has, and show them. */
async function show() {
  const { original } = easel;
  if (!original) return;
  if (seen?.original !== original) {
    const got = await attempt(async () => askJson("api/tokens", await sourceOf(original)));
    if (!got) return;
    const picture = await createImageBitmap(fileOf(got.file));
    seen = { original, tokens: [...new Uint32Array(fromBase64(got.tokens).buffer)], picture };
  }
  if (easel.original === original && isChosen()) lay(tokens);
}

const isChosen = () => document.querySelector("[data-tool=tokens][aria-checked=true]");

function update() {
  chosen = null;
  id("code").hidden = true;
  if (isChosen()) show();
}

on("tool", update);
on("easel", update);
