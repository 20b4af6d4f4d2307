"use strict";
// Sorts a table by a click, Enter or Space on a heading. Without this script every table is there, in its own order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((heading, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    const read = (row) => {
      const cell = row.cells[index];
      const text = cell.dataset.value ?? cell.textContent.trim();
      const number = parseFloat(text.replace("\u2212", "-"));
      return heading.classList.contains("number") ? (Number.isNaN(number) ? null : number) : text;
    };
    button.addEventListener("click", () => {
      const order = { none: "descending", descending: "ascending", ascending: "none" };
      const next = order[heading.getAttribute("aria-sort") ?? "none"];
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      const sign = next === "ascending" ? 1 : -1;
      const compare = (a, b) => {
        const [left, right] = [read(a), read(b)];
        if (left === null || right === null) return (left === null) - (right === null);
        return sign * (typeof left === "number" ? left - right : left.localeCompare(right));
      };
      body.append(...(next === "none" ? original : [...original].sort(compare)));
      if (next !== "none") heading.setAttribute("aria-sort", next);
    });
  });
}
// A printed page has nothing to unfold.
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open])")];
  for (const details of unfolded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of unfolded) details.open = false;
});
