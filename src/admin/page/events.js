// Events: of this member as they happen, or of all members with what brought them about.

import { at, badge, commands, dim, fill, keyed, make, memberLink, appLink, moment, plural, said, setText, sign, some } from "./dom.js";
import { ask, EVENTS_MAX, state } from "./feed.js";

const KINDS = ["member", "membership", "catalog", "window", "version", "vote", "repair", "replication", "service", "address", "user", "rule", "operator", "lie"];
const SEVERITY = { "info": ["calm", "info"], "warning": ["warn", "warning"], "critical": ["bad", "critical"] };
const RANK = { "info": 0, "warning": 1, "critical": 2 };
const TOGETHER_MS = 3000; // what all say of the same within this time is one event
const DAY_MS = 86400000;
const CAUSES_MAX = 8;

const chosen = { source: "here", severity: "info", kind: "", member: "", text: "" };
let all = null; // the log of all members, or why it is not known
let redraw = () => {};

export function eventItem(event, causes = []) {
  const [kind, word] = SEVERITY[event.severity] || ["calm", event.severity];
  const about = [said(event.kind)];
  if (event.member) about.push(" · ", memberLink(event.member));
  if (event.app) about.push(" · ", appLink(event.app));
  if (event.by) about.push(` · told by ${some(event.by, 4)}`);
  const item = make("li", `event ${kind}`,
    make("div", "when", moment(event.at), badge(kind, word)),
    make("div", "what", said(event.text), make("div", "dim small", ...about)));
  if (causes.length) {
    item.lastElementChild.append(make("ol", "causes", ...causes.map((cause) =>
      make("li", "small", sign("↳ "), dim("because "), said(cause.text), " ", moment(cause.at)))));
  }
  return item;
}

export function setUpEvents(draw, go) {
  redraw = draw;
  for (const kind of KINDS) {
    const option = make("option", "", kind);
    option.value = kind;
    at("event-kind").append(option);
  }
  const bind = (id, key, event) => at(id).addEventListener(event, () => {
    chosen[key] = at(id).value;
    if (key === "source") openEvents();
    go(hash());
    draw();
  });
  bind("event-source", "source", "change");
  bind("event-severity", "severity", "change");
  bind("event-kind", "kind", "change");
  bind("event-member", "member", "change");
  bind("event-filter", "text", "input");
}

// What is chosen stands in the address, so that it can be sent to somebody.
function hash() {
  const query = new URLSearchParams();
  if (chosen.source !== "here") query.set("source", chosen.source);
  if (chosen.severity !== "info") query.set("severity", chosen.severity);
  for (const key of ["kind", "member", "text"]) if (chosen[key]) query.set(key, chosen[key]);
  return `#/events${query.size ? `?${query}` : ""}`;
}

export function chooseEvents(query) {
  chosen.source = query.get("source") === "all" ? "all" : "here";
  chosen.severity = query.get("severity") in RANK ? query.get("severity") : "info";
  chosen.kind = KINDS.includes(query.get("kind")) ? query.get("kind") : "";
  chosen.member = query.get("member") || "";
  chosen.text = query.get("text") || "";
  at("event-source").value = chosen.source;
  at("event-severity").value = chosen.severity;
  at("event-kind").value = chosen.kind;
  if (at("event-filter").value !== chosen.text) at("event-filter").value = chosen.text;
}

let control = null;
let wait = null;

export function openEvents() {
  closeEvents();
  if (chosen.source !== "all") return;
  control = new AbortController();
  const { signal } = control;
  const turn = async () => {
    if (!document.hidden) {
      const answer = await ask(`/api/v1/log?since=${Date.now() - DAY_MS}&limit=${EVENTS_MAX}`, signal);
      if (signal.aborted) return;
      // What was told before stays, with a word that it is of before.
      all = answer.ok ? { list: together(answer.ok.events), silent: answer.ok.silent } : { list: all ? all.list : [], ...answer };
      redraw();
    }
    wait = window.setTimeout(turn, 10000);
  };
  turn();
}

export function closeEvents() {
  if (control) control.abort();
  window.clearTimeout(wait);
}

// What several members say in the same words at the same time is shown once, with who says it.
function together(events) {
  const byId = new Map(events.map((e) => [`${e.from} ${e.id}`, e]));
  const shown = [];
  const open = new Map();
  for (const event of [...events].sort((a, b) => b.at - a.at)) {
    const key = `${event.kind} ${event.text}`;
    const before = open.get(key);
    if (before && before.at - event.at <= TOGETHER_MS && !before.by.includes(event.from)) {
      before.by.push(event.from);
      continue;
    }
    const one = { ...event, by: [event.from], key: `${event.from} ${event.id}`, causes: causesOf(event, byId) };
    open.set(key, one);
    shown.push(one);
  }
  return shown;
}

// What brought it about, and what brought that about: the nearest first.
function causesOf(event, byId) {
  const causes = [];
  let last = event;
  while (last && last.cause && causes.length < CAUSES_MAX) {
    last = byId.get(`${event.from} ${last.cause}`);
    if (last) causes.push(last);
  }
  return causes;
}

export function drawEvents(view) {
  const names = view.members.map((m) => m.name);
  if (chosen.member && !names.includes(chosen.member)) names.push(chosen.member);
  if (fill(at("event-member"), names, () => [["", "any member"], ...names.map((name) => [name, name])].map(([value, text]) => {
    const option = make("option", "", text);
    option.value = value;
    return option;
  })) || at("event-member").value !== chosen.member) at("event-member").value = chosen.member;
  const everybody = chosen.source === "all";
  const list = everybody ? (all ? all.list : []) : state.events;
  const text = chosen.text.trim().toLowerCase();
  const shown = list.filter((e) => (RANK[e.severity] ?? 0) >= RANK[chosen.severity] && (!chosen.kind || e.kind === chosen.kind) &&
    (!chosen.member || e.member === chosen.member || (e.by || []).includes(chosen.member)) &&
    (!text || `${e.text} ${e.kind} ${e.member || ""} ${e.app || ""}`.toLowerCase().includes(text)));
  keyed(at("events"), shown.slice(0, EVENTS_MAX), (e) => (e.by ? `${e.key} ${e.by.length}` : e.key), (e) => eventItem(e, e.causes), () => {});
  at("events-empty").hidden = shown.length > 0;
  setText(at("events-empty"), everybody && !all ? "Asking all members …" : list.length ? "Nothing of this kind." : "No events yet.");
  const number = shown.length === list.length ? list.length : `${shown.length} of ${list.length}`;
  setText(at("events-title"), list.length ? `Events (${number})` : "Events");
  const silent = everybody && all && all.silent ? all.silent.map((s) => s.member) : [];
  const note = !everybody || !all ? ""
    : all.why ? `The log of all members is not known anew: ${all.why}`
    : silent.length ? `Without ${plural(silent.length, "member that does", "members that do")} not answer: ${some(silent)}.` : "";
  fill(at("events-note"), note, () => commands(note));
  at("events-note").hidden = note === "";
}
