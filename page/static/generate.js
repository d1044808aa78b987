// The view "Generate": chooses classes, and asks for images.

import { make } from "./groups.js";
import { className, emit, keep, on, store } from "./store.js";

const place = document.getElementById("classes");
const filter = document.getElementById("class-filter");
const hint = document.getElementById("classes-hint");
const lock = document.getElementById("lock");
const MOST_CHIPS = 40; // classes that are shown at once; with more of them there is a field to find one
const MOST_NAMES = 4; // classes in the title of a group
let usedSeed = null; // of the last images; without the lock the next ones get another

/** Show the chosen classes, and the first ones that fit the filter. */
function showClasses() {
  const { classes, has_null: hasNull } = store.model;
  const names = hasNull ? [...classes, "no class"] : classes;
  const wanted = filter.value.trim().toLowerCase();
  const all = names.map((name, label) => ({ name, label }));
  const isChosen = ({ label }) => store.labels.includes(label);
  const fitting = all.filter((one) => !isChosen(one) && one.name.toLowerCase().includes(wanted));
  // With many classes the chosen ones stand first; with few ones everything stays in its place.
  const isMany = names.length > MOST_CHIPS;
  const shown = isMany ? [...all.filter(isChosen), ...fitting.slice(0, MOST_CHIPS)] : all;
  place.replaceChildren(...shown.map(({ name, label }) => {
    const box = document.createElement("label");
    const input = document.createElement("input");
    input.type = "checkbox";
    input.value = label;
    input.checked = isChosen({ label });
    box.append(input, name);
    return box;
  }));
  filter.hidden = !isMany;
  const more = isMany ? fitting.length - MOST_CHIPS : 0;
  const rest = more > 0 ? ` ${more} more: type to find them.` : "";
  hint.textContent = (store.labels.length ? "The chosen ones in turn." : "All of them in turn.") + rest;
}

place.addEventListener("change", ({ target }) => {
  const label = Number(target.value);
  store.labels = target.checked ? [...store.labels, label] : store.labels.filter((one) => one !== label);
  store.labels.sort((a, b) => a - b);
  keep();
  showClasses();
  place.querySelector(`[value="${label}"]`)?.focus();
});

filter.addEventListener("input", showClasses);

document.getElementById("generate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!lock.checked && store.series.seed === usedSeed) rollSeed();
  const { labels, series, sampling } = store;
  usedSeed = series.seed;
  const shown = labels.slice(0, MOST_NAMES).map((label) => className(label)).join(", ");
  const more = labels.length - MOST_NAMES;
  const names = labels.length ? shown + (more > 0 ? ` and ${more} more` : "") : "All classes";
  const request = { ...series, labels, sampling: { ...sampling } };
  make(`${names}, seed ${series.seed}`, request, "groups");
});

function rollSeed() {
  [store.series.seed] = crypto.getRandomValues(new Uint32Array(1));
  keep();
  emit("values", null);
}

document.getElementById("dice").addEventListener("click", rollSeed);

on("model", () => {
  const last = store.model.classes.length + (store.model.has_null ? 1 : 0);
  store.labels = store.labels.filter((label) => label < last);
  filter.value = "";
  showClasses();
});
