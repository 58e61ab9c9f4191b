"use strict";
for (const data of document.querySelectorAll("script[data-figure]")) {
  const figure = JSON.parse(data.textContent);
  const ink = getComputedStyle(document.body).getPropertyValue("--soft").trim();
  figure.layout.font = Object.assign({}, figure.layout.font, { color: ink });
  figure.layout.hoverlabel = { namelength: -1 };
  Plotly.newPlot(data.dataset.figure, figure.data, figure.layout, { responsive: true, displaylogo: false });
}
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    let ascending = false;
    cell.addEventListener("click", () => {
      ascending = !ascending;
      const value = (row) => JSON.parse(row.cells[column].dataset.v);
      const sorted = [...body.rows].sort((a, b) => {
        const x = value(a), y = value(b);
        const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return ascending ? order : -order;
      });
      body.append(...sorted);
    });
  });
}
