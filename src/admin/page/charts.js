// Charts: lines over time, drawn as SVG by hand. Where nothing was measured there is a gap,
// and where members did not answer there is a mark; nothing is filled in.

import { at, count, fill, make, number, percent, seconds, setAttribute, setText, sign, size, some } from "./dom.js";
import { ask } from "./feed.js";

const WIDTH = 1000;
const HEIGHT = 100;
const LINES_MAX = 6;   // more are told by their number
const MINUTE = 60000;

export const RANGES = {
  "15m": { name: "15 min", ms: 15 * MINUTE, step: 5000 },
  "1h": { name: "1 h", ms: 60 * MINUTE, step: 20000 },
  "6h": { name: "6 h", ms: 360 * MINUTE, step: 2 * MINUTE },
  "1d": { name: "1 d", ms: 1440 * MINUTE, step: 10 * MINUTE },
  "7d": { name: "7 d", ms: 10080 * MINUTE, step: 60 * MINUTE },
};

const rate = (value) => `${number(value)}/s`;
const bytes = (value) => `${size(value)}/s`;
// `of` says what a line is of a row: `total` is what the members have together.
const one = (series, name, of, more) => ({ series, name, of, ...more });

export const CLUSTER = [
  { id: "requests", title: "Requests", unit: rate, lines: [one("requests", "answered, all members", "total")] },
  { id: "errors", title: "Errors", unit: rate, lines: [
    one("errors", "failed (500 and more)", "total"), one("requests.refused", "refused (400 to 499)", "total")] },
  { id: "latency", title: "Latency", unit: seconds, percentiles: true, sparse: true, lines: [
    one("latency", "p50", "p50"), one("latency", "p95", "p95"), one("latency", "p99", "p99")] },
  { id: "cpu", title: "Processor", unit: percent, most: 100, lines: [
    one("cpu", "average", "avg", { band: true }), one("cpu", "highest", "max")] },
  { id: "memory", title: "Memory", unit: size, lines: [
    one("mem.used", "used, all members", "total"), one("mem.total", "there is", "total")] },
  { id: "disk", title: "Disk, fullest member", unit: percent, most: 100, lines: [one("disk.used *", "", "max")] },
  { id: "network", title: "Network", unit: bytes, lines: [
    one("net.in", "received", "total"), one("net.out", "sent", "total")] },
  { id: "load", title: "Load", unit: number, lines: [
    one("load", "average", "avg", { band: true }), one("load", "highest", "max")] },
];

export const MEMBER = [
  { id: "requests", title: "Requests", unit: rate, lines: [
    one("requests", "answered", "avg"), one("requests.forwarded", "by another member", "avg")] },
  { id: "errors", title: "Errors", unit: rate, lines: [
    one("errors", "failed (500 and more)", "avg"), one("requests.refused", "refused (400 to 499)", "avg")] },
  CLUSTER[2],
  { id: "cpu", title: "Processor", unit: percent, most: 100, lines: [
    one("cpu", "in use", "avg", { band: true }), one("cpu.wait", "waits for a disk", "avg"),
    one("cpu.steal", "given to others", "avg")] },
  { id: "memory", title: "Memory", unit: size, lines: [
    one("mem.used", "used", "avg"), one("mem.total", "there is", "avg"), one("swap.used", "swap", "avg")] },
  { id: "disk", title: "Disk", unit: percent, most: 100, lines: [one("disk.used *", "", "last")] },
  { id: "network", title: "Network", unit: bytes, lines: [
    one("net.in", "received", "avg"), one("net.out", "sent", "avg")] },
  { id: "load", title: "Load", unit: number, lines: [one("load", "over a minute", "avg", { band: true })] },
];

export const application = (app) => [
  { id: "requests", title: "Requests", unit: rate, sparse: true, lines: [one(`requests ${app}`, "answered", "total")] },
  { id: "errors", title: "Errors", unit: rate, sparse: true, lines: [
    one(`errors ${app}`, "failed (500 and more)", "total"),
    one(`requests.refused ${app}`, "refused (400 to 499)", "total")] },
  { ...CLUSTER[2], lines: CLUSTER[2].lines.map((line) => ({ ...line, series: `latency ${app}` })) },
];

export const SMALL = ["requests", "errors", "latency", "cpu"].map((id) => CLUSTER.find((c) => c.id === id));

// ---- A group of charts: one range, one cursor, one question --------------------------------

export class Charts {
  // `note` is the element that says who did not answer.
  constructor(host, note, specs, { member = null, range = "15m" } = {}) {
    this.member = member;
    this.note = note;
    this.control = new AbortController();
    this.timer = null;
    this.moment = null;
    this.frame = 0;
    this.charts = specs.map((spec) => new Chart(this, spec));
    host.replaceChildren(...this.charts.map((chart) => chart.element));
    this.choose(range);
  }

  choose(range) {
    this.range = RANGES[range] || RANGES["15m"];
    this.control.abort();
    this.control = new AbortController();
    window.clearTimeout(this.timer);
    this.turn(this.control.signal);
  }

  stop() {
    this.control.abort();
    window.clearTimeout(this.timer);
  }

  async turn(signal) {
    if (!document.hidden) {
      const [plain, spread] = await Promise.all([this.ask(false, signal), this.ask(true, signal)]);
      if (signal.aborted) return;
      this.tell(plain, spread);
      for (const chart of this.charts) {
        const answer = chart.spec.percentiles ? spread : plain;
        if (answer && answer.ok) chart.take(answer.ok);
      }
    }
    const pause = Math.min(MINUTE, Math.max(5000, this.range.step / 2));
    this.timer = window.setTimeout(() => this.turn(signal), pause);
  }

  ask(percentiles, signal) {
    const lines = this.charts.filter((c) => Boolean(c.spec.percentiles) === percentiles).flatMap((c) => c.spec.lines);
    if (!lines.length) return null;
    const series = [...new Set(lines.map((line) => line.series))].join(";");
    const query = new URLSearchParams({ series, from: String(Date.now() - this.range.ms), step: String(this.range.step) });
    if (percentiles) query.set("percentiles", "true");
    if (this.member) query.set("member", this.member);
    return ask(`/api/v1/series?${query}`, signal);
  }

  // Who is not in the numbers, and why.
  tell(plain, spread) {
    const failed = [plain, spread].find((answer) => answer && answer.why);
    const silent = [plain, spread].flatMap((answer) => (answer && answer.ok ? answer.ok.silent : []));
    const why = new Map(silent.map((s) => [s.member, s.why]));
    const names = [...why.keys()].sort();
    this.note.hidden = !failed && !names.length;
    fill(this.note, [failed ? failed.why : "", names], () => [
      sign("▲ "),
      failed ? `What was measured is not known anew: ${failed.why} ` : "",
      names.length === 1 ? `Without ${names[0]}: ${why.get(names[0])}`
        : names.length ? `Without ${listed(names)}: they did not answer, or are down.` : "",
    ]);
  }

  // The same moment in all of them. None is the newest.
  point(moment) {
    if (moment === this.moment) return;
    this.moment = moment;
    window.cancelAnimationFrame(this.frame);
    this.frame = window.requestAnimationFrame(() => this.charts.forEach((chart) => chart.point(moment)));
  }
}

const listed = (names) => (names.length > 8 ? `${count(names.length)} members (${some(names, 4)})` : names.join(", "));

// ---- One chart ------------------------------------------------------------------------------

let told = 0;

class Chart {
  constructor(group, spec) {
    this.group = group;
    this.spec = spec;
    this.data = null;
    this.moment = null;
    told += 1;
    const id = `chart-${told}`;
    const title = make("h3", "", spec.title);
    title.id = id;
    this.when = make("span", "when dim", "…");
    this.values = make("ul", "values");
    this.top = make("span", "edge top");
    this.bottom = make("span", "edge bottom");
    this.from = make("span", "", "");
    this.empty = make("p", "nothing", "Asking …");
    this.svg = drawing("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" });
    this.grid = drawing("path", { class: "lattice", d: `M0 0H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT}H${WIDTH}` });
    this.marks = drawing("path", { class: "absent" });
    this.cursor = drawing("line", { class: "cursor away", y1: 0, y2: HEIGHT, x1: -1, x2: -1 });
    this.band = drawing("path", { class: "band" });
    this.lines = Array.from({ length: LINES_MAX }, (_, i) => drawing("path", { class: `line c${i + 1}` }));
    this.svg.append(this.grid, this.band, ...this.lines, this.marks, this.cursor);
    this.plot = make("div", "plot", this.svg, this.top, this.bottom, this.empty);
    this.plot.tabIndex = 0;
    const labels = { "role": "slider", "aria-labelledby": id, "aria-valuemin": "0", "aria-valuemax": "0",
      "aria-valuenow": "0", "aria-valuetext": "nothing yet" };
    for (const [name, value] of Object.entries(labels)) this.plot.setAttribute(name, value);
    this.element = make("section", "chart card", make("div", "head", title, this.when), this.values, this.plot,
      make("div", "axis dim", this.from, make("span", "", "now")));
    this.element.setAttribute("aria-labelledby", id);
    this.listen();
  }

  listen() {
    this.plot.addEventListener("pointermove", (event) => {
      const box = this.plot.getBoundingClientRect();
      if (this.data && box.width) this.group.point(this.momentAt((event.clientX - box.left) / box.width));
    });
    this.plot.addEventListener("pointerleave", () => this.group.point(null));
    this.plot.addEventListener("blur", () => this.group.point(null));
    this.plot.addEventListener("keydown", (event) => {
      if (!this.data || event.ctrlKey || event.metaKey || event.altKey) return;
      const { from, step, rows } = this.data;
      const now = this.moment === null ? rows - 1 : Math.round((this.moment - from) / step);
      const to = { ArrowLeft: now - 1, ArrowRight: now + 1, ArrowDown: now - 1, ArrowUp: now + 1,
        PageDown: now - 10, PageUp: now + 10, Home: 0, End: rows - 1 }[event.key];
      if (event.key === "Escape") this.group.point(null);
      if (to === undefined) return;
      event.preventDefault();
      this.group.point(from + Math.min(Math.max(to, 0), rows - 1) * step);
    });
  }

  momentAt(share) {
    const { from, step, rows } = this.data;
    return from + Math.min(Math.max(Math.floor(share * rows), 0), rows - 1) * step;
  }

  take(measured) {
    const { from, to, step } = measured;
    const rows = Math.max(1, Math.round((to - from) / step));
    const lines = this.spec.lines.flatMap((line) => linesOf(line, measured));
    const absent = new Map();
    // Where not every member has something to tell all the time, only those count that are silent.
    const silent = new Set(measured.silent.map((s) => s.member));
    for (const row of lines.flatMap((line) => line.rows)) {
      const missing = (row.missing || []).filter((name) => !this.spec.sparse || silent.has(name));
      if (missing.length) absent.set(row.at, missing);
    }
    this.data = { from, to, step, rows, lines: lines.slice(0, LINES_MAX), left: lines.length - LINES_MAX, absent };
    this.draw();
    this.point(this.moment !== null && this.moment >= from ? this.moment : null);
  }

  draw() {
    const { from, to, step, lines, absent } = this.data;
    const known = lines.some((line) => line.points.size > 0);
    this.empty.hidden = known;
    setText(this.empty, "Nothing was measured in this time.");
    this.most = this.spec.most || nice(Math.max(0, ...lines.flatMap((line) => [...line.points.values(), ...line.tops.values()])));
    const x = (moment) => ((moment + step / 2 - from) / (to - from)) * WIDTH;
    const y = (value) => HEIGHT - (Math.min(value, this.most) / this.most) * HEIGHT;
    this.lines.forEach((path, i) => setAttribute(path, "d", lines[i] ? trace(lines[i].points, step, x, y) : ""));
    const banded = lines.find((line) => line.band);
    setAttribute(this.band, "d", banded ? ribbon(banded.rows, step, x, y) : "");
    const half = (step / 2 / (to - from)) * WIDTH;
    // The newest row is not over: who is not in it may still tell.
    const marked = [...absent.keys()].filter((moment) => moment + step < to).sort((a, b) => a - b);
    const wide = Math.min(Math.max(half, 2), 6);
    setAttribute(this.marks, "d", marked.map((moment) => {
      const middle = x(moment);
      return `M${(middle - wide).toFixed(1)} ${HEIGHT + 7}L${middle.toFixed(1)} ${HEIGHT + 1}L${(middle + wide).toFixed(1)} ${HEIGHT + 7}Z`;
    }).join(""));
    setText(this.top, known ? this.spec.unit(this.most) : "");
    setText(this.bottom, known ? this.spec.unit(0) : "");
    setText(this.from, ago(to - from));
    setAttribute(this.plot, "aria-valuemax", String(this.data.rows - 1));
  }

  point(moment) {
    this.moment = moment;
    if (!this.data) return;
    const { from, to, step, rows, lines, left, absent } = this.data;
    // Charts with longer rows show the one that the moment is in.
    const newest = Math.max(from, ...lines.flatMap((line) => [...line.points.keys()]));
    const shown = moment === null ? newest : from + Math.min(Math.floor((moment - from) / step), rows - 1) * step;
    const x = ((shown + step / 2 - from) / (to - from)) * WIDTH;
    this.cursor.classList.toggle("away", moment === null);
    setAttribute(this.cursor, "x1", String(x));
    setAttribute(this.cursor, "x2", String(x));
    const time = stamp(shown, to - from);
    setText(this.when, moment === null ? "now" : time);
    const values = lines.map((line) => [line.name, line.points.has(shown) ? this.spec.unit(line.points.get(shown)) : "not known"]);
    // Who is missing now, the note above says.
    const missing = moment === null ? [] : absent.get(shown) || [];
    const shape = [values.map(([name]) => name), missing, left];
    fill(this.values, shape, () => [
      ...values.map(([name, value], i) => make("li", "", key(i), make("span", "dim", `${name} `), make("strong", "", value))),
      left > 0 ? make("li", "dim", `and ${left} more`) : null,
      missing.length ? make("li", "without", sign("▲ "), `without ${some(missing, 3)}`) : null,
    ].filter(Boolean));
    values.forEach(([, value], i) => setText(this.values.children[i].lastElementChild, value));
    setAttribute(this.plot, "aria-valuenow", String(Math.max(0, Math.round((shown - from) / step))));
    setAttribute(this.plot, "aria-valuetext", `${time}: ${values.map(([name, value]) => `${name} ${value}`).join(", ")}` +
      (missing.length ? `; without ${some(missing, 3)}` : ""));
  }
}

// The same stroke as the line: its colour and its dashes.
function key(i) {
  const svg = drawing("svg", { viewBox: "0 0 24 8", class: "key", "aria-hidden": "true", focusable: "false" });
  svg.append(drawing("path", { class: `line c${i + 1}`, d: "M0 4H24" }));
  return svg;
}

function linesOf(line, measured) {
  const pattern = line.series.endsWith(" *") ? line.series.slice(0, -1) : null;
  const found = measured.series.filter((s) => (pattern ? s.series.startsWith(pattern) : s.series === line.series));
  const value = (row) => (row.percentiles && line.of in row.percentiles ? row.percentiles[line.of] : row[line.of]);
  const made = (series, name) => {
    const points = new Map();
    for (const row of series ? series.rows : []) if (Number.isFinite(value(row))) points.set(row.at, value(row));
    const tops = new Map(line.band && series ? series.rows.map((row) => [row.at, row.max]) : []);
    return { name, points, tops, rows: series ? series.rows : [], band: line.band };
  };
  if (!pattern) return [made(found[0], line.name)];
  const all = found.map((s) => made(s, s.series.slice(pattern.length)));
  const newest = (of) => [...of.points.values()].pop() ?? -1;
  return all.sort((a, b) => newest(b) - newest(a));
}

function trace(points, step, x, y) {
  let path = "";
  let before = null;
  for (const [moment, value] of points) {
    const to = `${x(moment).toFixed(1)} ${y(value).toFixed(1)}`;
    // A single one is a dot: round ends make it seen.
    path += before !== null && moment - before <= step * 1.5 ? `L${to}` : `M${to}h0.01`;
    before = moment;
  }
  return path;
}

function ribbon(rows, step, x, y) {
  let path = "";
  let run = [];
  const close = () => {
    if (run.length > 1) {
      const up = run.map((r) => `${x(r.at).toFixed(1)} ${y(r.max).toFixed(1)}`);
      const down = run.map((r) => `${x(r.at).toFixed(1)} ${y(r.min).toFixed(1)}`).reverse();
      path += `M${up.join("L")}L${down.join("L")}Z`;
    }
    run = [];
  };
  for (const row of rows) {
    if (run.length && row.at - run[run.length - 1].at > step * 1.5) close();
    run.push(row);
  }
  close();
  return path;
}

function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 5, 7.5, 10].map((n) => n * power).find((n) => n >= value * 1.0001) || value;
}

function ago(ms) {
  const name = Object.values(RANGES).find((range) => ms < range.ms * 1.5);
  return name ? `${name.name} ago` : "";
}

function stamp(ms, whole) {
  const day = whole > 720 * MINUTE ? { weekday: "short" } : { second: "2-digit" };
  return new Date(ms).toLocaleString("en-GB", { ...day, hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

function drawing(tag, attributes) {
  // The page has one drawing already, which knows the name of the vocabulary.
  const element = document.createElementNS(at("drawing").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}
