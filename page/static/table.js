// Tables: of rows, and of two axes.

/** Make a cell, or another element; `content` is a text or an element, or nothing. */
export function cell(tag, content = "") {
  const made = document.createElement(tag);
  if (content !== null) made.append(content);
  return made;
}

/** Make a row of cells. */
export function row(tag, contents) {
  const made = document.createElement("tr");
  made.append(...contents.map((content) => cell(tag, content)));
  return made;
}

/** Make a table of two axes by name and values; `contentAt` makes the content for a value of each. */
export function crossTable(x, across, y, down, contentAt) {
  const table = document.createElement("table");
  table.className = "cross";
  const head = row("th", across.map((value) => `${x} ${value}`));
  head.prepend(cell("td"));
  table.append(head);
  for (const below of down) {
    const line = below === null ? row("td", [""]) : row("th", [`${y} ${below}`]);
    line.append(...across.map((right) => cell("td", contentAt(right, below))));
    table.append(line);
  }
  return table;
}
