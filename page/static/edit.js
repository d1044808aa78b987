// The view "Edit": takes an original, and asks for variants of it.

import { attempt, getJson, ofModel, tell } from "./api.js";
import { openPhoto, received } from "./crop.js";
import { begin, easel, restore, sourceOf } from "./easel.js";
import { classSelect } from "./form.js";
import { imageName, make } from "./groups.js";
import { review } from "./review.js";
import { className, emit, id, on, store } from "./store.js";
import "./codes.js";

/** Take a finished image as the original. */
function takeChosen(chosen) {
  const file = chosen?.group.files[chosen.index];
  if (!file) return tell("Choose a finished image first, under Generate or below.");
  const { group, index } = chosen;
  return begin({ file, label: group.start.labels[index], name: imageName(group, index) });
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
  openPhoto(event.target.files[0]);
  event.target.value = ""; // the same file may be opened again
});
// A file may be dropped anywhere: the browser would leave the page to show it.
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    id("easel").classList.add("dropping");
  });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, () => id("easel").classList.remove("dropping"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  takeIn(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/"));
  if (!files.length) return; // a text, for a field
  event.preventDefault();
  takeIn(files);
});

function takeIn([file]) {
  if (!file || !store.model) return;
  emit("dropped", file, () => openPhoto(file));
}

id("edit-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { original, cells, shift } = easel;
  const label = Number(id("edit-class").value);
  const seed = id("edit-seed").value;
  const { grow, keep_decoded: keepDecoded } = store.editing;
  const edit = {
    ...(await sourceOf(original)),
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
  review(await make(title, request, "variants", original.file));
});

on("model", () => {
  classSelect(id("edit-class"), 0);
  attempt(restore);
});
on("edit", takeChosen);
