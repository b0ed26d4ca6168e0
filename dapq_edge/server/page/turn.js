// One question and its answer on the page.

import {showAnswer} from "./answer.js";
import {button, make, nameOf} from "./dom.js";
import {openSource, sourcesOf, titleOf} from "./sources.js";

export const NOT_FOUND = "Nothing relevant was found in the documents.";

/** An article, and a function that shows the turn as it is now. */
export function viewOf(turn, regenerate) {
  const part = (tag, className, properties = {}) => make(tag, {className, ...properties});
  const parts = {
    about: part("p", "small about"), absent: part("p", "notfound"), answer: part("div", "answer"),
    error: part("p", "error", {role: "alert"}), progress: part("p", "small progress"), sources: part("ol", "sources"),
    parts: part("details", "parts"),
    coverage: part("p", "small coverage"), notes: part("ul", "notes"), tools: part("div", "tools"),
  };
  const again = button("", regenerate, {className: "plain again"});
  const askAll = () => {
    turn.isWhole = true;
    regenerate();
  };
  const all = button("Ask all of it", askAll, {className: "plain again"});
  const copied = make("span", {role: "status", className: "small"});
  const copy = button("Copy", () => copyAnswer(turn, copied), {className: "plain"});
  parts.tools.append(copy, again, all, copied);
  const title = make("h3", {dir: "auto"}, turn.question);
  const article = make("article", {"aria-label": "Question and answer"}, title, ...Object.values(parts));
  const update = () => {
    const isAsking = turn.status === "asking";
    showTexts(turn, parts);
    showSources(turn, parts);
    showParts(turn, parts);
    parts.tools.hidden = isAsking;
    copy.hidden = !turn.answer;
    // only a part was read for the answer
    all.hidden = !turn.evidence?.partial || Boolean(turn.parts?.length);
    again.textContent = turn.status === "done" ? "Regenerate" : "Ask again";
    article.setAttribute("aria-busy", isAsking);
  };
  update();
  return {article, update};
}

function showTexts(turn, {about, absent, error, progress, coverage, notes}) {
  const names = turn.documents.flatMap((one, i) => [i ? ", " : "About ", nameOf(one.name)]);
  about.replaceChildren(...names);
  const {not_found, note, coverage: basis} = turn.evidence || {};
  coverage.textContent = basis ? "Based on: " + basis : "";
  absent.textContent = not_found ? NOT_FOUND : "";
  error.textContent = turn.error;
  progress.textContent = turn.status === "asking" ? turn.progress || (turn.answer ? "" : "Waiting …") : "";
  const ends = {stopped: "Stopped: the answer is not complete.", cut: "The page was closed before the answer ended."};
  const lines = [note, ...turn.warnings, ends[turn.status]];
  notes.replaceChildren(...lines.filter(Boolean).map(line => make("li", {}, line)));
}

function showSources(turn, {answer, sources, error}) {
  const found = sourcesOf(turn);
  const open = source => {
    try { openSource(turn, source) } catch (caught) { error.textContent = caught.message }
  };
  showAnswer(answer, turn.answer, marksOf(found, source => footnote(source, open)));
  sources.hidden = !found.length;
  sources.replaceChildren(...found.map(source => make("li", {}, sourceButton(source, open))));
}

/** What windows of the documents answered, with the pages that it is from. */
function showParts(turn, {parts}) {
  const lines = linesOf(turn);
  parts.hidden = !lines.length;
  // a title that is made again loses the keyboard focus
  if (parts.querySelectorAll("li").length === lines.length && turn.status === "asking") return;
  const title = make("summary", {}, lines.length + (lines.length === 1 ? " part" : " parts") + " of the documents");
  parts.replaceChildren(title, make("ul", {}, ...lines.map(line => make("li", {dir: "auto"}, line))));
}

function linesOf(turn) {
  // an older turn has none
  return (turn.parts || []).map(({text, pages}) => {
    const places = [...new Set(pages.map(({file, page}) => titleOf({filename: file, page})))];
    return places.length ? text + " (" + places.join("; ") + ")" : text;
  });
}

/** What stands for the sources at places of the answer, ascending. */
function marksOf(sources, toNode) {
  const marks = sources.flatMap(source => [...source.ends].map(place => ({place, node: toNode(source)})));
  return marks.sort((a, b) => a.place - b.place);
}

function footnote(source, open) {
  const properties = {className: "footnote", "aria-label": "Source " + source.number + ": " + titleOf(source)};
  return make("sup", {}, button(String(source.number), () => open(source), properties));
}

function sourceButton(source, open) {
  const quote = source.quote ? [": ", make("q", {}, source.quote)] : [];
  const shown = button("[" + source.number + "] ", () => open(source), {className: "plain"});
  shown.append(nameOf(titleOf(source)), ...quote);
  return shown;
}

/** The answer with its sources, as text. */
function textOf(turn) {
  const found = sourcesOf(turn);
  let text = turn.answer;
  for (const {place, node} of marksOf(found, source => "[" + source.number + "]").reverse()) {
    text = text.slice(0, place) + node + text.slice(place);
  }
  const lineOf = one => "[" + one.number + "] " + titleOf(one) + (one.quote ? ': "' + one.quote + '"' : "");
  return [text.trim(), ...found.map(lineOf), ...linesOf(turn)].join("\n");
}

async function copyAnswer(turn, said) {
  try {
    await navigator.clipboard.writeText(textOf(turn));
    said.textContent = "Copied.";
  } catch {
    // there is no clipboard where the page does not come from this machine by https
    said.textContent = "This browser does not let the page copy: select the text.";
  }
  setTimeout(() => { said.textContent = "" }, 4000);
}
