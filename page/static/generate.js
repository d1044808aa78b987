// The view "Generate": chooses classes, and asks for images.

import { make } from "./groups.js";
import { className, keep, on, store } from "./store.js";

const place = document.getElementById("classes");
const filter = document.getElementById("class-filter");
const hint = document.getElementById("classes-hint");
const MANY_CLASSES = 30; // more of them get a field to find one

function showClasses() {
  const { classes, has_null: hasNull } = store.model;
  const names = hasNull ? [...classes, "no class"] : classes;
  store.labels = store.labels.filter((label) => label < names.length);
  place.replaceChildren(...names.map((name, label) => {
    const box = document.createElement("label");
    const input = document.createElement("input");
    input.type = "checkbox";
    input.value = label;
    input.checked = store.labels.includes(label);
    box.append(input, name);
    return box;
  }));
  filter.hidden = classes.length <= MANY_CLASSES;
  filter.value = "";
  tellChosen();
}

function tellChosen() {
  hint.textContent = store.labels.length ? "The chosen ones in turn." : "All of them in turn.";
}

place.addEventListener("change", () => {
  store.labels = [...place.querySelectorAll(":checked")].map((input) => Number(input.value));
  keep();
  tellChosen();
});

filter.addEventListener("input", () => {
  const wanted = filter.value.trim().toLowerCase();
  for (const box of place.children) box.hidden = !box.textContent.toLowerCase().includes(wanted);
});

document.getElementById("generate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { labels, series, sampling } = store;
  const names = labels.length ? labels.map(className).join(", ") : "All classes";
  const request = { ...series, labels, sampling: { ...sampling } };
  make(`${names}, seed ${series.seed}`, request, document.getElementById("groups"));
});

on("model", showClasses);
