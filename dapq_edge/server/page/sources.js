// The sources of an answer: passages of documents, numbered, each behind the sentences that it belongs to.

import {placesIn} from "./characters.js";
import {findDocument} from "./library.js";
import {openViewer} from "./viewer.js";

/** The sources of a turn: {number, filename, page, quote, document_start, document_end, ends: places in the answer}. */
export function sourcesOf({answer, annotations}) {
  const place = placesIn(answer);
  const citations = annotations.filter(one => one?.type === "file_citation" && one.file_citation)
    .map(one => ({...one.file_citation, end: place(one.file_citation.end_index ?? answer.length)}))
    .sort((a, b) => a.end - b.end);
  const sources = new Map();
  for (const {end, ...citation} of citations) {
    const key = JSON.stringify([citation.filename, citation.document_start, citation.document_end, citation.quote]);
    if (!sources.has(key)) sources.set(key, {...citation, number: sources.size + 1, ends: new Set()});
    sources.get(key).ends.add(end);
  }
  return [...sources.values()];
}

export const titleOf = source => [source.filename || "document", source.page].filter(Boolean).join(", ");

/** Open the page of a source with its passage marked. Raises an error if the document is gone. */
export function openSource(turn, source) {
  const name = source.filename || "The document";
  // a text that was pasted is the message itself
  const messages = turn.documents.length ? [] : [{name: "Your message", text: turn.question, pages: []}];
  const documents = [...turn.documents.map(findDocument).filter(Boolean), ...messages]
    .sort((a, b) => (b.name === source.filename) - (a.name === source.filename));
  if (!documents.length) throw new Error(name + " was removed: add it again to open it.");
  for (const one of documents) {
    const passage = passageOf(one.text, source);
    if (passage) return openViewer(one, passage);
  }
  return openViewer(documents[0], null, "The passage is not in this text.");
}

const plain = text => text.replace(/[\s…]+/g, " ").trim();

/** Where a source stands in a text: where the server says, if the quote is there, or else where the quote is. */
function passageOf(text, {document_start: start, document_end: stop, quote = ""}) {
  if (Number.isInteger(start) && Number.isInteger(stop)) {
    const place = placesIn(text);
    const passage = {start: place(start), stop: place(stop)};
    const [found, wanted] = [plain(text.slice(passage.start, passage.stop)), plain(quote)];
    // a quote may be shorter than its passage, or have the end of a word more
    const isThere = found.includes(wanted) || (wanted.includes(found) && 2 * found.length > wanted.length);
    if (found && isThere) return passage;
  }
  const found = quote ? text.indexOf(quote) : -1;
  return found < 0 ? null : {start: found, stop: found + quote.length};
}
