// Groups of images that were asked for together: shows them while they are decoded, and keeps them.

import { attempt, decode, fileOf, fromBase64, fromByteByByte } from "./api.js";
import { dropGroup, groupsOf, isKept, keepGroup } from "./archive.js";
import { drawDifference, drawStep } from "./draw.js";
import { choose, className, element, emit, id, on, store } from "./store.js";
import { zip } from "./zip.js";

const MOST_GROUPS = 100; // of a model; of more, the oldest one without a star goes
let running = null;

/**
 * Ask for images and show them in the element `place` while they are decoded; returns when they
 * are done, with their group. `original` is the file of the image that they edit. Beside the images
 * of the group with the key `versus` the same ones are drawn, and what differs. `cell` is an element
 * that replaces `place` while it is there; `model` is the model that makes them.
 */
export async function make(title, request, place, original = null, more = {}) {
  const { versus = null, cell = null, model = store.model } = more;
  // What goes on with the group names this model, too; the server refuses it once it is replaced.
  request = { ...request, model: model.id, version: model.version };
  const { before, ...sent } = request;
  stop();
  const abort = new AbortController();
  const group = {
    key: `${Date.now()} ${crypto.getRandomValues(new Uint32Array(1))[0]}`,
    modelId: store.model.id,
    model, place, title, request, original, versus, cell,
    starred: false,
    ofTour: store.touring, // it goes when the tour ends
    rejected: [], // indices of variants
    start: null,
    first: 0, // number of the first step
    steps: [],
    files: [],
    seconds: 0,
    element: null,
  };
  const own = (running = { group, abort });
  busy(true);
  await attempt(() => decode(sent, (event) => take(group, event), abort.signal));
  if (running === own) {
    running = null;
    busy(false);
  }
  if (group.start && !group.isRemoved) finish(group);
  return group;
}

export function stop() {
  running?.abort.abort();
}

function busy(is) {
  for (const button of document.querySelectorAll(".stop")) button.hidden = !is;
}

async function take(group, event) {
  if (event.event === "start") {
    group.start = event;
    show(group);
    keep(group);
    choose(group, 0);
    // Variants are looked through on the easel.
    if (!group.cell) goTo(group.place === "variants" ? id("easel") : group.element);
  } else if (event.event === "step") {
    const last = group.steps.at(-1);
    if (!last) group.first = event.step;
    const before = last && new Uint32Array(last.tokens.buffer);
    const tokens = filled(last, before, fromByteByByte(event.tokens, Uint32Array));
    const confidence = filled(last, last?.confidence, fromByteByByte(event.confidence, Float32Array));
    group.files = event.files?.map((file) => fileOf(file)) ?? [];
    group.seconds = event.seconds;
    group.steps.push(await drawable({
      tokens: new Uint8Array(tokens.buffer),
      hidden: fromBase64(event.hidden),
      confidence,
      files: { imagined: event.imagined && fileOf(event.imagined, "webp"), surest: null },
    }, group.files));
    rememberBefore(group);
    drawGroup(group);
    emit("group", group);
  } else if (event.event === "surest") {
    const step = group.steps[event.step - group.first];
    step.files.surest = event.surest && fileOf(event.surest, "webp");
    Object.assign(step, await drawable(step));
  }
}

/** The values of a step: those of the one before, and new ones where that had hidden cells. */
function filled(last, before, values) {
  let next = 0;
  return last ? before.map((value, i) => (last.hidden[i] ? values[next++] : value)) : values;
}

/** Add to a step the pictures of its files; the last one has finished images. */
async function drawable(step, images = []) {
  const [imagined, surest, ...finished] = await Promise.all(
    [step.files.imagined, step.files.surest, ...images].map((file) => file && createImageBitmap(file)));
  return { ...step, imagined, surest, finished };
}

/** In a branch, cells that were known keep the confidence that they had. */
function rememberBefore(group) {
  const { before, midway } = group.request;
  if (!midway) return;
  const { hidden } = group.steps[0];
  const { confidence } = group.steps.at(-1);
  confidence.forEach((_, i) => {
    if (!hidden[i]) confidence[i] = before[i % before.length];
  });
}

/** Say how a group has ended, and keep it. */
function finish(group) {
  tellState(group);
  keep(group);
  const unstarred = store.groups.filter((one) => !one.starred && !one.ofTour);
  for (const old of unstarred.slice(MOST_GROUPS)) remove(old);
  emit("group", group);
}

function tellState(group) {
  const [note, goOn] = group.element.querySelectorAll("small, .go-on");
  const isDone = group.files.length > 0;
  const at = group.first + Math.max(0, group.steps.length - 1);
  note.textContent = isDone ? `${group.seconds.toFixed(1)} s` : `stopped at step ${at} of ${group.start.counts.length}`;
  goOn.hidden = isDone;
  group.element.querySelector(".save-all").hidden = !isDone;
}

/** Show and keep which variants are rejected. */
export function tellRejected(group) {
  group.element.querySelectorAll(".tile").forEach((tile, index) =>
    tile.classList.toggle("rejected", group.rejected.includes(index)));
  keep(group);
}

/** Put into the database what makes the group again; elements and pictures stay here. */
function keep({ element, cell, steps, ...group }) {
  if (group.ofTour) return;
  const files = steps.map(({ imagined, surest, finished, ...step }) => step);
  keepGroup({ ...group, steps: files });
}

export function remove(group) {
  group.isRemoved = true; // it may still be in the making
  dropGroup(group.key);
  group.element.remove();
  store.groups = store.groups.filter((one) => one !== group);
  if (store.chosen?.group !== group) return;
  store.chosen = null;
  emit("chosen");
}

function show(group) {
  group.element = id("group").content.firstElementChild.cloneNode(true);
  const part = (selector) => group.element.querySelector(selector);
  part("h2").textContent = group.title;
  const star = part(".star");
  const tellStar = () => star.setAttribute("aria-pressed", group.starred);
  tellStar();
  star.addEventListener("click", () => {
    group.starred = !group.starred;
    tellStar();
    keep(group);
  });
  part(".delete").addEventListener("click", () => {
    if (running?.group === group) stop();
    remove(group);
  });
  part(".go-on").addEventListener("click", () => {
    remove(group);
    make(group.title, group.request, group.place, group.original, group);
  });
  part(".save-all").addEventListener("click", () => attempt(() => saveAll(group)));
  part(".tiles").append(...group.start.labels.map((_, index) => {
    const caption = group.cell ? group.title : imageName(group, index);
    const canvases = Array.from({ length: group.versus ? 3 : 1 }, () => element("canvas"));
    const tile = element("button", { className: "tile" }, ...canvases, element("span", {}, caption));
    tile.setAttribute("aria-pressed", "false");
    tile.addEventListener("click", () => {
      choose(group, index);
      // Go to the panel if it is below; variants are on the easel.
      const [panel, { offsetTop, offsetHeight }] = [id("watch"), group.element];
      if (!group.original && panel.offsetTop > offsetTop + offsetHeight) panel.scrollIntoView();
    });
    return tile;
  }));
  group.rejected ??= []; // an older page kept none
  group.element.classList.toggle("of-tour", Boolean(group.ofTour));
  group.element.classList.toggle("versus", Boolean(group.versus));
  (group.cell ?? id(group.place)).prepend(group.element);
  store.groups.unshift(group);
}

/** Go to what appears, where most of it is out of sight; the tour goes its own way. */
export function goTo(element) {
  const { top } = element.getBoundingClientRect();
  if (!store.touring && (top < 0 || top > innerHeight / 2)) element.scrollIntoView();
}

/** The index of an image in its series, exact also above 2^53. */
export function imageNumber(group, index) {
  return String(BigInt(group.start.first_image) + BigInt(index));
}

/** What the page calls an image: its class and its number. */
export function imageName(group, index) {
  return `${className(group.start.labels[index], group.model)} · ${imageNumber(group, index)}`;
}

/** Name the file of an image. */
export function fileName(group, index) {
  return `${className(group.start.labels[index], group.model)}_${group.start.seed}_${imageNumber(group, index)}.png`;
}

async function saveAll(group) {
  const href = URL.createObjectURL(await zip(group.files.map((file, index) => [fileName(group, index), file])));
  const link = element("a", { href, download: `${group.title}.zip` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000); // when the browser has saved it
}

/** Draw all images of a group at a step; the images beside them at the same share of their steps. */
export function drawGroup(group, number = group.steps.length - 1, shown = "image") {
  const base = store.groups.find(({ key }) => key === group.versus);
  group.element.querySelectorAll(".tile").forEach((tile, index) => {
    const canvases = [...tile.querySelectorAll("canvas")];
    drawStep(canvases.at(base ? 1 : 0), group, index, number, shown);
    if (!base) return;
    const share = (group.first + number) / group.start.counts.length;
    const at = Math.round(share * base.start.counts.length) - base.first;
    drawStep(canvases[0], base, index, Math.min(Math.max(at, 0), base.steps.length - 1), shown);
    drawDifference(canvases[2], canvases[0], canvases[1]);
  });
}

/** Show what earlier visits have made with this model. */
async function showKept(modelId) {
  const kept = await groupsOf(modelId);
  for (const group of kept) {
    const images = (step) => (step.hidden.includes(1) ? [] : group.files);
    group.steps = await Promise.all(group.steps.map((step) => drawable(step, images(step))));
  }
  if (store.model.id !== modelId) return; // another one has been chosen meanwhile
  const here = new Set(store.groups.map(({ key }) => key));
  const newer = store.groups;
  store.groups = [];
  for (const group of kept.filter(({ key }) => !here.has(key))) {
    show(group);
    tellState(group);
    tellRejected(group);
    drawGroup(group);
  }
  // Those of this visit stay above.
  for (const group of [...newer].reverse()) if (!group.cell) id(group.place).prepend(group.element);
  store.groups.unshift(...newer);
  emit("kept");
}

on("chosen", () => {
  for (const group of store.groups) {
    const tiles = group.element.querySelectorAll(".tile");
    const isChosen = store.chosen?.group === group;
    if (!isChosen && group.element.querySelector("[aria-pressed=true].tile")) drawGroup(group);
    tiles.forEach((tile, index) => tile.setAttribute("aria-pressed", isChosen && store.chosen.index === index));
  }
});
on("theme", () => store.groups.forEach((group) => drawGroup(group)));
let shownModel = null;
on("model", () => {
  // A file that was replaced is the same model: its groups stay.
  if (shownModel === store.model.id) return;
  shownModel = store.model.id;
  stop();
  for (const group of store.groups.splice(0)) group.element.remove();
  for (const sheet of document.querySelectorAll(".sheet")) sheet.remove();
  store.chosen = null;
  emit("chosen");
  attempt(() => showKept(shownModel));
});
for (const button of document.querySelectorAll(".stop")) button.addEventListener("click", stop);
isKept().then((is) => {
  id("kept").textContent = is
    ? `This browser keeps the newest ${MOST_GROUPS} groups of each model, and those with a star.`
    : "This window keeps nothing: save what you need before you close it.";
});
