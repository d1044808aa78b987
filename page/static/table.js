// Tables: of rows, and of two axes.

import { element } from "./store.js";

/** Make a row of cells; each is a text or an element. */
export function row(tag, contents) {
  return element("tr", {}, ...contents.map((content) => element(tag, {}, content)));
}

/** Make a table of two axes by name and values; `contentAt` makes the content for a value of each. */
export function crossTable(x, across, y, down, contentAt) {
  const head = row("th", across.map((value) => `${x} ${value}`));
  head.prepend(element("td"));
  const table = element("table", { className: "cross" }, head);
  for (const below of down) {
    const line = below === null ? row("td", [""]) : row("th", [`${y} ${below}`]);
    line.append(...across.map((right) => element("td", {}, contentAt(right, below))));
    table.append(line);
  }
  return table;
}
