// The server counts characters, JavaScript counts UTF-16 units: an emoji is one of those, and two of these.

/** A function from a number of characters to the place in `text`. */
export function placesIn(text) {
  if (!/[\ud800-\udfff]/.test(text)) return n => Math.min(Math.max(0, n), text.length);
  const places = [];
  let place = 0;
  for (const character of text) {
    places.push(place);
    place += character.length;
  }
  return n => places[Math.max(0, n)] ?? text.length;
}
