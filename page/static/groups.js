// Groups of images that were asked for together: shows them while they are decoded.

import { attempt, decode, fromBase64 } from "./api.js";
import { drawStep } from "./draw.js";
import { choose, className, emit, on, store } from "./store.js";

const MOST_GROUPS = 12; // older ones go
let running = null;

/**
 * Ask for images and show them in `place` while they are decoded; returns when they are done.
 * `original` is the file of the image that they edit.
 */
export async function make(title, request, place, original = null) {
  const { before, ...sent } = request;
  running?.abort();
  const abort = (running = new AbortController());
  const group = { title, request, original, start: null, first: 0, steps: [], files: [], element: null };
  busy(true);
  await attempt(() =>
    decode({ model: store.model.id, ...sent }, (event) => take(group, event, place), abort.signal));
  if (running === abort) {
    running = null;
    busy(false);
  }
  emit("group", group);
}

export function stop() {
  running?.abort();
}

function busy(is) {
  for (const button of document.querySelectorAll(".stop")) button.hidden = !is;
}

function take(group, event, place) {
  if (event.event === "start") {
    group.start = event;
    show(group, place);
    choose(group, 0);
  } else if (event.event === "step") {
    if (!group.steps.length) group.first = event.step;
    group.steps.push({
      tokens: fromBase64(event.tokens),
      hidden: fromBase64(event.hidden),
      confidence: new Float32Array(fromBase64(event.confidence).buffer),
      pixels: fromBase64(event.pixels),
    });
    rememberBefore(group);
    draw(group);
    emit("group", group);
  } else {
    group.files = event.files.map((file) => new Blob([fromBase64(file)], { type: "image/png" }));
    group.element.querySelector("small").textContent = `${event.seconds.toFixed(1)} s`;
  }
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

function show(group, place) {
  group.element = document.createElement("article");
  group.element.className = "group";
  const head = document.createElement("header");
  const title = document.createElement("h2");
  title.textContent = group.title;
  const time = document.createElement("small");
  time.className = "hint";
  head.append(title, time);
  const tiles = document.createElement("div");
  tiles.className = "tiles";
  group.start.labels.forEach((label, index) => {
    const tile = document.createElement("button");
    tile.type = "button";
    tile.className = "tile";
    tile.setAttribute("aria-pressed", "false");
    const caption = document.createElement("span");
    caption.textContent = `${className(label)} · ${group.start.first_image + index}`;
    tile.append(document.createElement("canvas"), caption);
    tile.addEventListener("click", () => {
      choose(group, index);
      // Where the panel is below the images, go there.
      const panel = document.getElementById("watch");
      if (panel.offsetTop > group.element.offsetTop + group.element.offsetHeight) panel.scrollIntoView();
    });
    tiles.append(tile);
  });
  group.element.append(head, tiles);
  place.prepend(group.element);
  store.groups.unshift(group);
  for (const old of store.groups.splice(MOST_GROUPS)) old.element.remove();
}

function draw(group) {
  group.element.querySelectorAll("canvas").forEach((canvas, index) =>
    drawStep(canvas, group, index, group.steps.length - 1));
}

on("chosen", () => {
  for (const group of store.groups) {
    group.element.querySelectorAll(".tile").forEach((tile, index) => {
      const is = store.chosen?.group === group && store.chosen.index === index;
      tile.setAttribute("aria-pressed", is);
    });
  }
});
on("theme", () => store.groups.forEach(draw));
on("model", () => {
  stop();
  for (const group of store.groups.splice(0)) group.element.remove();
  store.chosen = null;
  emit("chosen");
});
for (const button of document.querySelectorAll(".stop")) button.addEventListener("click", stop);
