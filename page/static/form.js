// Fields of a form, made from the descriptions that the server sends.

import { element, emit, id, keep, on, store } from "./store.js";
import { why } from "./terms.js";

// The page's own names for some options.
const TITLES = {
  count: "Images", seed: "Seed", first_image: "First image", grow: "Grow by cells", keep_decoded: "Keep decoded pixels",
};
let made = 0;

/** Make a field for a value in `values`. */
function field(description, values) {
  const label = element("label", {}, TITLES[description.name] ?? description.title);
  const input = control(description);
  input.id = label.htmlFor = `field-${++made}`;
  input.name = description.name;
  show(input, values[description.name]);
  input.addEventListener("input", () => {
    if (!input.checkValidity()) return;
    values[description.name] = valueOf(input, description);
    keep();
    emit("values", input);
  });
  on("values", (from) => from !== input && show(input, values[description.name]));
  const ask = description.help.replace(/\s*\[.*\]$/, "");
  const help = why(label.textContent, `${ask[0].toUpperCase()}${ask.slice(1)}.`);
  return element("div", { className: "field" }, label, help, input);
}

/** Make the field of a setting. */
export function control(description) {
  if (description.kind === "choice") {
    return element("select", {}, ...description.choices.map((choice) => new Option(choice, choice)));
  }
  const input = element("input", { type: { switch: "checkbox", numbers: "text" }[description.kind] ?? "number" });
  if (description.kind === "numbers") {
    const number = "\\s*[0-9]*\\.?[0-9]+\\s*";
    input.pattern = `${number}(,${number}){${description.length - 1}}`;
    input.title = `${description.length} numbers with a comma between them`;
    input.required = true;
  }
  if (description.kind === "number") {
    if (description.low !== null) input.min = description.low;
    if (description.high !== null) input.max = description.high;
    input.step = description.is_whole ? 1 : "any";
    input.required = description.default !== null;
    if (!input.required) input.placeholder = "none";
  }
  return input;
}

function show(input, value) {
  if (input.type === "checkbox") input.checked = value;
  else input.value = value ?? "";
}

/** Read the value of such a field. */
export function valueOf(input, description) {
  if (input.type === "checkbox") return input.checked;
  if (description.kind === "choice") return input.value;
  if (description.kind === "numbers") return input.value.split(",").map(Number);
  if (input.value === "") return null;
  const number = Number(input.value);
  // A large seed stays a text, as it would be rounded.
  return description.is_whole && !Number.isSafeInteger(number) ? input.value : number;
}

/** Add what is missing, and leave out what another version of the page kept. */
function withDefaults(values, descriptions) {
  const names = descriptions.map(({ name }) => name);
  for (const name of Object.keys(values)) if (!names.includes(name)) delete values[name];
  for (const { name, default: usual } of descriptions) values[name] ??= usual;
}

/** Fill all forms, once the server has described the settings. */
export function makeForms() {
  const { sampling, series, editing, most_images: most } = store.page;
  for (const part of ["sampling", "series", "editing"]) withDefaults(store[part], store.page[part]);
  store.series.count = Math.min(store.series.count, series[0].high = most);
  id("edit-count").max = id("branch-count").max = most;
  id("edit-seed").value = series[1].default;
  id("series").append(...series.map((one) => field(one, store.series)));
  id("editing").append(...editing.map((one) => field(one, store.editing)));
  const settings = id("settings").content;
  for (const place of document.querySelectorAll(".settings")) place.replaceWith(settings.cloneNode(true));
  for (const place of document.querySelectorAll(".sampling")) {
    place.append(...sampling.map((one) => field(one, store.sampling)));
  }
  const take = (values) => {
    Object.assign(store.sampling, values);
    keep();
    emit("values", null);
  };
  const usual = Object.fromEntries(sampling.map((one) => [one.name, one.default]));
  // A student begins with the settings that it was made for, an unguided model without guidance.
  const own = () => store.model?.usual ?? usual;
  on("model", () => {
    if (JSON.stringify(own()) !== JSON.stringify(store.begun ?? usual)) take(own());
    store.begun = own();
    keep();
  });
  for (const button of document.querySelectorAll(".reset")) button.addEventListener("click", () => take(own()));
  for (const button of document.querySelectorAll(".best")) {
    button.addEventListener("click", () => take(store.model.best));
    on("model", () => (button.hidden = !store.model.best));
  }
}

// A field that is folded away could not show what is wrong with it.
document.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);

/** Say which settings differ from the defaults, and which of them have no effect. */
export function changedSettings(sampling, { usual }, ignored = []) {
  const changed = store.page.sampling
    .filter((one) => String(sampling[one.name]) !== String(usual[one.name] ?? one.default))
    .map(({ title, name }) => `${title.slice(2)} ${sampling[name]}${ignored.includes(name) ? " (no effect)" : ""}`);
  return changed.join(", ") || "the defaults";
}

/**
 * Fill a select with texts, or pairs of a text and a value. It keeps its value if that is among
 * them, else it takes `usual` or the first one; returns whether it has changed.
 */
export function fill(select, entries, usual) {
  const before = select.value;
  const options = entries.map((entry) => [entry].flat()).map(([text, value = text]) => new Option(text, value));
  select.replaceChildren(...options);
  select.value = [before, usual, options[0]?.value].find((value) => options.some((one) => one.value === value)) ?? "";
  return select.value !== before;
}

/** Fill a select with the classes and "no class". */
export function classSelect(select, chosen, { classes, has_null: hasNull } = store.model) {
  fill(select, [...classes, ...(hasNull ? ["no class"] : [])].map((name, label) => [name, label]));
  select.value = chosen;
}

/** Let the buttons of a radiogroup choose, beginning with a value; arrows go to the next one. */
export function radios(group, name, choose, first = null) {
  const buttons = [...group.querySelectorAll("[role=radio]")];
  const select = (chosen) => {
    for (const button of buttons) {
      button.setAttribute("aria-checked", button === chosen);
      button.tabIndex = button === chosen ? 0 : -1;
    }
    choose(chosen.dataset[name]);
  };
  group.addEventListener("click", (event) => {
    const chosen = event.target.closest("[role=radio]");
    if (chosen) select(chosen);
  });
  group.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = buttons.at((buttons.indexOf(document.activeElement) + by) % buttons.length);
    next.focus();
    select(next);
  });
  select(buttons.find((button) => button.dataset[name] === first) ?? buttons[0]);
}
