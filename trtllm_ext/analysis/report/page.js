"use strict";
// A table is sorted by the column whose head is pressed: numbers as numbers, texts by the reader's language; what has no
// value stays last.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[column];
      return { row, number: cell.dataset.value === undefined ? NaN : Number(cell.dataset.value), text: cell.textContent };
    });
    const compare = (a, b) => {
      const one = !Number.isNaN(a.number), other = !Number.isNaN(b.number);
      if (one !== other) return one ? -1 : 1;
      if (!one && (a.text === "") !== (b.text === "")) return a.text === "" ? 1 : -1;
      const order = one ? a.number - b.number : a.text.localeCompare(b.text, undefined, { numeric: true });
      return descending ? -order : order;
    };
    keyed.sort(compare);
    body.append(...keyed.map((each) => each.row));
  }));
}
