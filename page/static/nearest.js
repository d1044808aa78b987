// Under "This image": the training images that have most tokens in common with the chosen image.

import { askJson, attempt, fileOf, toBase64 } from "./api.js";
import { midway } from "./cell.js";
import { tokenCount } from "./draw.js";
import { className, id, on, store } from "./store.js";

const button = id("find-nearest");
const found = id("nearest");

button.addEventListener("click", async () => {
  const { group, index } = store.chosen;
  const { tokens } = midway(group, index, group.steps.length - 1);
  const got = await attempt(() => askJson("api/nearest", { tokens: toBase64(tokens) }));
  if (!got || store.chosen?.group !== group || store.chosen.index !== index) return;
  found.replaceChildren(...got.files.map((file, i) => {
    const figure = document.createElement("figure");
    const image = document.createElement("img");
    image.src = URL.createObjectURL(fileOf(file));
    image.onload = () => URL.revokeObjectURL(image.src);
    const name = got.labels ? className(got.labels[i], group.model) : "Image";
    image.alt = `${name} ${got.numbers[i]} of the training images`;
    const caption = document.createElement("figcaption");
    caption.textContent = `${name} ${got.numbers[i]}: ${got.same[i]} of ${tokenCount(group.model)}`;
    figure.append(image, caption);
    return figure;
  }));
});

function update() {
  const { group, index } = store.chosen ?? {};
  button.disabled = !group?.files[index] || group.model.version !== store.model.version;
}

on("chosen", () => {
  found.replaceChildren();
  update();
});
on("group", update);
on("model", update);
