// A question to the server, and what comes back of it, noted in its turn.

import {streamChat} from "./api.js";
import {$} from "./dom.js";
import {findDocument} from "./library.js";

const MAX_TOKENS = 512;

// a server that was started again has forgotten them, and the page has their texts only
const UNKNOWN = "There are no sources: the server does not know these documents any more. Add them again.";

/** A turn that was not answered yet. */
export function newTurn(question, documents) {
  return {question, documents: documents.map(({id, name}) => ({id, name})), ...blank()};
}

function blank() {
  return {answer: "", annotations: [], parts: [], evidence: null, warnings: [], error: "", progress: "", status: "asking"};
}

/** Ask, or ask again; `update` is called at each change. An answer comes back if the next one has no word. */
export async function ask(turn, before, signal, update) {
  const old = {...turn};
  Object.assign(turn, blank());
  update();
  try {
    const isAgain = old.status === "done" && old.answer && (!turn.isWhole || old.parts?.length);
    await receive(turn, streamChat(bodyOf(turn, before, isAgain), signal), update);
    turn.status = "done";
    if (!turn.answer && !turn.evidence?.not_found) turn.warnings.push("The model gave an empty answer.");
    if (turn.documents.length && !turn.evidence) turn.warnings.push(UNKNOWN);
  } catch (error) {
    const isStopped = signal.aborted;
    if (!turn.answer && old.answer) Object.assign(turn, old);
    else turn.status = isStopped ? "stopped" : "failed";
    turn.error = isStopped ? "" : error.message;
  }
  turn.progress = "";
  update();
}

function bodyOf(turn, before, isAgain) {
  const body = {messages: messagesOf(turn, before), max_tokens: MAX_TOKENS, temperature: isAgain ? 0.7 : 0};
  const [budget, policy] = [$("budget").value.trim(), $("policy").value.trim()];
  return {...body, ...(turn.isWhole && {whole: "on"}), ...(budget && {kv_budget: budget}), ...(policy && {policy})};
}

/** A question about documents stands alone: only a message that begins with them finds what was read already. */
function messagesOf(turn, before) {
  if (turn.documents.length) return [{role: "user", content: textsOf(turn) + "\n\n" + turn.question}];
  const earlier = before.filter(one => one.answer && !one.documents.length);
  return [...earlier, turn].flatMap(({question, answer}) => [
    {role: "user", content: question}, ...(answer ? [{role: "assistant", content: answer}] : []),
  ]);
}

function textsOf(turn) {
  const documents = turn.documents.map(one => {
    const found = findDocument(one);
    if (!found) throw new Error(one.name + " was removed: add it again to ask about it.");
    return found;
  });
  return documents.map(({name, text}) => (documents.length > 1 ? name + "\n" + text : text)).join("\n\n");
}

async function receive(turn, stream, update) {
  for await (const {comment, chunk} of stream) {
    if (chunk) note(turn, chunk); else turn.progress = comment;
    update();
  }
}

function note(turn, chunk) {
  const choice = chunk.choices?.[0] || {};
  const {content, annotations} = choice.delta || {};
  if (content) turn.progress = "";
  turn.answer += content || "";
  if (Array.isArray(annotations)) turn.annotations = annotations;
  if (chunk.whole) turn.parts = choice.finish_reason ? chunk.whole.parts : [...turn.parts, ...chunk.whole.parts];
  if (chunk.evidence) turn.evidence = {...turn.evidence, ...chunk.evidence};
  turn.warnings.push(...(chunk.warnings || []));
  if (choice.finish_reason === "length") {
    turn.warnings.push("The answer is cut: it has " + MAX_TOKENS + " tokens, or the context is full.");
  }
}
