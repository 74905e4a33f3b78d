// What the member tells: the stream of views and events, and questions that are asked while
// somebody looks at the answer. Nothing here can change anything: see acts.js.

export const EVENTS_MAX = 500;    // events that are kept
const STALE_AFTER_S = 12;         // a view comes every five seconds
const REOPEN_AFTER_S = 20;        // a connection that is silent this long is dead
const DRAW_EVERY_MS = 200;        // views may come faster than anybody reads

export const state = {
  view: null,
  metrics: null,
  events: [],       // of this member, newest first
  readings: null,   // what each member measured last
  levels: null,     // who serves by which rule
  acting: null,     // rules about members that act
  checkups: null,   // what members found out about their machines
  roster: null,     // what the logs of all members say about who was taken aside
  operator: null,   // who is signed in
  heard: Date.now(),
  viewed: 0,
};

let source = null;
let changed = () => {};
let start = "";
let last = "";
let fresh = null;   // the text of the newest view, not read yet
let timer = null;

export function connect(onChange) {
  changed = onChange;
  open();
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) schedule();
  });
}

function open() {
  if (source) source.close();
  state.heard = Date.now();
  // A browser sends the last id by itself only on reconnects of its own.
  source = new EventSource(`/api/v1/stream${last ? `?last=${encodeURIComponent(last)}` : ""}`);
  const on = (name, take) => source.addEventListener(name, (message) => {
    state.heard = Date.now();
    take(message.data, message.lastEventId);
    schedule();
  });
  // Only the newest one is read, however many came since the last look.
  on("view", (data) => { fresh = data; state.viewed = Date.now(); });
  on("metrics", (data) => { state.metrics = JSON.parse(data); });
  on("event", takeEvent);
  // A lost connection it repairs itself; one that was refused, age() reopens.
}

function takeEvent(data, id) {
  const of = id.split("-")[0];
  if (of !== start) {
    start = of;
    state.events = [];
  }
  last = id;
  state.events.unshift({ ...JSON.parse(data), key: id });
  if (state.events.length > EVENTS_MAX) state.events.length = EVENTS_MAX;
}

export function schedule() {
  if (timer !== null || document.hidden) return;
  timer = window.setTimeout(() => {
    timer = null;
    if (fresh !== null) {
      state.view = JSON.parse(fresh);
      fresh = null;
    }
    if (state.view) changed();
  }, state.view ? DRAW_EVERY_MS : 0);
}

// How old what is shown is: seconds, and whether that is too old.
export function age() {
  const now = Date.now();
  if ((now - state.heard) / 1000 >= REOPEN_AFTER_S) open();
  const old = Math.floor((now - (state.view ? state.viewed : state.heard)) / 1000);
  return { old, stale: state.view !== null && old >= STALE_AFTER_S };
}

// ---- Questions -----------------------------------------------------------------------------

// The answer, or a sentence why there is none.
export async function ask(path, signal) {
  try {
    const response = await fetch(path, { signal, cache: "no-store" });
    if (response.ok) return { ok: await response.json() };
    const body = await response.json().catch(() => ({}));
    const why = body.error ? `${body.error.what} ${body.error.why}` : `It answered with status ${response.status}.`;
    return { why };
  } catch (error) {
    return { why: "This member does not answer.", gone: error.name === "AbortError" };
  }
}

// Asks again and again while a view is open and seen. `stop` ends it.
export function repeat(pathOf, every, take) {
  const control = new AbortController();
  let wait = null;
  const turn = async () => {
    if (!document.hidden) {
      const answer = await ask(pathOf(), control.signal);
      if (control.signal.aborted) return;
      take(answer);
    }
    wait = window.setTimeout(turn, every());
  };
  turn();
  return {
    stop() {
      control.abort();
      window.clearTimeout(wait);
    },
  };
}

const READINGS = ["cpu", "load", "mem.used", "mem.total", "requests", "errors", "disk.used *"];

// What each member measured in the last quarter of a minute.
export function readingsPath() {
  const from = Date.now() - 15000;
  return `/api/v1/series?series=${encodeURIComponent(READINGS.join(";"))}&each=true&from=${from}`;
}

export function takeReadings(measured) {
  const of = new Map();
  for (const one of measured.series) {
    const row = one.rows[one.rows.length - 1];
    if (!row || !one.member) continue;
    if (!of.has(one.member)) of.set(one.member, { disks: [] });
    const reading = of.get(one.member);
    const [name, ...label] = one.series.split(" ");
    if (name === "disk.used") reading.disks.push({ mount: label.join(" "), used: row.avg });
    else reading[name] = name === "load" ? row.last : row.avg;
  }
  for (const reading of of.values()) {
    reading.disks.sort((a, b) => b.used - a.used);
    if (reading["mem.total"]) reading.memory = (reading["mem.used"] / reading["mem.total"]) * 100;
  }
  state.readings = { of, silent: new Map(measured.silent.map((s) => [s.member, s.why])) };
}
