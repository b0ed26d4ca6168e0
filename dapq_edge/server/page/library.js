// The library: documents that were added, which of them are asked about, and how far the server has read them.

import {Refusal, sendDocument} from "./api.js";
import {$, button, count, focusAt, make, nameOf, number} from "./dom.js";
import {forget, loadAll, newId, save} from "./storage.js";
import {openViewer} from "./viewer.js";

let documents = [];
let chosen = new Set();
let onChoice, onAdded;

/** Where the server is with a document that it reads while nobody asks: {name: there, done, total}, by its id. */
const readings = new Map();
let n_adding = 0;

export async function openLibrary(callbacks) {
  ({onChoice, onAdded} = callbacks);
  documents = (await loadAll("documents")).sort((a, b) => a.added - b.added);
  $("files").addEventListener("change", () => {
    addFiles([...$("files").files]);
    $("files").value = "";
  });
  $("paste").addEventListener("submit", event => {
    event.preventDefault();
    addFiles([new File([$("pasted").value], "Pasted text.txt")]);
    $("paste").reset();
  });
  show();
}

export const chosenDocuments = () => documents.filter(one => chosen.has(one.id));

/** The document of a turn; one that was removed and added again has another id. */
export const findDocument = ({id, name}) =>
  documents.find(one => one.id === id) || documents.find(one => one.name === name);

export function choose(ids) {
  chosen = new Set(ids.filter(id => documents.some(one => one.id === id)));
  show();
}

let queue = Promise.resolve();

/** Add files, one after the other. */
export function addFiles(files, options = {}) {
  n_adding += files.length;
  $("refused").replaceChildren();
  for (const file of files) queue = queue.then(() => addFile(file, options));
  return queue;
}

export const isAdding = () => n_adding > 0;

async function addFile(file, options) {
  const others = n_adding > 1 ? " and " + count(n_adding - 1, "other") : "";
  $("adding").textContent = "Adding " + file.name + others + " …";
  try {
    await checkReadable(file);
    const ocr = $("ocr").checked ? {ocr: "true"} : {};
    add(await sendDocument(file, freeName(file.name), {...ocr, ...options}));
  } catch (error) {
    refuse(file, error, options);
  }
  n_adding -= 1;
  if (!n_adding) $("adding").textContent = "";
}

/** Raise an error for what the browser cannot send: it would look as if the server were gone. */
async function checkReadable(file) {
  try { await file.slice(0, 1).arrayBuffer() } catch { throw new Error("is a folder, or cannot be read") }
}

function add(found) {
  const same = documents.find(one => one.text === found.text);
  const one = {...found, id: same?.id || newId(), name: same?.name || found.name, added: same?.added || Date.now()};
  documents = same ? documents.map(old => (old === same ? one : old)) : [...documents, one];
  readings.set(one.id, {name: found.name, done: 0, total: one.n_tokens});
  chosen.add(one.id);
  save("documents", one);
  show();
  onChoice([...chosen]);
  onAdded();
}

/** Answers name documents: no two of them have the same name. */
function freeName(name) {
  const [, stem, ending] = name.match(/^(.*?)(\.[^.]*)?$/s);
  const names = new Set(documents.map(one => one.name));
  let free = name;
  for (let i = 2; names.has(free); i++) free = stem + " (" + i + ")" + (ending || "");
  return free;
}

function refuse(file, error, options) {
  const item = make("li", {}, nameOf(file.name), ": " + error.message);
  if (error instanceof Refusal && /password/.test(error.message) && /\.pdf$/i.test(file.name)) {
    item.append(passwordForm(file, options));
  }
  $("refused").append(item);
}

function passwordForm(file, options) {
  const field = make("input", {type: "password", autocomplete: "off", "aria-label": "Password of " + file.name});
  const onsubmit = event => {
    event.preventDefault();
    addFiles([file], {...options, password: field.value});
  };
  return make("form", {className: "row", onsubmit}, field, make("button", {type: "submit"}, "Open"));
}

function remove(one) {
  const i = documents.indexOf(one);
  documents = documents.filter(other => other !== one);
  chosen.delete(one.id);
  forget("documents", one.id);
  show();
  onChoice([...chosen]);
  focusAt($("documents"), i, $("files"));
}

function show() {
  $("no-documents").hidden = documents.length > 0;
  $("documents").replaceChildren(...documents.map(itemOf));
  showReadings();
}

function itemOf(one) {
  const box = make("input", {type: "checkbox", checked: chosen.has(one.id)});
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(one.id); else chosen.delete(one.id);
    onChoice([...chosen]);
  });
  const size = [pagesOf(one), count(one.n_tokens, "token")].filter(Boolean).join(", ");
  return make("li", {"data-id": one.id},
    make("label", {}, box, nameOf(one.name)),
    make("p", {className: "small"}, size, make("span", {className: "reading"})),
    make("ul", {className: "notes"}, ...one.notes.map(note => make("li", {}, note))),
    button("Open", () => openViewer(one), {className: "plain", "aria-label": "Open " + one.name}),
    button("Remove", () => remove(one), {className: "plain", "aria-label": "Remove " + one.name}));
}

function pagesOf({pages}) {
  if (!pages.some(page => page.label)) return "";
  const areAll = start => pages.every(page => page.label.startsWith(start));
  return count(pages.length, areAll("p. ") ? "page" : areAll("slide ") ? "slide" : "part");
}

/** Note what `api/usage` says; returns whether there is more to wait for. */
export function noteReading({reading_document: now, unread_documents: unread, reading_done: done, reading_total: total}) {
  for (const [id, reading] of readings) {
    if (isRead(reading)) continue;
    if (reading.name === now && total > 1) readings.set(id, {...reading, done: Math.min(done, total - 1), total});
    else if (unread.includes(reading.name)) continue;
    else if (reading.done) readings.set(id, {...reading, done: reading.total});
    // it was too short to be seen, or is too long to be read before a question
    else if (!n_adding) readings.delete(id);
  }
  showReadings();
  return unread.length > 0 || n_adding > 0;
}

const isRead = ({done, total}) => done >= total;

function showReadings() {
  for (const item of $("documents").children) {
    const reading = readings.get(item.dataset.id);
    const isPartly = reading?.done && !isRead(reading);
    const text = !reading ? "" : isPartly ? ", " + number(reading.done) + " of " + number(reading.total) + " read"
      : reading.done ? ", read" : ", waits to be read";
    const shown = item.querySelector(".reading");
    shown.replaceChildren(text);
    if (isPartly) shown.append(bar(item, reading));
  }
}

function bar(item, {done: value, total: max}) {
  return make("progress", {value, max, "aria-label": "Reading " + item.querySelector("bdi").textContent});
}
