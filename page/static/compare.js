// Beside a group: the same images with one difference, or a grid of two settings.

import { attempt, openModel } from "./api.js";
import { classSelect, control, fill, valueOf } from "./form.js";
import { goTo, imageName, imageNumber, make, remove, stop } from "./groups.js";
import { className, element, id, on, store } from "./store.js";
import { crossTable } from "./table.js";

const MOST_CELLS = 25;
const OF_BRANCH = ["step", "sched_mode", "model"]; // what a branch has from the image that it comes from
const what = id("versus-what");
let input = null; // the field of the other value

const setting = (name) => store.page.sampling.find((one) => one.name === name);

/** The settings that can stand on an axis: those with a single value. */
function axes() {
  return store.page.sampling.filter(({ kind }) => kind === "number" || kind === "choice");
}

const optionOf = ({ title, name }) => [title.slice(2), name];

/** Whether what a pair of a text and a value names may differ in the chosen group. */
const mayDiffer = ([, value]) => !store.chosen.group.request.midway || !OF_BRANCH.includes(value);

/** Show a field for the other value of what is chosen. */
function showInput() {
  if (!store.chosen) return;
  const { start, request, model } = store.chosen.group;
  const isSetting = setting(what.value) !== undefined;
  input = isSetting ? control(setting(what.value)) : element("select");
  if (isSetting) input.value = request.sampling[what.value] ?? "";
  else if (what.value === "class") classSelect(input, start.labels[0], model);
  else {
    const others = store.page.models.filter((other) => other.id !== model.id);
    fill(input, others.map(({ run, name, id }) => [`${run}: ${name}`, id]));
  }
  input.setAttribute("aria-label", "The other value");
  id("versus-value").replaceChildren(input);
}

/** What differs: words for the title, changes of the request, and another model. */
async function difference(group) {
  if (what.value === "class") {
    const label = Number(input.value);
    return { words: className(label, group.model), change: { labels: [label] } };
  }
  if (what.value === "model") return otherModel(group);
  const value = valueOf(input, setting(what.value));
  const sampling = { ...group.request.sampling, [what.value]: value };
  return { words: `${what.value} ${value}`, change: { sampling } };
}

/** The same classes for another model; a student samples as it is made for. */
async function otherModel(group) {
  const model = await openModel(input.value);
  const { run, name } = model;
  const { edit } = group.request;
  const shape = ({ size, channels, grid, dataset }) => String([size, channels, edit && [grid, dataset]]);
  if (shape(model) !== shape(group.model)) {
    throw new Error(`${run} ${edit ? "cannot edit this: its size, cells or dataset differ" : "makes images of another size"}.`);
  }
  const labels = group.start.labels.map((label) => {
    const wanted = className(label, group.model);
    const found = label < group.model.classes.length ? model.classes.indexOf(wanted) : model.classes.length;
    if (found < 0 || (found === model.classes.length && !model.has_null)) {
      throw new Error(`${run} has no class ${wanted}.`);
    }
    return found;
  });
  const isAlike = JSON.stringify(model.usual) === JSON.stringify(group.model.usual);
  const sampling = isAlike ? group.request.sampling : model.usual;
  return { words: `${run}: ${name}`, change: { labels, sampling }, model };
}

id("versus-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { group } = store.chosen;
  attempt(async () => {
    const { words, change, model = group.model } = await difference(group);
    const request = { ...group.request, ...change };
    make(`${words}, beside “${group.title}”`, request, group.place, group.original, { versus: group.key, model });
  });
});

/** Read the values of an axis: a list with commas. */
function valuesOf(axis) {
  const name = id(`axis-${axis}`).value;
  const texts = id(`values-${axis}`).value.split(",").map((text) => text.trim());
  return [name, texts.map((text) => {
    const field = Object.assign(control(setting(name)), { value: text });
    if (field.value !== text || !field.checkValidity()) throw new Error(`“${text}” is not a value of ${name}.`);
    return valueOf(field, setting(name));
  })];
}

/** Suggest values around the one of the chosen group. */
function suggest(axis) {
  const { name, kind, choices, is_whole: isWhole } = setting(id(`axis-${axis}`).value);
  const now = Number(store.chosen?.group.request.sampling[name] ?? store.sampling[name]);
  const around = isWhole
    ? [Math.max(1, Math.round(now / 2)), now || 2, 2 * now || 4]
    : now ? [now / 2, now, 2 * now] : [0, 1, 2];
  id(`values-${axis}`).value = (kind === "choice" ? choices : around).join(", ");
}

async function makeGrid() {
  const { group, index } = store.chosen;
  const [[x, across], [y, down]] = ["x", "y"].map(valuesOf);
  if (x === y) throw new Error("The two settings of a grid must differ.");
  if (across.length * down.length > MOST_CELLS) throw new Error(`A grid has at most ${MOST_CELLS} images.`);
  const image = { labels: [group.start.labels[index]], count: 1, first_image: imageNumber(group, index) };
  const cells = [];
  const sheet = id("sheet").content.firstElementChild.cloneNode(true);
  sheet.querySelector("h2").textContent = `${x} and ${y} of “${imageName(group, index)}”`;
  sheet.append(crossTable(x, across, y, down, (right, below) => {
    const place = element("div");
    cells.push({ place, values: { [x]: right, [y]: below } });
    return place;
  }));
  id(group.place).prepend(sheet);
  goTo(sheet);
  const made = [];
  sheet.querySelector(".delete").addEventListener("click", () => {
    if (made.length < cells.length) stop();
    made.filter(({ element }) => element).forEach(remove);
    sheet.remove();
  });
  for (const { place, values } of cells) {
    const words = Object.entries(values).map(([name, value]) => `${name} ${value}`).join(", ");
    const request = { ...group.request, ...image, sampling: { ...group.request.sampling, ...values } };
    const one = await make(words, request, group.place, group.original, { cell: place, model: group.model });
    made.push(one);
    if (!one.files.length) break; // stopped, refused, or another request took its place
  }
  if (!made.some(({ element }) => element)) sheet.remove();
}

id("cross-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(makeGrid);
});
what.addEventListener("change", showInput);
for (const axis of ["x", "y"]) id(`axis-${axis}`).addEventListener("change", () => suggest(axis));
on("chosen", () => {
  if (!store.chosen) return;
  const kinds = store.page.models.length > 1 ? ["class", "model"] : ["class"];
  fill(what, [...kinds.map((kind) => [kind, kind]), ...store.page.sampling.map(optionOf)].filter(mayDiffer));
  showInput();
  const first = store.chosen.group.request.midway ? "r_temp" : "step";
  for (const [axis, name] of [["x", first], ["y", "cfg_w"]]) {
    if (fill(id(`axis-${axis}`), axes().map(optionOf).filter(mayDiffer), name)) suggest(axis);
  }
});
