// An answer as it streams: plain text, its code blocks, and marks of its sources.

import {make} from "./dom.js";

const FENCE = /^[ \t]*(```|~~~)[^\n]*\n?/;

/** Blocks of a text: {isCode, start, stop} is what is shown, `end` where the next one begins. */
function blocksOf(text) {
  const blocks = [];
  let start = 0, isCode = false, place = 0;
  const push = (stop, end) => {
    const trimmed = text.slice(start, stop).replace(/\n+$/, "").length;
    if (trimmed || isCode) blocks.push({isCode, start, stop: start + trimmed, end});
  };
  for (const line of text.split(/(?<=\n)/)) {
    const after = place + line.length;
    if (FENCE.test(line)) {
      push(place, after);
      [start, isCode] = [after, !isCode];
    }
    place = after;
  }
  if (start < text.length || !blocks.length) push(text.length, text.length);
  return blocks;
}

/** Show a text; marks: {place, node}, nodes to stand behind a place of it. */
export function showAnswer(box, text, marks = []) {
  const blocks = blocksOf(text);
  if (!marks.length && blocks.length && box.children.length === blocks.length && grow(box, text, blocks.at(-1))) return;
  box.replaceChildren(...blocks.map((block, i) => {
    const from = i ? blocks[i - 1].end : -1;
    const until = i === blocks.length - 1 ? Infinity : block.end;
    return show(text, block, marks.filter(mark => from < mark.place && mark.place <= until));
  }));
}

/** Write the new end of a stream without touching the rest: what is selected stays so. */
function grow(box, text, {start, stop}) {
  const last = box.lastElementChild;
  const node = (last.querySelector("pre") || last).firstChild;
  const now = text.slice(start, stop);
  if (node?.nodeType !== Node.TEXT_NODE || last.textContent !== node.data || !now.startsWith(node.data)) return false;
  node.appendData(now.slice(node.data.length));
  return true;
}

function show(text, {isCode, start, stop}, marks) {
  if (isCode) {
    const code = make("pre", {tabIndex: 0}, text.slice(start, stop));
    return make("div", {}, code, ...marks.map(mark => mark.node));
  }
  const parts = [];
  let place = start;
  for (const mark of marks) {
    const at = Math.min(Math.max(place, mark.place), stop);
    parts.push(text.slice(place, at), mark.node);
    place = at;
  }
  return make("div", {}, ...parts.filter(part => part !== ""), text.slice(place, stop));
}
