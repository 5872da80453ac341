// Elements and numbers for people. Text goes in as text: what peers say is never read as HTML.

export function make(tag, attributes = {}, ...children) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) found.addEventListener(name.slice(2), value);
    else if (value === true) found.setAttribute(name, "");
    else if (value !== false && value != null) found.setAttribute(name, value);
  }
  found.append(...children.filter((child) => child != null));
  return found;
}

export function bytes(count) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(count) < 1000) return `${Number(count.toPrecision(3))} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

export const count = (number) => number.toLocaleString("en");
export const figure = (value) => (value == null ? "–" : Number(value.toPrecision(4)).toString());
export const clock = (time) => new Date(time * 1000).toTimeString().slice(0, 8);
export const title = (text) => make("h1", {}, text);

export function table(columns, rows, caption) {
  const head = columns.map(([name, kind]) => make("th", { scope: "col", class: kind }, name));
  const body = rows.map((row) =>
    make("tr", {}, ...row.map((cell, index) => make("td", { class: columns[index][1] }, cell ?? ""))));
  return make("div", { class: "scroll", tabindex: "0" },
    make("table", {}, caption ? make("caption", {}, caption) : null,
      make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
}

// New children in the place of the old ones; where somebody has scrolled to or stands, stays.
export function renew(holder, ...children) {
  const places = [...holder.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
  const focused = [...holder.querySelectorAll("button, .scroll")].indexOf(document.activeElement);
  holder.replaceChildren(...children);
  [...holder.querySelectorAll(".scroll")].forEach((one, index) => { one.scrollLeft = places[index] ?? 0; });
  if (focused >= 0) holder.querySelectorAll("button, .scroll")[focused]?.focus({ preventScroll: true });
}

export function cards(entries) {
  return make("dl", { class: "cards" }, ...entries.filter(Boolean).map(([name, value, small]) =>
    make("div", { class: small === "wide" ? "card wide" : "card" }, make("dt", {}, name), make("dd", { class: small ? "small" : null }, value))));
}
