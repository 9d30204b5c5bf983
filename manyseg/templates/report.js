"use strict";
// The page is complete without this script; it adds read-outs under the pointer, sorting, and the overlay's strength.

for (const chart of document.querySelectorAll(".chart")) {
  const { series, along, first, last, left, right, percent } = JSON.parse(chart.querySelector("script").textContent);
  const svg = chart.querySelector("svg"), cursor = chart.querySelector(".cursor"), box = chart.querySelector(".readout");
  const say = (y) => (y === null ? "–" : percent ? (100 * y).toFixed(1) : y.toPrecision(4));
  svg.addEventListener("pointermove", (event) => {
    const scale = svg.viewBox.baseVal.width / svg.clientWidth;
    const at = (event.offsetX * scale - left) / (right - left) * (last - first) + first;
    const near = (xs) => xs.reduce((best, x, i) => (Math.abs(x - at) < Math.abs(xs[best] - at) ? i : best), 0);
    const x = series[0].x[near(series[0].x)];
    const place = left + (x - first) / (last - first) * (right - left);
    cursor.setAttribute("x1", place); cursor.setAttribute("x2", place);
    box.textContent = [`${along} ${Math.round(x)}`, ...series.map((s) => `${say(s.y[near(s.x)])}  ${s.name}`)].join("\n");
    box.hidden = false;
    box.style.left = `${Math.min(place / scale + 12, svg.clientWidth - box.offsetWidth)}px`;
  });
  svg.addEventListener("pointerleave", () => { box.hidden = true; cursor.setAttribute("x1", -9); cursor.setAttribute("x2", -9); });
}

for (const heat of document.querySelectorAll(".heat")) {
  const names = JSON.parse(heat.querySelector("script").textContent), svg = heat.querySelector("svg");
  const { cell, margin } = svg.dataset, [row, column] = heat.querySelectorAll(".cross"), out = heat.nextElementSibling;
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const picture = new Image();
  picture.onload = () => { canvas.canvas.width = canvas.canvas.height = names.length; canvas.drawImage(picture, 0, 0); };
  picture.src = heat.querySelector("image").getAttribute("href");
  svg.addEventListener("pointermove", (event) => {
    const j = Math.floor((event.offsetX - margin) / cell), i = Math.floor((event.offsetY - margin) / cell);
    if (!(i in names) || !(j in names)) return;
    row.setAttribute("y", +margin + i * cell); column.setAttribute("x", +margin + j * cell);
    const share = 100 * (canvas.getImageData(j, i, 1, 1).data[3] / 255) ** 2;
    out.textContent = `${share.toFixed(share < 1 ? 2 : 1)} % of ${names[i]} is called ${names[j]}`;
  });
}

for (const head of document.querySelectorAll("th[aria-sort]")) {
  const sort = () => {
    const table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") === "descending";
    for (const other of head.parentNode.children) if (other.ariaSort) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (tr) => tr.cells[head.cellIndex].dataset.value ?? tr.cells[head.cellIndex].textContent;
    const order = (a, b) => (isNaN(a) || isNaN(b) ? String(a).localeCompare(String(b)) : a - b) * (up ? 1 : -1);
    body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
  };
  head.tabIndex = 0;
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); } });
}

document.querySelector("#opacity")?.addEventListener("input", (event) =>
  document.querySelector("#samples").style.setProperty("--opacity", event.target.value / 100));

const unfold = () => { const target = document.getElementById(decodeURIComponent(location.hash.slice(1))); if (target?.open === false) target.open = true; };
addEventListener("hashchange", unfold);
unfold();
