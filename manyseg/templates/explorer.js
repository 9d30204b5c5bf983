"use strict";
// The table is complete without this script. It adds search, order, highlighting, and the evidence behind a node.
// Text from the data only ever goes through textContent, never through HTML.

const data = JSON.parse(document.querySelector("#data").textContent);
const search = document.querySelector("#search"), show = document.querySelector("#show"), order = document.querySelector("#order");
const body = document.querySelector("#lanes").tBodies[0];
const rows = [...body.rows];
const rowOf = new Map(rows.map((row) => [+row.dataset.node, row]));
const named = new Map(data.nodes.map(([name], node) => [name, node]));
const button = (row) => row.querySelector("button");
const fold = (text) => text.toLowerCase().normalize("NFKD");
const texts = new Map(rows.map((row) => [row, fold([button(row), ...row.querySelectorAll(".class")].map((e) => e.title || e.textContent).join("\n"))]));
const chips = new Map();
for (const chip of body.querySelectorAll(".class")) chips.set(chip.dataset.class, [...(chips.get(chip.dataset.class) ?? []), chip]);

const nodesOf = data.classes.map(() => []);
data.nodes.forEach(([, members], node) => members.forEach((member) => nodesOf[member].push(node)));
const known = data.classes.map(() => new Map());
for (const [a, b, kind, score, evidence] of data.relations) {
  // Evidence has a direction (a is called b), so a relation is always shown from its own first class.
  const relation = { a, b, kind, score, evidence };
  known[a].set(b, relation);
  known[b].set(a, relation);
}
const signs = { equal: "=", "part of": "⊂", contains: "⊃", overlaps: "∩", unrelated: "≠" };

// Small builders.

function make(tag, className = "", ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content);
  return element;
}
function draw(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}
function table(heads, lines) {
  const head = make("tr", "", ...heads.map((text) => make("th", "", text)));
  const out = make("table", "", make("thead", "", head), make("tbody", "", ...lines.map((cells) => make("tr", "", ...cells.map((c) => make("td", "", c))))));
  return make("div", "scroll", out);
}
function label(member) {
  const [set, name, description] = data.classes[member];
  const out = make("span", "", make("span", "soft", data.datasets[set] + " "), name);
  out.title = description;
  return out;
}
function link(node) {
  const out = make("a", "", data.nodes[node][0]);
  out.href = "#" + new URLSearchParams({ node: data.nodes[node][0] });
  return out;
}

// What stands behind one node.

const PAIRS = ["class", "is", "class", "score", "evidence", "the second is, to the first"];

function relationCells({ a, b, kind, score, evidence }) {
  const bar = make("i");
  bar.style.width = `${100 * Math.min(1, Math.max(0, score ?? 0))}%`;
  const reasons = Object.entries(evidence).map(([source, value]) => `${source}: ${value ?? "—"}`).join(" · ");
  const sign = make("span", "kind", make("b", "", signs[kind] ?? "?"), " " + kind);
  const line = make("span", "replies", ...REPLIES.slice(0, 4).map(([name, mark_, , words]) => Object.assign(make("button", "reply", mark_), { type: "button", value: name, title: words })));
  line.dataset.pair = `${a} ${b}`;
  mark(line);
  return [label(a), sign, label(b), make("span", "kind", make("span", "meter", bar), score === null ? "—" : score.toFixed(2)), reasons, line];
}

function inside(members) {
  return members.flatMap((a, i) => members.slice(i + 1).map((b) => {
    if (known[a].has(b)) return relationCells(known[a].get(b));
    if (data.classes[a][0] === data.classes[b][0]) return [label(a), make("span", "kind", make("b", "", "!"), " same dataset"), label(b), "", "", ""];
    return [label(a), make("span", "soft", "nothing on record"), label(b), "", "", ""];
  }));
}

function outside(members) {
  return members.flatMap((a) => [...known[a]].filter(([b, { kind }]) => !members.includes(b) && kind !== "unrelated")
    .sort((x, y) => y[1].score - x[1].score).slice(0, 6)
    .map(([b, relation]) => {
      const nodes = make("span");
      nodesOf[b].slice(0, 4).forEach((node, i) => nodes.append(i ? ", " : "", link(node)));
      return [...relationCells(relation), nodes];
    }));
}

// The node's surroundings as two columns: classes of its members' nodes left, these nodes right.
function picture(own, members) {
  const nodes = [...new Set(members.flatMap((m) => nodesOf[m]))].sort((a, b) => a - b);
  const classes = [...new Set(nodes.flatMap((n) => data.nodes[n][1]))].sort((a, b) => a - b);
  const step = 19, height = step * Math.max(nodes.length, classes.length) + 8;
  const y = (i, n) => 4 + (i + 0.5) * (height - 8) / n;
  const svg = draw("svg", { class: "picture", width: 560, height, role: "img", "aria-label": `${classes.length} classes and ${nodes.length} nodes around ${data.nodes[own][0]}` });
  classes.forEach((c, i) => nodesOf[c].forEach((n) => {
    if (!nodes.includes(n)) return;
    const from = y(i, classes.length), to = y(nodes.indexOf(n), nodes.length);
    svg.append(draw("path", { class: `c${data.classes[c][0] % 8}${n === own ? " own" : ""}`, d: `M272 ${from}C322 ${from} 322 ${to} 372 ${to}` }));
  }));
  classes.forEach((c, i) => {
    const text = draw("text", { x: 266, y: y(i, classes.length) + 4, "text-anchor": "end" });
    text.append(draw("tspan", { class: "soft" }, data.datasets[data.classes[c][0]] + " "), draw("tspan", { class: members.includes(c) ? "own" : "" }, data.classes[c][1]));
    svg.append(text);
  });
  nodes.forEach((n, i) => svg.append(draw("text", { x: 379, y: y(i, nodes.length) + 4, class: n === own ? "own" : "" }, data.nodes[n][0])));
  return svg;
}

function detail(node) {
  const [name, members] = data.nodes[node], box = make("div", "inside");
  const part = (title, content) => box.append(make("section", "", make("h3", "", title), content));
  const pairs = inside(members), near = outside(members);
  if (members.length > 1 || members.some((m) => nodesOf[m].length > 1)) part("Classes and nodes around it", picture(node, members));
  if (pairs.length) part("Why these are one", table(PAIRS, pairs));
  else part("Members", make("p", "", label(members[0]), " alone: no other class was merged with it."));
  if (near.length) part("Related, but not merged", table([...PAIRS, "where"], near));
  const seen = members.filter((m) => data.crops[m]);
  if (seen.length) part("Examples", make("div", "crops", ...seen.map((m) => make("figure", "", make("figcaption", "", label(m)), ...data.crops[m].map((uri) => {
    const image = make("img");
    image.src = uri;
    image.alt = `example of ${data.classes[m][1]}`;
    return image;
  })))));
  const cell = make("td", "", box), row = make("tr", "detail", cell);
  cell.colSpan = rows[0].cells.length;
  row.id = `detail-${node}`;
  row.setAttribute("aria-label", `evidence for ${name}`);
  return row;
}

const opened = (row) => row.nextElementSibling?.classList.contains("detail") ? row.nextElementSibling : null;
function toggle(row, open = !opened(row)) {
  if (open === Boolean(opened(row))) return;
  if (open) row.after(detail(+row.dataset.node)); else opened(row).remove();
  button(row).setAttribute("aria-expanded", open);
  if (open) button(row).setAttribute("aria-controls", opened(row).id); else button(row).removeAttribute("aria-controls");
}

// Search, order, address. The state is in the address, so that a link shows what its sender saw.

const fits = {
  all: () => true,
  shared: (row) => row.dataset.sets > 1,
  single: (row) => row.dataset.sets < 2,
  several: (row) => row.querySelector(".class b") !== null,
  conflict: (row) => row.classList.contains("conflict"),
  change: (row) => row.dataset.change !== undefined,
};
const keys = {
  group: (row) => +row.dataset.group,
  index: (row) => +row.dataset.node,
  name: (row) => fold(button(row).textContent),
  weakest: (row) => +(row.dataset.weakest ?? 2),
};
const visible = () => [...body.rows].filter((row) => row.classList.contains("node") && !row.hidden);

function sort() {
  const key = new Map(rows.map((row) => [row, keys[order.value](row)]));
  const sorted = [...rows].sort((a, b) => (key.get(a) < key.get(b) ? -1 : key.get(a) > key.get(b) ? 1 : 0));
  body.append(...sorted.flatMap((row) => [row, opened(row)].filter(Boolean)));
  filter();
}

function filter() {
  const words = fold(search.value).split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    row.hidden = !(fits[show.value](row) && words.every((word) => texts.get(row).includes(word)));
    if (opened(row)) opened(row).hidden = row.hidden;
    count += !row.hidden;
  }
  document.querySelector("#count").textContent = count === rows.length ? `${count} nodes` : `${count} of ${rows.length} nodes`;
  document.querySelector("#nothing").hidden = count > 0;
  unfold(BATCH);
  join();
  const shown = visible();
  if (shown.length && !shown.some((row) => button(row).tabIndex === 0)) rove(shown[0], false);
}

// Of a long table only the first rows are laid out; the next ones follow when somebody scrolls or moves to them.
const BATCH = 200, frame = document.querySelector(".lanes-frame");
let laidOut = BATCH;
function unfold(count) {
  laidOut = count;
  visible().forEach((row, i) => {
    row.classList.toggle("later", i >= laidOut);
    opened(row)?.classList.toggle("later", i >= laidOut);
  });
}
function unfoldTo(row) {
  if (row.classList.contains("later")) unfold(visible().indexOf(row) + BATCH);
}
frame.addEventListener("scroll", () => {
  if (frame.scrollTop + 2 * frame.clientHeight > frame.scrollHeight && body.querySelector(".later:not([hidden])")) unfold(laidOut + BATCH);
});

// A class of several nodes is one box over the rows that stand together.
function join() {
  const shown = visible();
  const has = (row, chip) => row !== undefined && row.querySelector(`[data-class="${chip.dataset.class}"]`) !== null;
  shown.forEach((row, i) => {
    for (const mark of row.querySelectorAll(".class b")) {
      const chip = mark.parentElement;
      const alone = chip.parentElement.childElementCount === 1;
      chip.classList.toggle("up", alone && !opened(shown[i - 1] ?? row) && has(shown[i - 1], chip));
      chip.classList.toggle("down", alone && !opened(row) && has(shown[i + 1], chip));
    }
  });
}

function rove(row, focus = true) {
  unfoldTo(row);
  for (const other of rows) button(other).tabIndex = other === row ? 0 : -1;
  if (focus) { button(row).focus(); row.scrollIntoView({ block: "nearest" }); }
}

function reveal(node) {
  const row = rowOf.get(node);
  if (row.hidden) { search.value = ""; show.value = "all"; filter(); }
  toggle(row, true);
  join();
  rove(row);
  row.scrollIntoView({ block: "center" });
}

function readAddress() {
  const state = new URLSearchParams(location.hash.slice(1));
  if (state.has("q") || state.has("show")) { search.value = state.get("q") ?? ""; show.value = state.get("show") in fits ? state.get("show") : "all"; }
  filter();
  if (named.has(state.get("node"))) reveal(named.get(state.get("node")));
}
function writeAddress() {
  const state = new URLSearchParams();
  if (search.value) state.set("q", search.value);
  if (show.value !== "all") state.set("show", show.value);
  history.replaceState(null, "", state.size ? `#${state}` : location.pathname);
}

// What people do.

for (const input of [search, show]) input.addEventListener("input", () => { filter(); writeAddress(); });
order.addEventListener("input", sort);
addEventListener("hashchange", readAddress);

body.addEventListener("click", (event) => {
  const row = event.target.closest("tr.node");
  if (!row || getSelection().toString()) return;
  toggle(row);
  join();
  rove(row);
});

body.addEventListener("keydown", (event) => {
  const shown = visible(), at = shown.indexOf(event.target.closest("tr.node"));
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 15, PageUp: at - 15, Home: 0, End: shown.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  rove(shown[Math.min(Math.max(to, 0), shown.length - 1)]);
});
search.addEventListener("keydown", (event) => {
  if ((event.key === "ArrowDown" || event.key === "Enter") && visible().length) { event.preventDefault(); rove(visible()[0]); }
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== search) { event.preventDefault(); search.focus(); search.select(); }
  if (event.key !== "Escape") return;
  const row = event.target.closest?.("tr.node");
  if (row && opened(row)) { toggle(row, false); join(); } else { search.value = ""; filter(); writeAddress(); search.focus(); }
});

// Members of the row, or the class, under pointer or focus: shown wherever else they are.
function highlight(event) {
  for (const old of body.querySelectorAll(".kin")) old.classList.remove("kin");
  const chip = event.target.closest?.(".class"), row = event.target.closest?.("tr.node");
  for (const source of chip ? [chip] : row ? row.querySelectorAll(".class") : []) {
    for (const same of chips.get(source.dataset.class)) { same.classList.add("kin"); same.closest("tr").classList.add("kin"); }
  }
}
for (const kind of ["pointerover", "focusin"]) body.addEventListener(kind, highlight);
body.addEventListener("pointerleave", highlight);
