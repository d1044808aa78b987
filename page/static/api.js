// Talks with the server. Every error ends up as one line in the message bar.

import { emit, id, store } from "./store.js";

const bar = id("message");
const TAB = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(16)).join("");

bar.querySelector("button").addEventListener("click", () => tell(""));

/** Show a message, or hide the bar with an empty one. */
export function tell(text) {
  bar.querySelector("span").textContent = text;
  bar.hidden = !text;
}

/** Run an action of the user; an error is shown, and the result is undefined. */
export async function attempt(action) {
  tell("");
  try {
    return await action();
  } catch (error) {
    if (error.status === 409) emit("replaced");
    else if (error.name !== "AbortError") tell(error.message);
  }
}

/** Wait for something of the server, and say it in the same words if it breaks off. */
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
}

async function answered(path, options) {
  const answer = await reached(fetch(path, options));
  if (answer.ok) return answer;
  const text = await answer.text();
  let message = text;
  try {
    message = JSON.parse(text).message;
  } catch {
    // The guard answers with a plain line.
  }
  const error = new Error(message || `The server answered ${answer.status}.`);
  throw Object.assign(error, { status: answer.status });
}

/** The address of something of the chosen model, as the page knows it. */
export function ofModel(what) {
  return `api/models/${store.model.id}/${what}?version=${store.model.version}`;
}

export async function getJson(path) {
  return (await answered(path)).json();
}

/** Open a model: what the server says about its file. */
export const openModel = (id) => getJson(`api/models/${id}`);

/** Send a file; returns the answer. */
export async function upload(path, file) {
  return (await answered(path, { method: "POST", body: file })).json();
}

/** Send a request about the chosen model. */
function post(path, request, signal) {
  return answered(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ tab: TAB, model: store.model.id, version: store.model.version, ...request }),
    signal,
  });
}

export async function askJson(path, request) {
  return (await post(path, request)).json();
}

/** Ask the chosen model for a decoding; `onEvent` gets every server-sent event. A newer one of this tab ends it. */
export async function decode(request, onEvent, signal) {
  const answer = await post("api/decode", request, signal);
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { value, done } = await reached(reader.read());
    if (done) throw new Error("The server ended before the images were finished.");
    text += decoder.decode(value, { stream: true });
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = JSON.parse(event.slice(event.indexOf("\ndata: ") + 7));
      if (data.event === "failed") throw new Error(data.message);
      if (data.event === "ended") throw new Error(`Ended: ${data.reason}.`);
      await onEvent(data);
      if (data.event === "done") return;
    }
  }
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Read numbers of four bytes that come as the first byte of all, the second of all, and so on. */
export function fromByteByByte(text, Numbers) {
  const bytes = fromBase64(text);
  const count = bytes.length / 4;
  return new Numbers(bytes.map((_, i) => bytes[(i % 4) * count + (i >> 2)]).buffer);
}

/** The file of a picture that the server has sent. */
export function fileOf(text, type = "png") {
  return new Blob([fromBase64(text)], { type: `image/${type}` });
}

export function toBase64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  }
  return btoa(text);
}
