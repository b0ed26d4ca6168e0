// Conversations: turns, and which documents they are about. They survive a reload.

import {$, button, focusAt, make} from "./dom.js";
import {forget, loadAll, newId, save} from "./storage.js";

let conversations = [];
export let current = null;
let onOpen, onPick, onDelete;

export async function openConversations(callbacks) {
  ({onOpen, onPick, onDelete} = callbacks);
  conversations = (await loadAll("conversations")).sort((a, b) => b.changed - a.changed);
  for (const turn of conversations.flatMap(one => one.turns)) {
    if (turn.status === "asking") turn.status = "cut";
  }
  $("new").addEventListener("click", () => {
    open(blank());
    onPick();
  });
  open(conversations[0] || blank());
}

const blank = () => ({id: newId(), turns: [], chosen: current?.chosen || [], changed: Date.now()});

function open(conversation) {
  current = conversation;
  show();
  onOpen(conversation);
}

/** Keep a conversation as it is now. */
export function keep(conversation) {
  if (conversation.isDeleted) return;
  conversation.changed = Date.now();
  if (!conversations.includes(conversation)) conversations.unshift(conversation);
  save("conversations", conversation);
  show();
}

const titleOf = conversation => conversation.turns[0]?.question || "New conversation";

let shown = "";

function show() {
  const now = JSON.stringify(conversations.map(one => [one.id, titleOf(one), one === current]));
  // a list that is made again loses the keyboard focus
  if (now !== shown) $("conversations").replaceChildren(...conversations.map(itemOf));
  shown = now;
}

function itemOf(conversation) {
  const title = titleOf(conversation);
  const isCurrent = conversation === current;
  return make("li", {},
    button(title.length > 60 ? title.slice(0, 60) + "…" : title, () => {
      open(conversation);
      onPick();
    }, {className: "plain open", ...(isCurrent && {"aria-current": "true"})}),
    button("Delete", () => remove(conversation),
      {className: "plain", "aria-label": "Delete the conversation: " + title}));
}

function remove(conversation) {
  if (!confirm("Delete this conversation?")) return;
  const i = conversations.indexOf(conversation);
  conversations.splice(i, 1);
  conversation.isDeleted = true;
  forget("conversations", conversation.id);
  onDelete(conversation);
  if (conversation === current) open(conversations[0] || blank()); else show();
  focusAt($("conversations"), i, $("new"));
}
