// Looks through the variants on the easel: hold to compare, accept one, reject the others.

import { attempt } from "./api.js";
import { drawStep } from "./draw.js";
import { drawOriginal, easel, isLaid, keep, lay, draw } from "./easel.js";
import { tellRejected } from "./groups.js";
import { choose, emit, id, on, store } from "./store.js";

const bar = id("review");
let index = 0; // of the variant
let isHeld = false; // the original is shown

const variant = {
  isWhole: true, // no cell of it can be chosen
  draw(context) {
    const { canvas } = context;
    const group = reviewed();
    if (isHeld || !group) drawOriginal(context);
    else drawStep(canvas, group, index, group.steps.length - 1, "image", Math.max(canvas.width, canvas.height));
  },
  state: () => (isHeld ? "The original" : "Press the image, or hold space, to see the original."),
  press: () => hold(true),
  release: () => hold(false),
  key: ({ key }) => key === " " && (hold(true), true),
};

/** The group that is looked through; undefined if it is gone, or not finished. */
function reviewed() {
  return store.groups.find(({ key, files }) => key === easel.reviewed && files.length);
}

/** Begin to look through the variants of the original. */
export function review(group) {
  if (!group.files.length || group.original !== easel.original?.file) return;
  easel.reviewed = group.key;
  show(left(group)[0]);
  keep();
}

/** The variants that are not rejected. */
function left({ files, rejected }) {
  return files.map((_, i) => i).filter((i) => !rejected.includes(i));
}

function show(wanted) {
  const group = reviewed();
  if (!group) return update();
  index = wanted;
  lay(variant);
  if (store.chosen?.group !== group || store.chosen.index !== index) choose(group, index);
  update();
}

function hold(is) {
  if (is && !isLaid(variant)) show(index);
  isHeld = is;
  id("hold").setAttribute("aria-pressed", is);
  draw();
}

function accept() {
  const group = reviewed();
  show(index);
  emit("edit", { group, index });
}

function reject() {
  const group = reviewed();
  const isBack = group.rejected.includes(index);
  group.rejected = isBack ? group.rejected.filter((one) => one !== index) : [...group.rejected, index];
  tellRejected(group);
  if (isBack) return show(index);
  const ones = left(group);
  if (ones.length) return show(ones.find((i) => i > index) ?? ones[0]);
  // The same seed would make the same ones again.
  [id("edit-seed").value] = crypto.getRandomValues(new Uint32Array(1));
  lay(null);
  update();
}

function update() {
  const group = reviewed();
  bar.hidden = !group;
  if (!group) return isLaid(variant) && lay(null);
  const isRejected = group.rejected.includes(index);
  const name = `Variant ${index + 1} of ${group.files.length}${isRejected ? ", rejected" : ""}`;
  id("reviewed").textContent = left(group).length ? name : "All are rejected; the seed is a new one.";
  id("reject").textContent = isRejected ? "Take back" : "Reject";
}

id("accept").addEventListener("click", () => attempt(accept));
id("reject").addEventListener("click", reject);
id("hold").addEventListener("pointerdown", () => hold(true));
for (const name of ["pointerup", "pointerleave", "pointercancel", "blur", "keyup"]) {
  id("hold").addEventListener(name, () => isHeld && hold(false));
}
id("hold").addEventListener("keydown", (event) => {
  if (event.key === " " || event.key === "Enter") hold(true);
});
on("chosen", () => {
  const { group, index: wanted } = store.chosen ?? {};
  if (group && group === reviewed() && !(isLaid(variant) && wanted === index)) show(wanted);
  else update();
});
for (const event of ["easel", "kept"]) {
  on(event, () => {
    const group = reviewed();
    [index, isHeld] = [(group && left(group)[0]) ?? 0, false];
    update();
  });
}
