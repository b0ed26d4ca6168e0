// Elements; what is said is always text, never HTML.

export const $ = id => document.getElementById(id);

/** An element with properties, attributes (names with a dash, and "role") and children: nodes or texts. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** A name that somebody else chose: its direction does not turn what stands around it. */
export const nameOf = text => make("bdi", {}, text);

export function button(text, onclick, properties = {}) {
  return make("button", {type: "button", onclick, ...properties}, text);
}

export const number = n => Number(n).toLocaleString("en");
export const count = (n, what) => number(n) + " " + what + (n === 1 ? "" : "s");

/** Put keyboard focus on what took the place of an element that is gone. */
export function focusAt(list, i, otherwise) {
  const items = list.querySelectorAll(":scope > li");
  const item = items[Math.min(i, items.length - 1)];
  (item?.querySelector("input, button") || otherwise).focus();
}
