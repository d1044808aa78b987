// Under "This image": the training images that have most tokens in common with the chosen image.

import { askJson, attempt, toBase64 } from "./api.js";
import { midway } from "./cell.js";
import { figure, tokenCount } from "./draw.js";
import { className, id, isOpen, on, store } from "./store.js";

const button = id("find-nearest");
const found = id("nearest");

button.addEventListener("click", async () => {
  const { group, index } = store.chosen;
  const { tokens } = midway(group, index, group.steps.length - 1);
  const got = await attempt(() => askJson("api/nearest", { tokens: toBase64(tokens) }));
  if (!got || store.chosen?.group !== group || store.chosen.index !== index) return;
  found.replaceChildren(...got.files.map((file, i) => {
    const name = `${got.labels ? className(got.labels[i], group.model) : "Image"} ${got.numbers[i]}`;
    const words = `${name}: ${got.same[i]} of ${tokenCount(group.model)}`;
    return figure(`data:image/png;base64,${file}`, `${name} of the training images`, words);
  }));
});

function update() {
  const { group, index } = store.chosen ?? {};
  button.disabled = !group?.files[index] || !isOpen(group);
}

on("chosen", () => {
  found.replaceChildren();
  update();
});
on("group", update);
on("model", update);
