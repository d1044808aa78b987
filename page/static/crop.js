// Brings photos to the easel, where one can be turned and cut before it is shrunk.

import { attempt, fileOf, ofModel, tell, upload } from "./api.js";
import { easelOf, keepEasel } from "./archive.js";
import { begin, easel, isLaid, lay } from "./easel.js";
import { ARROWS } from "./draw.js";
import { element, id, on, store } from "./store.js";

const slider = id("crop-size");
const SIDE = 512; // pixels of the longer side of a photo as it is shown
const LEAST = 8; // pixels of the photo
const REACH = 16; // pixels around a corner
const photos = new Map(); // files by the keys that originals have
let photo = null; // { key, file, image } that is being cut
let turns = 0; // to the right
let turned = null; // a canvas with the photo as it is shown
let box = null; // { left, top, width, height } in pixels of the turned photo
let drag = null; // what the pointer began

/** Put a file on the easel. */
export async function openPhoto(file) {
  if (!file) return;
  const most = store.page.most_upload;
  if (file.size > most) return tell(`The file has more than ${most >> 20} MB.`);
  const key = `${Date.now()} ${file.size}`;
  await take({ key, file });
  if (easel.original?.photo !== key) return; // it was refused
  photos.set(key, file);
  // A browser that is closed keeps the newest photo only.
  if (!store.touring) keepEasel(`${store.model.id} photo`, { key, file });
}

/** Let the server shrink a photo, or a part of it. */
function take({ key, file }, part = null) {
  return attempt(async () => {
    const query = part ? `&${new URLSearchParams(part)}` : "";
    const got = await upload(ofModel("upload") + query, file);
    const [height, width] = store.model.size;
    const size = part ? `${part.right - part.left} × ${part.bottom - part.top} of ` : "";
    const name = `Your file, ${size}${got.was.join(" × ")} pixels, brought to ${width} × ${height}`;
    await begin({ ...received(got, name), photo: key, part });
  });
}

/** Make an original of an answer. */
export function received(got, name) {
  return { file: fileOf(got.file), name, label: got.label ?? null };
}

async function open() {
  const { photo: key, part } = easel.original;
  const kept = photos.has(key) ? { key, file: photos.get(key) } : await easelOf(`${store.model.id} photo`);
  if (kept?.key !== key) return tell("This photo is not here any more: open its file again.");
  const image = new Image();
  image.src = URL.createObjectURL(kept.file);
  await image.decode();
  URL.revokeObjectURL(image.src);
  photo = { ...kept, image };
  turn(part?.turns ?? 0);
  if (part) place(part.left, part.top, part.right - part.left);
  id("canvas").focus();
}

/** Width and height of the turned photo, and the largest width of a part. */
function size() {
  const { naturalWidth: width, naturalHeight: height } = photo.image;
  const [across, down] = turns % 2 ? [height, width] : [width, height];
  return { across, down, largest: Math.min(across, down / shape()) };
}

/** Height by width that the model needs. */
function shape() {
  const [height, width] = store.model.size;
  return height / width;
}

/** Show the photo after quarter turns to the right, and its largest part in the middle. */
function turn(wanted) {
  turns = wanted % 4;
  const { across, down, largest } = size();
  const scale = SIDE / Math.max(across, down);
  const [width, height] = [Math.ceil(across * scale), Math.ceil(down * scale)];
  turned = element("canvas", { width, height });
  const context = turned.getContext("2d");
  context.fillStyle = store.model.background; // as the server has it
  context.fillRect(0, 0, width, height);
  context.translate(width / 2, height / 2);
  context.rotate((turns * Math.PI) / 2);
  context.scale(scale, scale);
  context.drawImage(photo.image, -photo.image.naturalWidth / 2, -photo.image.naturalHeight / 2);
  [slider.min, slider.max] = [Math.min(LEAST, Math.floor(largest)), Math.floor(largest)];
  place((across - largest) / 2, (down - largest * shape()) / 2, largest);
}

/** Choose the part at a place, moved and shrunk so that it is inside the photo. */
function place(left, top, wanted = box.width) {
  const { across, down, largest } = size();
  const width = Math.min(largest, Math.max(LEAST, wanted));
  const height = width * shape();
  const inside = (at, room) => Math.min(room, Math.max(0, at));
  box = { left: inside(left, across - width), top: inside(top, down - height), width, height };
  slider.value = width;
  lay(cutting);
}

/** Change the size around the middle. */
function grow(wanted) {
  const more = (wanted - box.width) / 2;
  place(box.left - more, box.top - more * shape(), wanted);
}

/** What the server is asked for: whole pixels. */
function part() {
  const { across, down } = size();
  const [left, top] = [Math.floor(box.left), Math.floor(box.top)];
  const end = (start, length, most) => Math.min(most, start + Math.max(1, Math.round(length)));
  return { turns, left, top, right: end(left, box.width, across), bottom: end(top, box.height, down) };
}

/** Where the photo is on a canvas: pixels of the canvas for one of the photo, and its corner. */
function layout(width, height) {
  const { across, down } = size();
  const scale = Math.min(width / across, height / down);
  return { scale, x: (width - across * scale) / 2, y: (height - down * scale) / 2 };
}

/** The pointer in pixels of the turned photo, and how many of them a pixel of the screen has. */
function at({ offsetX, offsetY, target }) {
  const { scale, x, y } = layout(target.clientWidth, target.clientHeight);
  return [(offsetX - x) / scale, (offsetY - y) / scale, 1 / scale];
}

const cutting = {
  isWhole: true,
  draw(context) {
    const { width, height } = context.canvas;
    const { scale, x, y } = layout(width, height);
    const { across, down } = size();
    const frame = [x + box.left * scale, y + box.top * scale, box.width * scale, box.height * scale];
    context.drawImage(turned, x, y, across * scale, down * scale);
    context.fillStyle = "rgb(0 0 0 / 60%)";
    context.beginPath();
    context.rect(0, 0, width, height);
    context.rect(...frame);
    context.fill("evenodd");
    context.lineWidth = 3;
    context.strokeStyle = context.fillStyle = "#fff";
    context.strokeRect(...frame);
    for (const right of [0, frame[2]]) {
      for (const below of [0, frame[3]]) context.fillRect(frame[0] + right - 7, frame[1] + below - 7, 14, 14);
    }
  },
  state() {
    const { across, down } = size();
    const { left, top, right, bottom } = part();
    const taken = `${right - left} × ${bottom - top} of ${across} × ${down} pixels`;
    return `${taken}. Drag the frame or a corner; keys: arrows, + and −.`;
  },
  press(_, event) {
    const [x, y, scale] = at(event);
    const { left, top, width, height } = box;
    const isNear = (at, start, length) => Math.min(Math.abs(at - start), Math.abs(at - start - length)) < REACH * scale;
    const isCorner = isNear(x, left, width) && isNear(y, top, height);
    const isInside = x > left && x < left + width && y > top && y < top + height;
    if (!isCorner && !isInside) place(x - width / 2, y - height / 2);
    drag = { isCorner, x: x - box.left, y: y - box.top };
  },
  move(event) {
    if (!drag) return;
    const [x, y] = at(event);
    if (!drag.isCorner) return place(x - drag.x, y - drag.y);
    const { left, top, width, height } = box;
    grow(2 * Math.max(Math.abs(x - left - width / 2), Math.abs(y - top - height / 2) / shape()));
  },
  release: () => (drag = null),
  key({ key }) {
    const by = Math.max(1, box.width / 16);
    const [right, down] = ARROWS[key] ?? [0, 0];
    const times = { "+": 1.1, "-": 1 / 1.1 }[key];
    if (right || down) place(box.left + right * by, box.top + down * by);
    else if (times) grow(box.width * times);
    return right || down || times;
  },
};

slider.addEventListener("input", () => grow(Number(slider.value)));
id("turn").addEventListener("click", () => turn(turns + 1));
id("crop").addEventListener("click", () => attempt(open));
id("crop-cancel").addEventListener("click", () => lay(null));
id("crop-take").addEventListener("click", () => take(photo, part()));
on("easel", () => (id("crop").disabled = !easel.original?.photo));
on("laid", () => (id("cropper").hidden = !isLaid(cutting)));
