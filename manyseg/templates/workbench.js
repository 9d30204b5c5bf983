// The workbench: what to look at first, what a person decides, undo, and the files that come out.
// A decision is kept as [class, other class, reply]; the reply says what the other class is to the first.

const REPLIES = [
  ["same", "=", "y", "the same"], ["part", "⊃", "p", "a part of it"], ["whole", "⊂", "w", "holds it"],
  ["none", "≠", "n", "neither"], ["unknown", "?", "?", "don't know"],
];
const decisions = new Map(), past = [], first = [];
data.classes.forEach(([set], i) => { first[set] ??= i; });
const keyOf = (a, b) => (a < b ? `${a} ${b}` : `${b} ${a}`);
for (const [a, b, reply] of data.decided) decisions.set(keyOf(a, b), [a, b, reply]);
const colon = (member) => `${data.datasets[data.classes[member][0]]}:${data.classes[member][1]}`;

// What follows from what was decided, as the proposal draws it: null, or why it cannot be.

function contradiction(said) {
  const above = new Map(), up = (x, y) => above.set(x, [...(above.get(x) ?? []), y]);
  for (const [a, b, reply] of said) {
    if (reply === "same") { up(a, b); up(b, a); }
    if (reply === "part") up(b, a);
    if (reply === "whole") up(a, b);
  }
  const reach = (x) => {
    const seen = new Set([x]), waiting = [x];
    while (waiting.length) for (const y of above.get(waiting.pop()) ?? []) if (!seen.has(y)) { seen.add(y); waiting.push(y); }
    return seen;
  };
  const within = new Map([...above.keys()].map((x) => [x, reach(x)]));
  const inside = (x, y) => within.get(x)?.has(y) ?? false;
  for (const [a, b, reply] of said) {
    const clash = reply === "none" ? inside(a, b) || inside(b, a) : reply === "part" ? inside(a, b) : reply === "whole" && inside(b, a);
    if (clash) return `${colon(a)} and ${colon(b)} are linked by what was decided before`;
  }
  for (const [x, all] of within) {
    const twin = [...all].find((y) => y !== x && inside(y, x) && data.classes[x][0] === data.classes[y][0]);
    if (twin !== undefined) return `${colon(x)} and ${colon(twin)} are of one dataset, so they differ`;
  }
  return null;
}

// The table.

function free(name) {
  const taken = new Set(data.nodes.filter(([, members]) => members.length).map(([other]) => other));
  let out = name;
  for (let i = 2; taken.has(out); i++) out = `${name} #${i}`;
  return out;
}
function put(node, member) {
  data.nodes[node][1] = [...new Set([...data.nodes[node][1], member])].sort((a, b) => a - b);
}
function drop(node, member) {
  data.nodes[node][1] = data.nodes[node][1].filter((m) => m !== member);
}
function alone(member) {
  data.nodes.push([free(data.classes[member][1]), [member]]);
}
function where(member) {
  return data.nodes.flatMap(([, members], node) => (members.includes(member) ? [node] : []));
}

function change(a, b, reply) {
  const mine = where(a), theirs = where(b), shared = mine.filter((n) => theirs.includes(n));
  if (reply === "whole") return change(b, a, "part");
  if (reply === "none") {
    const leaver = mine.length > theirs.length ? a : b;
    for (const node of shared) drop(node, leaver);
    if (!where(leaver).length) alone(leaver);
  } else if (reply === "same" && mine.length === 1 && theirs.length === 1 && mine[0] !== theirs[0]) {
    const sets = new Set(data.nodes[mine[0]][1].map((m) => data.classes[m][0]));
    const movers = data.nodes[theirs[0]][1].some((m) => sets.has(data.classes[m][0])) ? [b] : data.nodes[theirs[0]][1];
    for (const member of movers) { put(mine[0], member); drop(theirs[0], member); }
  } else if (reply === "same") {
    for (const node of [...mine, ...theirs]) { put(node, a); put(node, b); }
  } else if (reply === "part") {
    if (shared.length === theirs.length && shared.length === mine.length) {
      for (const node of shared) drop(node, b);
      alone(b);
    }
    for (const node of where(b)) put(node, a);
  }
  return undefined;
}

function decide(a, b, reply) {
  const said = new Map(decisions);
  said.set(keyOf(a, b), [a, b, reply]);
  const why = contradiction(said.values());
  if (why) { say(`Not kept: ${why}. Undo, or answer otherwise.`); return false; }
  past.push({ nodes: data.nodes.map(([name, members]) => [name, members]), decisions: new Map(decisions) });
  decisions.clear();
  for (const [key, value] of said) decisions.set(key, value);
  change(a, b, reply);
  redraw(past.at(-1).nodes);
  say(`${colon(b)}: ${REPLIES.find(([name]) => name === reply)[3]}, beside ${colon(a)}.`);
  return true;
}

function undo() {
  const before = past.pop();
  if (!before) { say("Nothing to undo."); return; }
  const now = data.nodes;
  data.nodes = before.nodes;
  decisions.clear();
  for (const [key, value] of before.decisions) decisions.set(key, value);
  redraw(now);
  say("Undone.");
}

// Only rows that differ are built anew.

function rowOfNode(node) {
  const [name, members] = data.nodes[node], old = rowOf.get(node);
  const head = make("th", "", Object.assign(make("button", "", name), { type: "button", tabIndex: -1 }));
  head.scope = "row";
  head.firstChild.setAttribute("aria-expanded", "false");
  const cells = data.datasets.map((_, set) => members.filter((m) => data.classes[m][0] === set));
  const used = cells.map((c) => c.length > 0), sets = used.filter(Boolean).length;
  const row = make("tr", `node k${Math.min(sets, 2)} edited`, head);
  if (data.evidence) row.append(make("td", "number soft", "edited"));
  cells.forEach((cell, set) => {
    const box = make("td", set <= used.lastIndexOf(true) && sets > 1 ? "band" : "");
    for (const m of cell) {
      const chip = make("span", "class", data.classes[m][1]);
      chip.dataset.class = `${set}.${m - first[set]}`;
      chip.title = data.classes[m][1];
      if (nodesOf[m].length > 1) chip.append(" ", make("b", "", `×${nodesOf[m].length}`));
      box.append(chip);
    }
    row.append(box);
  });
  row.dataset.node = node;
  row.dataset.sets = sets;
  row.dataset.group = old?.dataset.group ?? rows.length;
  return row;
}

function redraw(before) {
  nodesOf.forEach((nodes) => nodes.splice(0));
  data.nodes.forEach(([, members], node) => members.forEach((m) => nodesOf[m].push(node)));
  named.clear();
  data.nodes.forEach(([name, members], node) => { if (members.length) named.set(name, node); });
  for (let node = 0; node < Math.max(before.length, data.nodes.length); node++) {
    if (`${before[node]}` === `${data.nodes[node]}` && before[node]?.[1].length) continue;
    const old = rowOf.get(node), members = data.nodes[node]?.[1] ?? [];
    const row = members.length ? rowOfNode(node) : null;
    if (old) {
      opened(old)?.remove();
      rows.splice(rows.indexOf(old), 1);
      rowOf.delete(node);
      texts.delete(old);
    }
    if (row) {
      if (old) old.replaceWith(row); else body.prepend(row);
      rows.push(row);
      rowOf.set(node, row);
      texts.set(row, fold([data.nodes[node][0], ...members.map((m) => data.classes[m][1])].join("\n")));
    } else old?.remove();
  }
  chips.clear();
  for (const chip of body.querySelectorAll(".class")) chips.set(chip.dataset.class, [...(chips.get(chip.dataset.class) ?? []), chip]);
  filter();
  for (const line of document.querySelectorAll("[data-pair]")) mark(line);
  progress();
}

// The cards: a class, and those that may be related to it.

const list = document.querySelector("#cards"), status = document.querySelector("#said");
const say = (text) => { status.textContent = text; };
const certainty = (score) => (score < 0.6 ? "a guess" : score < 0.75 ? "doubtful" : score < 0.9 ? "likely" : "nearly sure");

function swatch(member) {
  const out = make("i", "swatch");
  out.style.background = data.colors[member];
  return out;
}
function examples(member) {
  return (data.crops[member] ?? []).slice(0, 2).map((uri) => Object.assign(make("img", ""), { src: uri, alt: `example of ${data.classes[member][1]}` }));
}
function mark(line) {
  const [a, b] = line.dataset.pair.split(" ").map(Number), said = decisions.get(keyOf(a, b));
  const flip = { part: "whole", whole: "part" };
  const reply = said && (said[0] === a ? said[2] : flip[said[2]] ?? said[2]);
  for (const button of line.querySelectorAll("button")) button.setAttribute("aria-pressed", button.value === reply);
  line.classList.toggle("done", Boolean(said));
}
function lineOf(a, b) {
  const known_ = known[a].get(b), kind = known_?.kind ?? "unrelated", score = known_?.score ?? 0;
  const turned = known_ && known_.a !== b ? { "part of": "contains", contains: "part of" }[kind] ?? kind : kind;
  const meter = make("span", "meter", make("i"));
  meter.firstChild.style.width = `${100 * score}%`;
  const together = nodesOf[a].some((n) => nodesOf[b].includes(n));
  const now = make("span", "now", make("b", "", `${signs[turned]} ${turned}`), meter, `${score.toFixed(2)} `, make("em", `sure${Math.floor(score * 4)}`, certainty(score)));
  if (together && kind === "unrelated") now.append(make("strong", "", " merged against the evidence"));
  if (!together && kind === "equal") now.append(make("strong", "", " not merged"));
  const reasons = known_ ? Object.entries(known_.evidence).map(([source, value]) => `${source}: ${value ?? "—"}`).join(" · ") : "";
  const buttons = REPLIES.map(([name, sign, key, words]) => {
    const out = make("button", "reply", make("b", "", sign), ` ${words}`);
    out.type = "button";
    out.value = name;
    out.title = `${words} (${key})`;
    return out;
  });
  const line = make("div", "line", make("div", "who", swatch(b), label(b), ...examples(b)), now, make("div", "soft why", reasons), make("div", "replies", ...buttons));
  line.dataset.pair = `${a} ${b}`;
  line.tabIndex = -1;
  line.setAttribute("role", "group");
  line.setAttribute("aria-label", `${colon(b)} beside ${colon(a)}`);
  mark(line);
  return line;
}
function card([a, others]) {
  const mates = [...new Set(nodesOf[a].flatMap((n) => data.nodes[n][1]))].filter((m) => m !== a && !others.includes(m)).slice(0, 6);
  const head = make("h3", "", swatch(a), label(a), ...examples(a));
  if (data.classes[a][2]) head.append(make("span", "soft about", data.classes[a][2]));
  const out = make("article", "card", head);
  if (mates.length) out.append(make("p", "soft", "in one node with ", ...mates.flatMap((m, i) => [i ? ", " : "", label(m)])));
  out.append(...others.map((b) => lineOf(a, b)));
  return out;
}
const SHOWN = 12;
let drawn = 0;
function more() {
  list.append(...data.review.slice(drawn, drawn + SHOWN).map(card));
  drawn = Math.min(drawn + SHOWN, data.review.length);
  document.querySelector("#more").hidden = drawn === data.review.length;
}
function progress() {
  const open = data.review.reduce((n, [a, others]) => n + others.filter((b) => !decisions.has(keyOf(a, b))).length, 0);
  document.querySelector("#open").textContent = open ? `${open} pairs in doubt, ${decisions.size} decided` : `nothing in doubt, ${decisions.size} decided`;
  document.querySelector("#undo").disabled = !past.length;
}

// The files.

function tsv() {
  const cell = (text) => (text.startsWith('"') ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = [["unified", ...data.datasets]];
  for (const [name, members] of data.nodes.filter(([, all]) => all.length)) {
    lines.push([name, ...data.datasets.map((_, set) => members.filter((m) => data.classes[m][0] === set).map((m) => data.classes[m][1]).join("|"))]);
  }
  return lines.map((line) => line.map(cell).join("\t") + "\n").join("");
}
function toml() {
  const kinds = { must_link: [], cannot_link: [], part_of: [], unsure: [] };
  for (const [a, b, reply] of decisions.values()) {
    const name = { same: "must_link", none: "cannot_link", unknown: "unsure" }[reply] ?? "part_of";
    const [x, y] = reply === "part" ? [b, a] : [a, b];
    kinds[name].push(JSON.stringify(`${colon(x)} ${name === "part_of" ? "<" : "="} ${colon(y)}`));
  }
  return Object.entries(kinds).map(([name, all]) => (all.length ? `${name} = [\n${all.map((e) => `    ${e},\n`).join("")}]\n` : `${name} = []\n`)).join("");
}
function download(name, text) {
  const link_ = Object.assign(document.createElement("a"), { download: name, href: URL.createObjectURL(new Blob([text], { type: "text/plain" })) });
  link_.click();
  URL.revokeObjectURL(link_.href);
  say(`${name} is in your downloads.`);
}

async function save() {
  say("Saving …");
  try {
    const body = JSON.stringify({ table: tsv(), constraints: toml() });
    const answer = await fetch(data.save, { method: "POST", headers: { "content-type": "application/json" }, body });
    const found = await answer.json();
    say(answer.ok ? `Saved beside the run: ${found.files.join(", ")}.` : `Not saved: ${found.detail}`);
  } catch { say("Not saved: the server does not answer."); }
}

document.querySelector("#save")?.addEventListener("click", save);
document.querySelector("#table").addEventListener("click", () => download("taxonomy.tsv", tsv()));
document.querySelector("#constraints").addEventListener("click", () => download("constraints.toml", toml()));
document.querySelector("#undo").addEventListener("click", undo);
document.querySelector("#more").addEventListener("click", more);
document.addEventListener("click", (event) => {
  const reply = event.target.closest("button.reply"), line = reply?.closest("[data-pair]");
  if (line) decide(...line.dataset.pair.split(" ").map(Number), reply.value);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, select")) return;
  if (event.key === "u") undo();
  const line = event.target.closest?.(".line"), lines = [...document.querySelectorAll(".line")];
  const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
  const go = (to) => { to?.focus(); to?.scrollIntoView({ block: "nearest" }); };
  if (line && step) { event.preventDefault(); go(lines[lines.indexOf(line) + step]); }
  if (!line && event.key === "j") { event.preventDefault(); go(lines[0]); }
  const reply = line && REPLIES.find(([, , key]) => key === event.key);
  if (reply && decide(...line.dataset.pair.split(" ").map(Number), reply[0])) {
    const at = lines.indexOf(line);
    if (at === lines.length - 1 && drawn < data.review.length) more();
    go(document.querySelectorAll(".line")[at + 1]);
  }
});
more();
progress();
readAddress();
