"use strict";
// The page: photos go to the API of this server, and come back as label maps in all label spaces of the run.
// Text from outside only ever goes through textContent, never through HTML.

const at = (id) => document.getElementById(id);
function make(tag, name = "", ...children) {
  const out = document.createElement(tag);
  if (name) out.className = name;
  out.append(...children);
  return out;
}
function say(text, fault = false) {
  at("said").textContent = text;
  at("said").classList.toggle("fault", fault);
}
const percent = (share) => (share >= 0.01 ? `${Math.round(100 * share)} %` : "< 1 %");

// Label maps are index PNGs. A canvas would give colours, and some browsers blur them on purpose; so they are read here.

async function readPng(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), view = new DataView(bytes.buffer), parts = [];
  const width = view.getUint32(16), height = view.getUint32(20), deep = bytes[24] / 8;
  for (let here = 8; here < bytes.length; here += 12 + view.getUint32(here)) {
    if (view.getUint32(here + 4) === 0x49444154) parts.push(bytes.subarray(here + 8, here + 8 + view.getUint32(here)));
  }
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer()), line = width * deep, out = new Uint8Array(line * height);
  for (let y = 0; y < height; y++) {
    const from = y * (line + 1), to = y * line, kind = raw[from];
    out.set(raw.subarray(from + 1, from + 1 + line), to);
    for (let x = 0; kind && x < line; x++) {
      const left = x < deep ? 0 : out[to + x - deep], up = y ? out[to + x - line] : 0, both = y && x >= deep ? out[to + x - line - deep] : 0;
      let guess = [0, left, up, (left + up) >> 1][kind];
      if (kind === 4) {
        const a = Math.abs(up - both), b = Math.abs(left - both), c = Math.abs(left + up - 2 * both);
        guess = a <= b && a <= c ? left : b <= c ? up : both;
      }
      out[to + x] += guess;
    }
  }
  const values = deep === 1 ? out : Uint16Array.from({ length: width * height }, (_, i) => (out[2 * i] << 8) | out[2 * i + 1]);
  return { width, height, values };
}

// What the server has.

let runs = [];
const photos = [];
let current = null, only = null, cursor = null, shown = Number(at("opacity").value);
const WORDS = "\0words";

const spaceOf = (run, name) => run.spaces.find((space) => space.labels === name);
function labelsFor(run) {
  const chosen = at("labels").value;
  if (chosen === WORDS) return run.reads_words && at("words").value.trim() ? at("words").value.trim() : run.default;
  return spaceOf(run, chosen) ? chosen : run.default;
}

async function begin() {
  runs = await (await fetch("/api/labels")).json();
  const names = [...new Set(runs.flatMap((run) => run.spaces.map((space) => space.labels)))];
  at("labels").append(...names.map((name) => new Option(name === "unified" ? "unified (all datasets)" : name, name)));
  if (runs.some((run) => run.reads_words)) at("labels").append(new Option("words of your own …", WORDS));
  at("labels").value = runs[0].default;
  const known = [...new Set(runs.flatMap((run) => run.spaces.map((s) => `${s.labels} (${s.classes.length})`)))];
  at("known").append("Labels: ", ...known.flatMap((text, i) => [i ? ", " : "", make("b", "", text)]), runs.some((run) => run.reads_words) ? ", and any words" : "");
  at("differ-box").hidden = runs.length < 2;
  at("views").classList.toggle("two", runs.length > 1);
  at("views").append(...runs.map(viewOf));
  fill();
  if (current) { choose(current); pump(); } // Photos that came before the labels.
}

// Photos wait in a line, two are on the way at once.

const line = [];
let busy = 0;
function add(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
  if (!pictures.length) { say("That is no picture.", true); return; }
  for (const file of pictures) {
    const photo = { file, name: unique(file.name || "photo.png"), url: URL.createObjectURL(file), maps: new Map(), state: "waiting", fault: "" };
    photos.push(photo);
    photo.item = itemOf(photo);
    at("files").append(photo.item);
    if (file.size > Number(document.body.dataset.upload)) fail(photo, `${photo.name} has more than ${(document.body.dataset.upload / 1e6).toFixed(0)} MB; make it smaller.`);
    else line.push(photo);
  }
  document.body.classList.add("working");
  at("work").hidden = false;
  at("files").hidden = photos.length < 2;
  at("save-all").hidden = photos.length < 2;
  choose(photos[photos.length - pictures.length]);
  pump();
}
function unique(name) {
  const plain = name.replace(/[\\/:*?"<>|\u0000-\u001f]/g, "_"), stem = plain.replace(/\.[^.]*$/, "") || "photo";
  let out = stem;
  for (let i = 2; photos.some((photo) => photo.name.toLowerCase() === out.toLowerCase()); i++) out = `${stem}-${i}`;
  return out;
}
function pump() {
  while (runs.length && busy < 2 && line.length) {
    busy += 1;
    const photo = line.shift();
    segment(photo).finally(() => { busy -= 1; pump(); });
  }
}
async function segment(photo) {
  state(photo, "working");
  try {
    for (const run of runs) await want(photo, run);
    state(photo, "done");
  } catch (error) {
    fail(photo, error.message);
  }
  if (photo === current) refresh();
}
const keyOf = (run, name) => `${run.run}\n${name}`;
async function want(photo, run, name = labelsFor(run)) {
  if (photo.maps.has(keyOf(run, name))) return;
  const query = new URLSearchParams({ run: run.run });
  for (const space of spaceOf(run, name) ? run.spaces.map((s) => s.labels) : [name]) query.append("labels", space);
  const answer = await ask(`/api/predict?${query}`, photo.file);
  photo.width = answer.width;
  photo.height = answer.height;
  for (const map of answer.maps) photo.maps.set(keyOf(run, map.labels), map);
}
async function ask(path, body) {
  for (let tries = 0; ; tries++) {
    let answer;
    try {
      answer = await fetch(path, { method: "POST", body, headers: { "content-type": "application/octet-stream" } });
    } catch { throw new Error("The server does not answer; is it still running?"); }
    if (answer.ok) return answer.json();
    if ([429, 503].includes(answer.status) && tries < 20) {
      await new Promise((later) => setTimeout(later, 1000 * Number(answer.headers.get("retry-after") ?? 1)));
      continue;
    }
    const detail = await answer.json().then((found) => found.detail, () => "");
    throw new Error(typeof detail === "string" && detail ? detail : `The server answers with ${answer.status}.`);
  }
}
function state(photo, text) {
  photo.state = text;
  photo.item.querySelector(".state").textContent = text;
  photo.item.querySelector(".state").hidden = text === "done";
}
function fail(photo, text) {
  photo.fault = text;
  state(photo, "failed");
  photo.item.firstChild.classList.add("failed");
  say(`${photo.name}: ${text}`, true);
}
function itemOf(photo) {
  const image = Object.assign(make("img"), { src: photo.url, alt: "", loading: "lazy" });
  const out = Object.assign(make("button", "", image, make("span", "state", "waiting"), make("span", "", photo.name)), { type: "button", title: photo.name });
  out.addEventListener("click", () => choose(photo));
  return make("li", "", out);
}

// A map is decoded when it is looked at, and those of the photo that is shown are kept.

async function decoded(map) {
  map.pixels ??= readPng(map.label_map);
  map.sure ??= map.confidence ? readPng(map.confidence) : Promise.resolve(null);
  map.ready = { ...(await map.pixels), sure: await map.sure, classes: new Map(map.classes.map((c) => [c.value, c])) };
  return map.ready;
}
function forget(photo) {
  for (const map of photo?.maps.values() ?? []) map.pixels = map.sure = map.ready = undefined;
}
const mapOf = (run, name = labelsFor(run), photo = current) => photo?.maps.get(keyOf(run, name));

// The pictures.

function viewOf(run) {
  const sheet = make("div", "sheet", make("img"), make("canvas"), Object.assign(make("i", "cross"), { hidden: true }));
  const picture = make("div", "picture", sheet, Object.assign(make("div", "tip"), { hidden: true }), make("div", "wait"));
  picture.tabIndex = 0;
  picture.setAttribute("role", "img");
  sheet.querySelector("img").alt = "";
  const out = make("figure", "view", make("figcaption", "", runs.length > 1 ? run.run : "", make("span", "soft labels")), picture);
  out.querySelector("figcaption").hidden = runs.length < 2;
  run.view = out;
  picture.addEventListener("pointermove", (event) => point(event, sheet));
  picture.addEventListener("pointerdown", (event) => point(event, sheet));
  picture.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") aim(null); });
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || !current?.width) return;
    event.preventDefault();
    const far = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(current.width, current.height) / 50));
    const [x, y] = cursor ?? [Math.floor(current.width / 2), Math.floor(current.height / 2)];
    aim([clamp(x + far * step[0], current.width), clamp(y + far * step[1], current.height)], true);
  });
  return out;
}
const clamp = (value, size) => Math.min(Math.max(value, 0), size - 1);
function point(event, sheet) {
  const box = sheet.getBoundingClientRect();
  if (!current?.width || event.clientX < box.left || event.clientX >= box.right || event.clientY < box.top || event.clientY >= box.bottom) return;
  aim([clamp(Math.floor(((event.clientX - box.left) / box.width) * current.width), current.width), clamp(Math.floor(((event.clientY - box.top) / box.height) * current.height), current.height)]);
}

function choose(photo) {
  if (photo !== current) forget(current);
  current = photo;
  only = cursor = null;
  for (const other of photos) other.item.firstChild.setAttribute("aria-current", other === photo);
  at("files").scrollLeft = photo.item.offsetLeft - at("files").offsetLeft - at("files").clientWidth / 2;
  for (const run of runs) run.view.querySelector("img").src = photo.url;
  refresh();
}

// Shows what is there, asks for what is not, and shows it then.
async function refresh() {
  const photo = current;
  show();
  if (!photo || photo.state !== "done" || runs.every((run) => mapOf(run))) return;
  try {
    for (const run of runs) await want(photo, run);
    if (photo === current) show();
  } catch (error) { say(error.message, true); }
}

async function show() {
  const photo = current;
  if (!photo || !runs.length) return;
  const maps = runs.map((run) => mapOf(run));
  for (const [i, run] of runs.entries()) {
    const wait = run.view.querySelector(".wait");
    wait.hidden = Boolean(maps[i]);
    wait.classList.toggle("busy", !photo.fault);
    wait.textContent = photo.fault;
    run.view.querySelector(".labels").textContent = labelsFor(run);
    if (!maps[i]) { run.view.querySelector("canvas").hidden = true; fit(run, photo); }
  }
  const whole = maps.every(Boolean);
  for (const id of ["save-mask", "save-overlay"]) at(id).disabled = !whole;
  if (whole) {
    await Promise.all(maps.map(decoded));
    if (photo !== current || runs.some((run, i) => mapOf(run) !== maps[i])) return;
    if (only !== null && !maps.some((map) => map.classes.some((c) => c.name === only))) only = null;
    for (const run of runs) { fit(run, photo); paint(run); }
    if (!photo.fault) say(differing());
    await Promise.all(runs.flatMap((run) => run.spaces.map((s) => mapOf(run, s.labels))).filter(Boolean).map(decoded));
    if (photo !== current) return;
  }
  legend();
  fill();
}
function fit(run, photo) {
  const sheet = run.view.querySelector(".sheet");
  if (photo.width) {
    sheet.style.aspectRatio = `${photo.width} / ${photo.height}`;
    sheet.style.maxWidth = `${(76 * photo.width) / photo.height}vh`;
  }
}

const MOST = 2e6;
function paint(run, canvas = run.view.querySelector("canvas"), photo = current, alone = only, most = MOST) {
  const map = mapOf(run, labelsFor(run), photo), { width, height, values } = map.ready, scale = Math.min(1, Math.sqrt(most / (width * height)));
  const w = Math.max(1, Math.round(width * scale)), h = Math.max(1, Math.round(height * scale));
  const colors = new Uint8ClampedArray(4 * 65536), words = new Uint32Array(colors.buffer);
  for (const c of map.classes) {
    const rgb = Number.parseInt(c.color.slice(1), 16);
    if (alone === null || c.name === alone) colors.set([rgb >> 16, (rgb >> 8) & 255, rgb & 255, 255], 4 * c.value);
  }
  const same = at("differ").checked && runs.length > 1 ? alike(photo) : null;
  const image = new ImageData(w, h), out = new Uint32Array(image.data.buffer);
  for (let y = 0; y < h; y++) {
    const row = Math.floor(((y + 0.5) * height) / h) * width;
    for (let x = 0; x < w; x++) {
      const i = row + Math.floor(((x + 0.5) * width) / w);
      if (!same?.(i)) out[y * w + x] = words[values[i]];
    }
  }
  canvas.width = w;
  canvas.height = h;
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.hidden = false;
  canvas.style.opacity = shown / 100;
}
// Whether two runs give a pixel a class of one name; null where they are shown in different labels.
function alike(photo) {
  const [a, b] = runs.map((run) => mapOf(run, labelsFor(run), photo));
  if (a.labels !== b.labels) return null;
  const names = (map) => Object.fromEntries(map.classes.map((c) => [c.value, c.name]));
  const [left, right] = [names(a), names(b)], x = a.ready.values, y = b.ready.values;
  return (i) => left[x[i]] === right[y[i]];
}
function differing() {
  const same = runs.length > 1 ? alike(current) : null;
  if (!same) return "";
  let count = 0;
  const total = current.width * current.height, step = Math.max(1, Math.floor(total / 4e5));
  for (let i = 0; i < total; i += step) count += same(i);
  return `The two runs agree on ${Math.round((100 * count) / Math.ceil(total / step))} % of the pixels.`;
}
function repaint() {
  if (runs.every((run) => mapOf(run)?.ready)) runs.forEach((run) => paint(run));
}

// The pixel under the pointer.

function aim(place, spoken = false) {
  cursor = place;
  fill(spoken);
}
function found(run, map) {
  if (!map?.ready) return null;
  const [x, y] = cursor, { width, height, values, sure, classes } = map.ready, c = classes.get(values[y * width + x]);
  const cell = sure && sure.values[Math.floor((y * sure.height) / height) * sure.width + Math.floor((x * sure.width) / width)] / 255;
  return c ? { ...c, sure: sure ? cell : null } : { name: "no class", color: "transparent", sure: null };
}
function swatch(color) {
  const out = make("i", "swatch");
  out.style.background = color;
  return out;
}
function fill(spoken = false) {
  const box = at("under");
  if (!cursor || !current?.width || !runs.every((run) => mapOf(run)?.ready)) {
    box.replaceChildren(make("h2", "", "Under the pointer"), make("p", "soft small", "Point at the picture: its class, how sure the model is, and what every other dataset calls it."));
    for (const run of runs) for (const part of run.view.querySelectorAll(".cross, .tip")) part.hidden = true;
    return;
  }
  const texts = [];
  box.replaceChildren(...runs.map((run) => {
    const here = found(run, mapOf(run)), rows = run.spaces.filter((s) => s.labels !== labelsFor(run) && mapOf(run, s.labels)?.ready);
    const sure = here.sure === null ? "" : percent(here.sure);
    const table = make("table", "", make("tbody", "", ...rows.map((space) => {
      const there = found(run, mapOf(run, space.labels));
      return make("tr", "", make("td", "", space.labels), make("td", "", swatch(there.color), ` ${there.name}`));
    })));
    texts.push(`${runs.length > 1 ? `${run.run}: ` : ""}${here.name}${sure && ` ${sure}`}`);
    mark(run, here, sure);
    return make("div", "run", make("h2", "", runs.length > 1 ? run.run : labelsFor(run)), make("div", "name", swatch(here.color), make("span", "", here.name), make("span", "sure", sure)), table);
  }));
  if (spoken) say(texts.join("; "));
}
function mark(run, here, sure) {
  const picture = run.view.querySelector(".picture"), cross = picture.querySelector(".cross"), tip = picture.querySelector(".tip");
  const x = (100 * (cursor[0] + 0.5)) / current.width, y = (100 * (cursor[1] + 0.5)) / current.height;
  cross.hidden = tip.hidden = false;
  cross.style.left = `${x}%`;
  cross.style.top = `${y}%`;
  tip.textContent = `${here.name} ${sure}`;
  const sheet = picture.querySelector(".sheet"), px = sheet.offsetLeft + (x * sheet.offsetWidth) / 100, py = sheet.offsetTop + (y * sheet.offsetHeight) / 100;
  tip.style.left = `${Math.max(4, Math.min(px + 14, picture.clientWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${py > 44 ? py - 36 : py + 16}px`;
}

// The classes that occur.

function legend() {
  const lists = runs.flatMap((run) => {
    const map = mapOf(run);
    if (!map) return [];
    const items = map.classes.map((c) => {
      const meter = make("span", "meter", make("i"));
      meter.firstChild.style.width = `${100 * c.share}%`;
      const out = make("button", "", swatch(c.color), make("span", "", c.name), make("span", "share", percent(c.share)), meter);
      out.type = "button";
      out.value = c.name;
      out.title = c.confidence === null ? c.name : `${c.name}: on average ${percent(c.confidence)} sure`;
      out.setAttribute("aria-pressed", only === c.name);
      return make("li", "", out);
    });
    return [make("h2", "", runs.length > 1 ? `${run.run}, ${map.labels}` : `${map.classes.length} of ${spaceOf(run, map.labels)?.classes.length ?? map.classes.length} classes`), make("ul", only === null ? "" : "dim", ...items)];
  });
  at("legend").replaceChildren(...(lists.length ? [make("p", "soft hint", only === null ? "Click a class to see it alone." : "Click it again, or press Esc, to see all."), ...lists] : []));
}
function isolate(name) {
  only = name === only ? null : name;
  repaint();
  for (const button of at("legend").querySelectorAll("button")) button.setAttribute("aria-pressed", button.value === only);
  for (const list of at("legend").querySelectorAll("ul")) list.classList.toggle("dim", only !== null);
  const hint = at("legend").querySelector(".hint");
  if (hint) hint.textContent = only === null ? "Click a class to see it alone." : "Click it again, or press Esc, to see all.";
}

// Files that come out.

function download(name, blob) {
  const link = Object.assign(document.createElement("a"), { download: name, href: URL.createObjectURL(blob) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say(`${name} is in your downloads.`);
}
const pngOf = (map) => new Blob([Uint8Array.from(atob(map.label_map), (c) => c.charCodeAt(0))], { type: "image/png" });
async function overlayOf(run, photo, alone) {
  const canvas = document.createElement("canvas"), paper = canvas.getContext("2d"), labels = document.createElement("canvas");
  const image = await createImageBitmap(photo.file).catch(() => null);
  canvas.width = photo.width;
  canvas.height = photo.height;
  if (image) paper.drawImage(image, 0, 0, photo.width, photo.height);
  paper.globalAlpha = shown / 100;
  paper.imageSmoothingEnabled = false;
  await decoded(mapOf(run, labelsFor(run), photo));
  paint(run, labels, photo, alone, photo.width * photo.height);
  paper.drawImage(labels, 0, 0, photo.width, photo.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
}
const place = (run, name) => (runs.length > 1 ? `${run.run.replace(/[\\/:]/g, "_")}/${name}` : name);
async function saveMask() {
  for (const run of runs) download(`${current.name}${runs.length > 1 ? `.${run.run}` : ""}.png`.replace(/[\\/:]/g, "_"), pngOf(mapOf(run)));
}
async function saveOverlay() {
  for (const run of runs) download(`${current.name}${runs.length > 1 ? `.${run.run}` : ""}.jpg`.replace(/[\\/:]/g, "_"), await overlayOf(run, current, only));
}
async function saveAll() {
  const files = [];
  at("save-all").disabled = true;
  try {
    for (const photo of photos.filter((p) => !p.fault)) {
      say(`Packing ${photo.name} …`);
      for (const run of runs) {
        await want(photo, run);
        files.push([place(run, `masks/${photo.name}.png`), pngOf(mapOf(run, labelsFor(run), photo))]);
        files.push([place(run, `overlays/${photo.name}.jpg`), await overlayOf(run, photo, null)]);
      }
      if (photo !== current) forget(photo);
    }
    for (const run of runs) {
      const space = spaceOf(run, labelsFor(run));
      if (space) files.push([place(run, "labels.json"), new Blob([JSON.stringify({ space: space.labels, ignored: space.ignored, classes: space.classes }, null, 2)])]);
    }
    download("manyseg.zip", await zip(files));
  } catch (error) {
    say(error.message, true);
  } finally {
    at("save-all").disabled = false;
  }
}

// A zip of files that are small already: stored, not packed.

const crcs = Uint32Array.from({ length: 256 }, (_, n) => { let c = n; for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1; return c; });
async function zip(files) {
  const parts = [], index = [];
  let offset = 0;
  for (const [name, blob] of files) {
    const bytes = new Uint8Array(await blob.arrayBuffer()), text = new TextEncoder().encode(name);
    let crc = -1;
    for (const byte of bytes) crc = crcs[(crc ^ byte) & 255] ^ (crc >>> 8);
    // Version 2.0, names in UTF-8, stored, the first day of 1980.
    const head = fields([20, 2], [0x800, 2], [0, 2], [0, 2], [33, 2], [~crc, 4], [bytes.length, 4], [bytes.length, 4], [text.length, 2], [0, 2]);
    parts.push(fields([0x04034b50, 4]), head, text, bytes);
    index.push(fields([0x02014b50, 4], [20, 2]), head, fields([0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), text);
    offset += 30 + text.length + bytes.length;
  }
  const size = index.reduce((sum, part) => sum + part.length, 0);
  return new Blob([...parts, ...index, fields([0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [offset, 4], [0, 2])], { type: "application/zip" });
}
function fields(...pairs) {
  const out = new DataView(new ArrayBuffer(pairs.reduce((sum, [, size]) => sum + size, 0)));
  let here = 0;
  for (const [value, size] of pairs) { if (size === 2) out.setUint16(here, value, true); else out.setUint32(here, value, true); here += size; }
  return new Uint8Array(out.buffer);
}

// What people do.

for (const id of ["choose", "camera"]) at(id).addEventListener("change", (event) => { add(event.target.files); event.target.value = ""; });
addEventListener("paste", (event) => { if (event.clipboardData?.files.length) { event.preventDefault(); add(event.clipboardData.files); } });
// A drag that ends outside, or is given up, ends without an event that all browsers send; as long as it lasts they repeat "dragover".
let dragged;
addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").hidden = false;
  clearTimeout(dragged);
  dragged = setTimeout(() => { at("drop").hidden = true; }, 700);
});
addEventListener("drop", (event) => { event.preventDefault(); at("drop").hidden = true; if (event.dataTransfer?.files.length) add(event.dataTransfer.files); });
function opacity(value) {
  shown = Math.min(100, Math.max(0, value));
  at("opacity").value = shown;
  for (const run of runs) run.view.querySelector("canvas").style.opacity = shown / 100;
}
at("opacity").addEventListener("input", (event) => opacity(Number(event.target.value)));
at("differ").addEventListener("change", repaint);
function relabel() {
  only = null;
  at("words-box").hidden = at("labels").value !== WORDS;
  refresh();
}
at("labels").addEventListener("change", () => { relabel(); if (at("labels").value === WORDS) at("words").focus(); });
at("words").addEventListener("change", relabel);
at("legend").addEventListener("click", (event) => { const button = event.target.closest("button"); if (button) isolate(button.value); });
at("save-mask").addEventListener("click", saveMask);
at("save-overlay").addEventListener("click", saveOverlay);
at("save-all").addEventListener("click", saveAll);
let hidden = 0;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input[type=text], select")) return;
  const next = photos[photos.indexOf(current) + { n: 1, p: -1 }[event.key]];
  if (event.key === "o") at("choose").click();
  else if (event.key === "l") { event.preventDefault(); at("labels").focus(); }
  else if (next) choose(next);
  else if (event.key === "+" || event.key === "=") opacity(shown + 10);
  else if (event.key === "-") opacity(shown - 10);
  else if (event.key === "0") { [hidden, shown] = [shown, hidden]; opacity(shown); }
  else if (event.key === "Escape" && only !== null) isolate(only);
});
begin().catch((error) => say(`The server does not answer: ${error.message}`, true));
