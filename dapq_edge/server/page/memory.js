// Memory in use, and what is kept of the last prompt.

import {getJson} from "./api.js";
import {$, count, make, nameOf, number} from "./dom.js";

/** Show the memory; returns what the server said, or null. */
export async function showUsage() {
  try {
    const usage = await getJson("api/usage");
    const share = usage.n_cells ? 100 * usage.n_cells_used / usage.n_cells : 0;
    $("gauge").firstElementChild.style.width = share + "%";
    $("gauge").setAttribute("aria-valuenow", Math.round(share));
    $("figures").replaceChildren(figuresOf(usage), ...readingOf(usage));
    return usage;
  } catch (error) {
    $("figures").textContent = error.message;
    return null;
  }
}

function figuresOf(usage) {
  const mib = bytes => (bytes / 2 ** 20).toFixed(1);
  const [seen, windows] = usage.n_windows;
  return [
    count(usage.n_tokens, "token") + " in " + number(usage.n_cells_used) + " of " + count(usage.n_cells, "cell") + ", " +
      mib(usage.bytes_used) + " of " + mib(usage.bytes_allocated) + " MiB",
    count(usage.n_evictions, "eviction") + ", " + count(usage.n_rereads, "re-read"),
    seen < windows &&
      "looked at " + number(seen) + " of " + count(windows, "window") + ", where the words of the question stand",
    usage.n_stored && "took " + count(usage.n_stored, "window") + " from the store",
  ].filter(Boolean).join("; ");
}

/** What is read while nobody asks. */
function readingOf({reading_document: name, reading_done: done, reading_total: total}) {
  return name && total > 1 ? ["; reading ", nameOf(name), ": " + number(done) + " of " + count(total, "token")] : [];
}

export async function showKept() {
  $("kept").hidden = !$("show-kept").checked;
  if ($("kept").hidden) return;
  try {
    const {pieces} = await getJson("api/kept");
    $("kept-text").replaceChildren(...pieces.map(shaded));
    $("kept-error").textContent = "";
    if (!pieces.length) $("kept-text").textContent = "Nothing was asked yet.";
  } catch (error) {
    $("kept-error").textContent = error.message;
  }
}

function shaded([text, share]) {
  const part = make("span", {}, text);
  if (share > 0) {
    part.style.background = "rgba(var(--kept), calc(.06 + var(--most) * " + share.toFixed(2) + "))";
    part.title = Math.round(100 * share) + "% of the heads";
  }
  return part;
}
