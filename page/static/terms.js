// What the words on the page mean, in one sentence each, and the "?" that shows it.

import { element } from "./store.js";

const TERMS = {
  class: "What the image should show; the model learned these classes from the labels of its training images.",
  seed: "The start of all random numbers: with the same seed, class and settings an image is always the same.",
  "new seed": "The same seed and settings make the same images, so each press takes a new one, unless you keep it.",
  variant: "One of several versions of the edited image; only their random numbers differ.",
  decoding: "An image is a grid of tokens; each step predicts all hidden ones and keeps some, until none is hidden.",
  confidence: "The probability of a token when it was revealed; in a hidden cell, of the one that it would take now.",
  cell: "The five likeliest tokens of this cell at the step that decided; take another, and the rest is made again.",
  plan: "How many tokens each step reveals; early steps reveal few, while little is known.",
  branch: "Keeps what is known at this step and decodes the rest again, with another seed or class.",
  beside: "All images of the group with the same seed, each beside its first version, and the difference on black.",
  grid: "The chosen image with every pair of values, separated by commas; each has a command of its own.",
  command: "Type this in the program's folder and it makes the same image again, bit for bit, on this machine.",
  nearest: "The training images with most tokens in common, as the tokenizer shows them; nearly all: memorized.",
  outpainting: "Move the image: what comes into the frame from outside is hidden and regenerated.",
  loss: "How wrong the model is about hidden tokens while it trains: the mean cross-entropy, lower is better.",
  "validation loss": "The loss on images that the model does not train on, always with the same tokens hidden.",
  divergence: "How far a student's images are from its teacher's, as an auxiliary model sees it; lower is better.",
  accuracy: "The share of hidden tokens that the model guesses exactly, by the share of the image that is hidden.",
  "learning rate": "How far each step of the training moves the weights; it warms up and then falls.",
  speed: "Images that the training reads per second.",
  number: "A number that the training writes, as it names it in its file.",
  differences: "The options of the chosen runs in which at least two of them differ.",
  preview: "Samples that the training draws with the same seeds from time to time.",
  reconstruction: "Images of the dataset, and beside each the same image encoded and decoded by the tokenizer.",
  sweep: "Sampling settings compared: every combination is scored, and the lowest FID is the best.",
};

const tip = document.getElementById("tip");
let owner = null;

function hide() {
  tip.hidden = true;
  owner?.removeAttribute("aria-describedby");
  owner = null;
}

function show(button, text) {
  hide();
  owner = button;
  tip.textContent = text;
  tip.hidden = false;
  button.setAttribute("aria-describedby", "tip");
  const place = button.getBoundingClientRect();
  const left = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 16);
  tip.style.left = `${Math.max(16, left) + scrollX}px`;
  tip.style.top = `${place.bottom + 8 + scrollY}px`;
}

/** Make the "?" of a word; `text` is needed where TERMS has none. */
export function why(word, text = TERMS[word]) {
  const button = element("button", { type: "button", className: "why" }, "?");
  button.setAttribute("aria-label", `What does “${word}” mean?`);
  button.addEventListener("click", () => (owner === button ? hide() : show(button, text)));
  return button;
}

for (const place of document.querySelectorAll("[data-term]")) place.append(why(place.dataset.term));
document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
document.addEventListener("click", (event) => event.target !== owner && hide());
