// Documents and conversations, in IndexedDB. Without it the page works, and says that nothing is kept.

import {$} from "./dom.js";

const STORES = ["documents", "conversations"];
let database = null;

const ended = request => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
  // a page of another version is open in another tab
  request.onblocked = () => reject(new Error("close the other tabs of this page"));
});

export async function openStorage() {
  try {
    const request = indexedDB.open("dapq-edge", 1);
    request.onupgradeneeded = () => STORES.forEach(name => request.result.createObjectStore(name, {keyPath: "id"}));
    database = await ended(request);
  } catch (error) {
    say("This browser keeps nothing of this page: a reload loses it (" + error.message + ").");
  }
}

export async function loadAll(store) {
  if (!database) return [];
  try {
    return await ended(database.transaction(store).objectStore(store).getAll());
  } catch (error) {
    say("What this browser kept of this page cannot be read (" + error.message + ").");
    return [];
  }
}

export const save = (store, value) => change(store, value.id, objects => objects.put(value));
export const forget = (store, id) => change(store, id, objects => objects.delete(id));

// why, by the ids of what could not be kept: another success does not end that
const failed = new Map();

async function change(store, id, act) {
  if (!database) return;
  try {
    const transaction = database.transaction(store, "readwrite");
    const end = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    act(transaction.objectStore(store));
    await end;
    failed.delete(id);
  } catch (error) {
    failed.set(id, error?.name === "QuotaExceededError"
      ? "The storage of this browser is full: a reload loses what you add now. Remove documents or conversations."
      : "This browser could not keep the last change (" + (error?.message || "no reason given") + ").");
  }
  say([...failed.values()].at(-1) || "");
}

function say(text) {
  // an alert that is written again is read out again
  if ($("storage").textContent !== text) $("storage").textContent = text;
}

/** An id; `crypto.randomUUID` is missing where the page does not come from this machine. */
export const newId = () => Date.now().toString(36) + "-" + Math.random().toString(36).slice(2, 10);
