// Starts the page: asks what there is, chooses a model, and shows one view at a time.

import { attempt, getJson, openModel, tell } from "./api.js";
import { makeForms } from "./form.js";
import { emit, id, keep, on, store } from "./store.js";
import { follow } from "./training.js";
import "./groups.js";
import "./generate.js";
import "./edit.js";
import "./watch.js";
import "./compare.js";
import "./nearest.js";
import "./tour.js";

const VIEWS = ["generate", "edit", "training"];
const LOOK_MS = 4000;
const select = id("model");

function view() {
  const wanted = location.hash.slice(1);
  return VIEWS.includes(wanted) ? wanted : "generate";
}

function showView() {
  const now = view();
  for (const name of VIEWS) {
    const needsModel = name !== "training" && !store.model;
    id(name).hidden = name !== now || needsModel;
  }
  id("no-model").hidden = now === "training" || store.page?.models.length !== 0;
  const isWatching = now !== "training" && Boolean(store.chosen);
  id("watch").hidden = !isWatching;
  document.querySelector("main").classList.toggle("watching", isWatching);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${now}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  follow(now === "training");
}

async function chooseModel(wanted) {
  select.value = wanted;
  opening(true);
  try {
    store.model = await openModel(wanted);
    // The classes of the command line, unless others were chosen in this tab.
    if (store.modelId !== wanted) store.labels = store.model.chosen;
    store.modelId = wanted;
    keep();
    emit("model");
    tell(store.model.note);
  } finally {
    opening(false);
  }
}

function opening(is) {
  id("opening").hidden = !is || view() === "training";
  if (!is) showView();
}

function showModels() {
  const { models } = store.page;
  select.replaceChildren(...models.map(({ id, run, name }) => new Option(`${run}: ${name}`, id)));
  select.parentElement.hidden = !models.length;
  if (store.model) select.value = store.model.id;
}

/** Look for models that were trained meanwhile, and whether the chosen one is still the same. */
async function lookForModels() {
  const models = await getJson("api/models");
  if (JSON.stringify(models) === JSON.stringify(store.page.models)) return;
  store.page.models = models;
  showModels();
  showView();
  if (!store.model && models.length) return chooseModel(models[0].id);
  const now = models.find(({ id }) => id === store.model?.id);
  if (now && now.version !== store.model.version) await openAgain();
}

async function openAgain() {
  await chooseModel(store.model.id);
  tell("The file of this model has been replaced: the page shows the new one, which cannot go on with earlier images.");
}

async function watchModels() {
  // That a server is away is said where the user asks it for something.
  const say = (error) => error.status && tell(error.message);
  if (!document.hidden && view() !== "training") await lookForModels().catch(say);
  setTimeout(watchModels, LOOK_MS);
}

async function start() {
  store.page = await getJson("api/page");
  makeForms();
  showModels();
  showView();
  const { models } = store.page;
  const before = models.find((model) => model.id === store.modelId);
  if (models.length) await chooseModel((before ?? models[0]).id);
  setTimeout(watchModels, LOOK_MS);
}

select.addEventListener("change", () => attempt(() => chooseModel(select.value)));
addEventListener("hashchange", () => {
  showView();
  if (store.page && view() !== "training") attempt(lookForModels);
});
on("chosen", showView);
on("open", (model, then) => attempt(() => chooseModel(model).then(then)));
on("replaced", () => attempt(openAgain));
attempt(start).finally(() => opening(false));
