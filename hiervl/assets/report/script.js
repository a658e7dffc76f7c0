"use strict";
// Tables: a click on a heading sorts by its column, another one the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((heading, column) => {
    const button = heading.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        const [p, q] = [parseFloat(x), parseFloat(y)];
        const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
        return descending ? -order : order;
      });
      body.append(...rows);
    });
  });
}
// Pictures: the slider fades from one to the next.
for (const viewer of document.querySelectorAll(".viewer")) {
  const pictures = viewer.querySelectorAll(".stack img");
  const slider = viewer.querySelector("input");
  const show = () => {
    const at = parseFloat(slider.value);
    pictures.forEach((picture, index) => {
      picture.style.opacity = index === 0 ? 1 : Math.min(1, Math.max(0, at - index + 1));
    });
  };
  slider.addEventListener("input", show);
  show();
}
