// The parts of the page, put together.

import {keepSettings} from "./api.js";
import {ask, newTurn} from "./asking.js";
import {current, keep, openConversations} from "./conversations.js";
import {$, nameOf} from "./dom.js";
import {addFiles, choose, chosenDocuments, isAdding, noteReading, openLibrary} from "./library.js";
import {showKept, showUsage} from "./memory.js";
import {openStorage} from "./storage.js";
import {NOT_FOUND, viewOf} from "./turn.js";
import {wireViewer} from "./viewer.js";

// milliseconds between two looks at the memory, and two saves of an answer that streams
const LOOK = 500, SAVE = 1000;

// the question that is answered: {conversation, turn, stop}
let running = null;
const updates = new Map();

async function start() {
  keepSettings($);
  wireViewer();
  wireQuestion();
  wireDrop();
  $("menu").addEventListener("click", toggleSide);
  $("show-kept").addEventListener("change", showKept);
  await openStorage();
  await openLibrary({onChoice, onAdded: watch});
  await openConversations({onOpen: showConversation, onPick: closeSide, onDelete});
  if (!chosenDocuments().length) toggleSide();
  showUsage();
}

function toggleSide() {
  const isOpen = $("side").classList.toggle("open");
  $("menu").setAttribute("aria-expanded", isOpen);
}

/** On a phone, the side covers the conversation that was picked there. */
function closeSide() {
  if ($("side").classList.contains("open")) toggleSide();
  const isHidden = !$("side").checkVisibility();
  (isHidden ? $("menu") : $("conversations").querySelector("[aria-current]") || $("question")).focus();
}

function onDelete(conversation) {
  if (running?.conversation === conversation) running.stop();
}

function onChoice(ids) {
  current.chosen = ids;
  keep(current);
  showAbout();
}

function showConversation(conversation) {
  updates.clear();
  $("turns").replaceChildren();
  conversation.turns.forEach(turn => addView(conversation, turn));
  choose(conversation.chosen);
  showAbout();
}

function addView(conversation, turn) {
  const {article, update} = viewOf(turn, () => {
    $("send").focus();
    answer(conversation, turn);
  });
  updates.set(turn, update);
  $("turns").append(article);
}

function showAbout() {
  const chosen = chosenDocuments();
  const names = chosen.length > 2 ? ["About " + chosen.length + " documents"]
    : chosen.flatMap((one, i) => [i ? " and " : "About ", nameOf(one.name)]);
  const isElsewhere = running && running.conversation !== current;
  $("about").replaceChildren(
    isElsewhere ? "A question of another conversation is answered now. " : "",
    ...(names.length ? [...names, ". Each question stands alone."] : ["About no document: the conversation goes on."]));
  $("empty").hidden = current.turns.length > 0;
  $("send").textContent = running ? "Stop" : "Ask";
  for (const again of document.querySelectorAll(".again")) again.disabled = Boolean(running);
}

function wireQuestion() {
  $("ask").addEventListener("submit", event => {
    event.preventDefault();
    if (running) running.stop(); else send();
  });
  $("question").addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!running) send();
    }
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape" && !event.isComposing && running && !$("viewer").open) running.stop();
  });
}

function send() {
  const question = $("question").value.trim();
  if (!question) return $("question").focus();
  $("question").value = "";
  const turn = newTurn(question, chosenDocuments());
  current.turns.push(turn);
  addView(current, turn);
  document.documentElement.scrollTop = document.documentElement.scrollHeight;
  answer(current, turn);
}

async function answer(conversation, turn) {
  const controller = new AbortController();
  running = {conversation, turn, stop: () => controller.abort()};
  showAbout();
  $("said").textContent = "Answering";
  const looks = setInterval(showUsage, LOOK), saves = setInterval(() => keep(conversation), SAVE);
  keep(conversation);
  const before = conversation.turns.slice(0, conversation.turns.indexOf(turn));
  await ask(turn, before, controller.signal, () => follow(turn));
  clearInterval(looks);
  clearInterval(saves);
  running = null;
  keep(conversation);
  showAbout();
  $("said").textContent = (turn.evidence?.not_found ? NOT_FOUND + " " : "") + turn.answer;
  await showUsage();
  await showKept();
  watch();
}

/** Show a change, and go on showing the end if it was in sight. */
function follow(turn) {
  // another conversation is shown
  if (!updates.has(turn)) return;
  const page = document.documentElement;
  const isAtEnd = page.scrollHeight - page.clientHeight - page.scrollTop < 80;
  updates.get(turn)();
  if (isAtEnd) page.scrollTop = page.scrollHeight;
}

let isWatching = false;

/** Look at what is read in idle time, until it is done. */
async function watch() {
  if (isWatching) return;
  isWatching = true;
  let usage, isMore = true;
  while (!running && isMore) {
    await new Promise(done => setTimeout(done, LOOK));
    usage = await showUsage();
    isMore = usage ? noteReading(usage) : isAdding();
  }
  isWatching = false;
}

function wireDrop() {
  const isFiles = event => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", event => {
    if (!isFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("over") });
  document.addEventListener("drop", event => {
    if (!isFiles(event)) return;
    event.preventDefault();
    document.body.classList.remove("over");
    addFiles([...event.dataTransfer.files]);
  });
}

start();
