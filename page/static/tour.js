// The tour: each step is a click on the page itself, with the chosen model. The user's groups and
// easel are set aside meanwhile, and nothing of it is kept.

import { attempt, getJson, ofModel, tell } from "./api.js";
import { tokens } from "./codes.js";
import { hasCells } from "./draw.js";
import { bringBack, clearAway, easel, isLaid, isPainting } from "./easel.js";
import { remove, stop } from "./groups.js";
import { choose, emit, id, keep, on, store } from "./store.js";

const LOOK_MS = 150;
const isOn = (selector) => () => document.querySelector(`${selector}[aria-checked=true]`);
const isMade = (place) => () => store.chosen?.group.place === place && store.chosen.group.files.length > 0;
const press = (key) => id("canvas").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
// What a step needs: whether it is there, and what to say where it is not.
const NEEDS = {
  cells: [hasCells, "This model's tokens are of the whole image, so no part of a photo can be hidden."],
  photos: [() => hasPhotos, "This model's photos are not here."],
  anotherStart: [() => !hasCells() || !hasPhotos, ""],
  steps: [() => store.chosen?.group.start.counts.length !== 1, "This model guesses all in one step."],
};

// What to say, the view, what to press, what it needs, whether it is done; how to do it by itself.
const STEPS = [
  { text: "The model learned from photos. Press Show to take one.", view: "edit", at: "#take-validation",
    needs: ["cells", "photos"], isDone: () => easel.original },
  { text: "Let it make an image from nothing. Press Generate.", view: "generate", at: "#generate-go",
    needs: ["anotherStart"], isDone: isMade("groups") },
  { text: "Press “Edit it”.", view: "generate", at: "#edit-this",
    needs: ["anotherStart", "cells"], isDone: () => easel.original },
  { text: "A tokenizer makes few numbers of all these pixels. Press Tokens.", view: "edit", at: "[data-tool=tokens]",
    needs: ["cells"], isDone: () => isLaid(tokens) },
  { text: "These numbers are all that the model sees. Each stands for a patch. Choose a cell.", view: "edit",
    at: "#canvas", needs: ["cells"], isDone: () => !id("code").hidden, act: () => press("ArrowRight") },
  { text: "Its code and patch are below. Now hide a part: press Brush.", view: "edit", at: "[data-tool=brush]",
    needs: ["cells"], isDone: isOn("[data-tool=brush]") },
  { text: "Hide four cells or more from the model: paint them, or use arrows and space.", view: "edit", at: "#canvas",
    needs: ["cells"], isDone: () => easel.cells.filter(Boolean).length >= 4 && !isPainting(), act: hide },
  { text: "Let the model guess what is hidden. Press “Make variants”.", view: "edit", at: "#edit-go",
    needs: ["cells"], isDone: isMade("variants") },
  { text: "It went step by step, as this row shows. Press step 1.", at: "#film button:nth-child(2)",
    needs: ["steps"], isDone: () => Number(id("step").value) === store.chosen?.group.first + 1 },
  { text: "Most hidden tokens remain, but it has a guess for each. Press Imagined.", at: "[data-shown=imagined]",
    needs: ["steps"], isDone: isOn("[data-shown=imagined]") },
  { text: "It keeps the surest guesses, inside the line, and makes the others again. Press Play.", at: "#play",
    needs: ["steps"], isDone: () => id("step").value === id("step").max && id("play").textContent === "Play" },
  { text: "All tokens are known, and the decoder draws them. Press Image.", at: "[data-shown=image]",
    needs: ["steps"], isDone: isOn("[data-shown=image]") },
  { text: "Photo, tokens, hide, guess, keep, image: that is all. Leave, and your own images are back.",
    at: "#tour-leave", needs: [], isDone: () => false },
];
let saved = null; // what comes back at the end
let at = 0; // number of the step
let replayed = 0; // steps before it are pressed by themselves
let notes = []; // why the steps before it were left out
let said = new Set();
let hasPhotos = true;
let target = null;

/** Mark cells as the keyboard does. */
function hide() {
  const size = id("brush-size");
  size.value = Math.ceil(Number(size.max) / 2);
  for (let i = 0; i < Number(size.max) / 3; i++) for (const key of ["ArrowRight", "ArrowDown"]) press(key);
  press(" ");
}

async function begin() {
  if (!store.model) return tell("Train a model first.");
  hasPhotos = await getJson(ofModel("validation/0")).then(() => true, () => false);
  if (document.querySelector(".stop:not([hidden])")) return tell("Wait for the images, or stop them.");
  if (saved) return; // a second click
  const { chosen, series } = store;
  const radios = [...document.querySelectorAll("#tools [aria-checked=true], #shown [aria-checked=true]")];
  saved = { chosen, series: { ...series }, hash: location.hash, size: id("brush-size").value, radios };
  store.touring = true;
  document.body.classList.add("touring");
  id("tour").hidden = false;
  store.chosen = null;
  emit("chosen");
  clearAway();
  replayed = store.tour;
  enter(0);
}

/** The first need of a step that is not met, if there is one. */
const lack = ({ needs }) => needs.map((name) => NEEDS[name]).find(([isThere]) => !isThere());

/** Come to a step, or to the next one that has what it needs. */
function enter(number) {
  const missing = lack(STEPS[number]);
  if (missing) {
    const [, why] = missing;
    if (why && !said.has(why)) notes.push(why);
    said.add(why);
    return enter(number + 1);
  }
  at = number;
  const { text, view } = STEPS[at];
  if (view) location.hash = view;
  const isReplayed = at < replayed;
  id("tour-text").textContent = isReplayed ? "Going to where you left the tour …" : [...notes, text].join(" ");
  if (!isReplayed) {
    notes = [];
    store.tour = at;
    keep();
  }
  const ones = STEPS.filter((step) => !lack(step));
  id("tour-at").textContent = `${ones.indexOf(STEPS[at]) + 1} of ${ones.length}`;
  id("tour-do").hidden = at === STEPS.length - 1;
  document.documentElement.style.setProperty("--tour", `${id("tour").offsetHeight}px`);
  point(null);
}

function point(element) {
  target?.classList.remove("pointed");
  target = element;
  target?.classList.add("pointed");
  target?.focus({ preventScroll: true });
  // What is pressed there changes the picture above it.
  target?.scrollIntoView({ block: target.closest("#watch, #review") ? "end" : "center", inline: "center" });
}

/** Go on when a step is done, and point at what to press as soon as it is there. */
function look() {
  if (!saved) return;
  if (STEPS[at].isDone()) return enter(at + 1);
  const wanted = document.querySelector(STEPS[at].at);
  if (target || !wanted || wanted.disabled || !wanted.offsetParent) return;
  point(wanted);
  if (at < replayed) act();
}

function act() {
  if (STEPS[at].view) location.hash = STEPS[at].view;
  if (STEPS[at].act) STEPS[at].act();
  else document.querySelector(STEPS[at].at)?.click();
}

/** End the tour, and show what was there before. */
async function leave(hasModel = true) {
  if (!saved) return;
  const { chosen, series, hash, size, radios } = saved;
  saved = null;
  said = new Set();
  point(null);
  stop();
  if (at === STEPS.length - 1) store.tour = 0;
  for (const group of store.groups.filter(({ ofTour }) => ofTour)) remove(group);
  store.touring = false;
  document.body.classList.remove("touring");
  document.documentElement.style.removeProperty("--tour");
  id("tour").hidden = true;
  Object.assign(store.series, series);
  keep();
  emit("values", null);
  id("brush-size").value = size;
  for (const one of radios) one.click();
  tellButton();
  if (!hasModel) return;
  await bringBack();
  if (store.groups.includes(chosen?.group)) choose(chosen.group, chosen.index);
  location.hash = hash;
  id("tour-begin").focus();
}

function tellButton() {
  id("tour-begin").textContent = store.tour ? "Go on with the tour" : "Tour";
}

id("tour-begin").addEventListener("click", () => attempt(saved ? leave : begin));
id("tour-do").addEventListener("click", act);
id("tour-leave").addEventListener("click", () => leave());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented) leave();
});
on("model", () => leave(false));
setInterval(look, LOOK_MS);
tellButton();
