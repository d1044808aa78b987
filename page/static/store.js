// What the views share: the model, the form's values, the images that were made, the chosen one.
// The values of the form survive a reload; archive.js keeps images.

const KEY = "maskgit";
const listeners = {};

export const store = {
  page: null, // models and settings, as the server describes them
  model: null, // the chosen one, described
  sampling: {}, // values by name
  begun: null, // the values of `sampling` that the form began with for this model
  series: {},
  editing: {},
  labels: [],
  tour: 0, // the step at which it goes on
  touring: false,
  watched: {}, // under Training
  groups: [], // of the model, newest first
  chosen: null, // { group, index }
  ...JSON.parse(sessionStorage.getItem(KEY) ?? "{}"),
};
// Without a choice the newest run is shown.
store.watched = { stage: "maskgit", runs: null, unit: "step", isLog: false, smoothing: 0, ...store.watched };

export function keep() {
  const { sampling, begun, series, editing, labels, watched, tour, modelId } = store;
  sessionStorage.setItem(KEY, JSON.stringify({ sampling, begun, series, editing, labels, watched, tour, modelId }));
}

export const id = (name) => document.getElementById(name);

/** Make an element with properties and contents. */
export function element(tag, properties = {}, ...contents) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...contents);
  return made;
}

/**
 * Listen to "model", "values", "chosen", "edit" (it is taken), "group" (its images changed),
 * "replaced" (the model's file), "open" (a model, and call back), "dropped" (a file), "easel" (has
 * another original), "tool" (of the easel), "laid" (something in place of the original), "kept"
 * (groups of earlier visits are here) or "theme".
 */
export function on(what, listener) {
  (listeners[what] ??= []).push(listener);
}

export function emit(what, ...details) {
  for (const listener of listeners[what] ?? []) listener(...details);
}

/** Whether the model that made a group is the one that is open. */
export const isOpen = ({ model }) => model.version === store.model.version;

export function choose(group, index) {
  store.chosen = { group, index };
  emit("chosen");
}

export function className(label, model = store.model) {
  return model.classes[label] ?? "no class";
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => emit("theme"));
