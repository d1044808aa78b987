// The view "Generate": chooses classes, and asks for images.

import { attempt, upload } from "./api.js";
import { make } from "./groups.js";
import { choose, className, element, emit, id, keep, on, store } from "./store.js";

const place = id("classes");
const filter = id("class-filter");
const hint = id("classes-hint");
const lock = id("lock");
const MOST_CHIPS = 40; // classes that are shown at once; with more of them there is a field to find one
const MOST_NAMES = 4; // classes in the title of a group
let usedSeed = null; // of the last images; without the lock the next ones get another
let remade = null; // the picture that filled the form

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
    const input = element("input", { type: "checkbox", value: label, checked: isChosen({ label }) });
    return element("label", {}, input, element("span", {}, name));
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

id("generate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!lock.checked && store.series.seed === usedSeed) rollSeed();
  const { labels, series, sampling } = store;
  usedSeed = series.seed;
  const shown = labels.slice(0, MOST_NAMES).map((label) => className(label)).join(", ");
  const more = labels.length - MOST_NAMES;
  const names = labels.length ? shown + (more > 0 ? ` and ${more} more` : "") : "All classes";
  const request = { ...series, labels, sampling: { ...sampling } };
  make(`${names}, seed ${series.seed}`, request, "groups").then(findRemade);
});

/** Fill the form from a picture that says how it was made; without such words call `otherwise`. */
async function refill(picture, otherwise) {
  const got = await attempt(() => upload(`api/refill/${store.model.id}`, picture));
  if (got === null) return otherwise();
  if (!got) return;
  const { model, labels, sampling, note, ...series } = got;
  emit("open", model, () => {
    Object.assign(store, { labels, sampling: Object.assign(store.sampling, sampling) });
    Object.assign(store.series, series);
    [usedSeed, remade] = [null, picture];
    keep();
    emit("values", null);
    showClasses();
    const words = `The form is as it was for ${picture.name}${note && `: ${note}`}`;
    id("opened").textContent = `${words}. Generate makes it again.`;
  });
}

/** Choose the image of a new group that has the bytes of the picture. */
async function findRemade(group) {
  if (!remade || !group.files.length) return;
  const text = async (blob) => new TextDecoder("latin1").decode(await blob.arrayBuffer());
  const [wanted, ...made] = await Promise.all([remade, ...group.files].map(text));
  const index = made.indexOf(wanted);
  if (index < 0) return;
  choose(group, index);
  id("opened").textContent = `Image ${index + 1} of the group is ${remade.name}, byte for byte.`;
}

id("remake").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (file) refill(file, () => (id("opened").textContent = `${file.name} does not say how it was made.`));
});
on("dropped", (file, otherwise) => (location.hash === "#edit" ? otherwise() : refill(file, otherwise)));

function rollSeed() {
  [store.series.seed] = crypto.getRandomValues(new Uint32Array(1));
  keep();
  emit("values", null);
}

id("dice").addEventListener("click", rollSeed);

on("model", () => {
  const last = store.model.classes.length + (store.model.has_null ? 1 : 0);
  store.labels = store.labels.filter((label) => label < last);
  filter.value = "";
  showClasses();
});
