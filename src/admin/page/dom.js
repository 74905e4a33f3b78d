// Elements and words. Names, messages and reasons were written by other people: they reach
// the document as text (textContent) and in no other way.

export const at = (id) => document.getElementById(id);

export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

// Fills an element only when what it shows has changed: focus, selection and open details
// stay, and 200 members cost nothing while nothing happens. `patch` may change what stands there.
const filled = new WeakMap();
export function fill(element, data, build, patch) {
  const key = typeof data === "string" ? data : JSON.stringify(data);
  if (filled.get(element) === key) return false;
  filled.set(element, key);
  if (patch && patch(element)) return true;
  // The button that has the focus may be built anew, or become its counterpart.
  const { activeElement: before } = document;
  const act = element.contains(before) ? before.dataset.act : undefined;
  element.replaceChildren(...build());
  const after = act && [...element.querySelectorAll("[data-act]")].find((one) => one.dataset.act === act);
  if (after) after.focus({ preventScroll: true });
  return true;
}

export function forget(element) {
  filled.delete(element);
}

// One element an item, kept by its key, in the order of the items. `update` is called for all.
const lists = new WeakMap();
export function keyed(parent, items, keyOf, create, update) {
  if (!lists.has(parent)) lists.set(parent, new Map());
  const known = lists.get(parent);
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, element] of known) {
    if (!wanted.has(key)) {
      element.remove();
      known.delete(key);
    }
  }
  let place = parent.firstElementChild;
  for (const [key, item] of wanted) {
    let element = known.get(key);
    if (!element) {
      element = create(item);
      known.set(key, element);
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
}

// Isolated, so that a name with right-to-left marks can't disorder its line.
export const said = (text) => make("bdi", "", String(text));
export const unseen = (text) => make("span", "sr", text);
export const dim = (...children) => make("span", "dim", ...children);
// Who asked for something with a token, as { operator, at }; nothing without one.
export const whose = (asked) => (asked ? [dim(" by operator "), said(asked.operator), dim(", at "), said(asked.at)] : []);

export function sign(text) {
  const element = make("span", "", text);
  element.setAttribute("aria-hidden", "true");
  return element;
}

const SIGNS = { good: "✓", warn: "!", bad: "✕", busy: "↻", calm: "–" };
export const badge = (kind, text) => make("span", `badge ${kind}`, sign(SIGNS[kind]), said(text));

export function fact(term, ...values) {
  return make("div", "", make("dt", "", term), make("dd", "", ...values));
}

// What stands between backticks is a command to copy.
export function commands(text) {
  return text.split("`").map((piece, i) => (i % 2 ? make("code", "", piece) : said(piece)));
}

export function link(href, ...children) {
  const element = make("a", "", ...children);
  element.href = href;
  return element;
}

export const memberLink = (name) => link(`#/member/${encodeURIComponent(name)}`, said(name));
export const appLink = (name) => link(`#/app/${encodeURIComponent(name)}`, said(name));

export function cell(label, className = "") {
  const td = make("td", className);
  td.setAttribute("role", "cell");
  td.dataset.label = label;
  return td;
}

export function row() {
  const tr = make("tr", "");
  tr.setAttribute("role", "row");
  return tr;
}

// ---- Words for numbers ---------------------------------------------------------------------

export const count = (n) => Number(n).toLocaleString("en");
export const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;

// The first few of many names.
export function some(names, most = 8) {
  const more = names.length - most;
  return names.slice(0, most).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

function scaled(value, units) {
  let unit = 0;
  let rest = Number(value);
  while (Math.abs(rest) >= 1000 && unit < units.length - 1) {
    rest /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || Math.abs(rest) >= 100 ? 0 : 1;
  return `${rest.toFixed(digits)}${units[unit]}`;
}

export const size = (bytes) => scaled(bytes, [" B", " kB", " MB", " GB", " TB", " PB"]);
export const percent = (value) => `${value >= 10 || value === 0 ? Math.round(value) : value.toFixed(1)} %`;

export function number(value) {
  if (value === 0) return "0";
  const far = Math.abs(value);
  if (far >= 10000) return scaled(value, ["", "k", "M", "G", "T"]);
  return far >= 100 ? String(Math.round(value)) : far >= 1 ? value.toFixed(1) : value.toPrecision(2);
}

export function seconds(value) {
  if (value === 0) return "0 s";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${value < 0.1 ? (value * 1000).toFixed(1) : Math.round(value * 1000)} ms`;
  return value < 120 ? `${value.toFixed(1)} s` : span(value * 1000);
}

export function span(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const DAY = { weekday: "short", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };

export function clock(ms) {
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return "";
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString("en-GB", today ? CLOCK : DAY);
}

export function moment(ms) {
  const time = make("time", "", clock(ms));
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return time;
  time.dateTime = date.toISOString();
  time.title = date.toLocaleString("en-GB", { dateStyle: "full", timeStyle: "long" });
  return time;
}
