// The text of a document, a page at a time, with a passage marked.

import {placesIn} from "./characters.js";
import {$, make, nameOf} from "./dom.js";

// UTF-16 units that are shown at once: a file without pages may have millions
const MOST = 20000;

let shown = {name: "", text: "", parts: [], passage: null};

/** Open a document at a passage: {start, stop} in UTF-16 units. */
export function openViewer(one, passage = null, note = "") {
  const parts = partsOf(one);
  shown = {name: one.name, text: one.text, parts, passage};
  $("viewer-note").textContent = note;
  const found = passage ? parts.findLastIndex(part => part.start <= passage.start) : 0;
  if (!$("viewer").open) $("viewer").showModal();
  show(Math.max(0, found));
}

/** The pages as {label, start, stop}; together they are the whole text. */
function partsOf({text, pages}) {
  const place = placesIn(text);
  const starts = pages.length ? pages.map(page => place(page.start)) : [0];
  return starts.flatMap((start, i) => {
    const label = pages[i]?.label || "";
    return pieces(label, i ? start : 0, i + 1 < starts.length ? starts[i + 1] : text.length);
  });
}

function pieces(label, start, stop) {
  const n = Math.max(1, Math.ceil((stop - start) / MOST));
  return Array.from({length: n}, (_, i) => ({
    label: n > 1 ? [label, "part " + (i + 1)].filter(Boolean).join(", ") : label,
    start: start + i * MOST, stop: Math.min(stop, start + (i + 1) * MOST),
  }));
}

function show(i) {
  const {name, text, parts, passage} = shown;
  const {label, start, stop} = parts[i];
  shown.i = i;
  $("viewer-title").replaceChildren(nameOf(name), ...(label ? [", ", nameOf(label)] : []));
  $("viewer-place").textContent = i + 1 + " of " + parts.length;
  $("viewer-back").disabled = i === 0;
  $("viewer-next").disabled = i === parts.length - 1;
  $("viewer-text").replaceChildren(...marked(text, start, stop, passage));
  if (!$("viewer-text").textContent.trim()) $("viewer-text").append(make("p", {}, "This page has no text."));
  const mark = $("viewer-text").querySelector("mark");
  if (mark) mark.scrollIntoView({block: "center"}); else $("viewer-text").scrollTop = 0;
}

function marked(text, start, stop, passage) {
  const first = Math.max(start, passage ? passage.start : stop);
  const last = Math.min(stop, passage ? passage.stop : stop);
  if (first >= last) return [text.slice(start, stop)];
  return [text.slice(start, first), make("mark", {}, text.slice(first, last)), text.slice(last, stop)];
}

/** Go to another page; a button that is at the end loses the focus to the text. */
function turn(step) {
  show(shown.i + step);
  if (document.activeElement === document.body || document.activeElement.disabled) $("viewer-text").focus();
}

export function wireViewer() {
  $("viewer-close").addEventListener("click", () => $("viewer").close());
  $("viewer-back").addEventListener("click", () => turn(-1));
  $("viewer-next").addEventListener("click", () => turn(1));
}
