// What the page asks of the server. Each failure is an Error whose message is one line.

const SETTINGS = ["budget", "policy", "key"];

/** Settings stay until the tab is closed: a key belongs into no longer memory. */
export function keepSettings(field) {
  for (const name of SETTINGS) {
    try { field(name).value = sessionStorage.getItem(name) || "" } catch { /* kept while the page is open */ }
    field(name).addEventListener("input", () => {
      try { sessionStorage.setItem(name, field(name).value) } catch { /* as above */ }
    });
  }
}

export class Refusal extends Error {}

export async function call(path, options = {}) {
  const key = document.getElementById("key").value.trim();
  const headers = {...options.headers, ...(key && {authorization: "Bearer " + key})};
  let response;
  try {
    response = await fetch(path, {...options, headers});
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("The server cannot be reached: is it still running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  let text = body?.error?.message || "the server answered " + response.status + " " + response.statusText;
  if (response.status === 401) text += " (Settings: API key)";
  return Object.assign(new Refusal(text), {param: body?.error?.param});
}

export async function getJson(path) {
  return (await call(path)).json();
}

export async function sendDocument(file, name, options) {
  const query = new URLSearchParams({name, ...options});
  const headers = {"content-type": "application/octet-stream"};
  const found = await (await call("api/document?" + query, {method: "POST", body: file, headers})).json();
  return {name, text: found.text, n_tokens: found.n_tokens, pages: found.pages || [], notes: found.notes || []};
}

/** Yield {chunk} and {comment} of a stream; raises an error if it ends before its end. */
export async function* streamChat(body, signal) {
  const headers = {"content-type": "application/json"};
  const options = {method: "POST", body: JSON.stringify({...body, stream: true}), headers, signal};
  const response = await call("v1/chat/completions", options);
  for await (const line of linesOf(response, signal)) {
    if (line.startsWith(":")) yield {comment: line.slice(1).trim()};
    if (!line.startsWith("data:")) continue;
    const data = line.slice(5).trim();
    if (data === "[DONE]") return;
    const chunk = parse(data);
    if (chunk.error) throw new Refusal(chunk.error.message || "the server failed");
    yield {chunk};
  }
  throw new Error("The connection broke before the answer ended.");
}

function parse(data) {
  try { return JSON.parse(data) } catch { throw new Error("The server sent what is no answer.") }
}

async function* linesOf(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const {value, done} = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      yield* lines;
    }
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("The connection broke before the answer ended.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
