// Members: the table of all, and a page for each.

import { appLink, at, badge, cell, commands, count, dim, fact, fill, keyed, make, memberLink, moment, number, percent, plural,
  row, said, setAttribute, setText, sign, size, some, span } from "./dom.js";
import { state } from "./feed.js";
import { fillActs, memberAct } from "./acts.js";
import { POSITIONS } from "./apps.js";
import { eventItem } from "./events.js";
import { drawServices } from "./services.js";

const MANY = 40;     // from this many on, the table scrolls in a frame of its own
const ID_SHOWN = 12; // digits of an id that are shown

export const isLive = (m) => m.state === "alive" || m.state === "suspect";
export const isServing = (m) => m.service === "in service";

// ---- What a member needs a look for ----------------------------------------------------------

// How each member stands to each application; made once for a view.
const standings = new WeakMap();
function standing(view) {
  if (!standings.has(view)) {
    const of = new Map(view.members.map((m) => [m.name, []]));
    for (const app of view.applications) {
      for (const p of app.positions) {
        if (of.has(p.member)) of.get(p.member).push({ app, position: p });
      }
    }
    standings.set(view, of);
  }
  return standings.get(view);
}

// The worst first.
export function concerns(m, view) {
  const found = [];
  const say = (severity, text) => found.push({ severity, text });
  for (const open of state.acting ? state.acting.filter((one) => one.member === m.name) : []) {
    if (open.severity) say(open.severity, `rule ${open.key.rule} of ${open.key.app}: ${open.why}`);
  }
  if (m.state === "down") say("warning", `down for ${span(m.state_for_ms)}`);
  if (m.state === "suspect") say("warning", "does not answer, perhaps it is down");
  if (m.unreached && m.unreached.length) say("warning", `is not answered by ${some(m.unreached, 3)}`);
  if (isLive(m)) {
    const all = standing(view).get(m.name) || [];
    const off = (position) => all.filter((s) => s.position.position === position).map((s) => s.app.name);
    for (const { app, position } of all) {
      if (position.rollout_failure) say("warning", `${app.name} ${app.version} did not get ready: ${position.rollout_failure}`);
      else if (position.trouble) say("warning", `${app.name}: ${position.trouble}`);
    }
    if (off("differs").length) say("warning", `differs in ${some(off("differs"), 3)}`);
    if (off("nothing").length) say("warning", `holds nothing of ${some(off("nothing"), 3)}`);
    if (m.service === "unknown") say("warning", "has not said what it holds");
  }
  return found.sort((a, b) => Number(b.severity === "critical") - Number(a.severity === "critical"));
}

export const bySeverity = (found) => (found.length ? found[0].severity : "ok");

const STATE_KIND = { "alive": "good", "suspect": "warn", "down": "bad", "left": "calm" };
const SERVICE_KIND = { "in service": "good", "receiving": "busy", "standby": "calm", "unknown": "warn", "out": "bad" };
const HEALTH_KIND = { "ok": "good", "warning": "warn", "critical": "bad" };

// Why it is in service, or not.
function whyService(m, view) {
  const level = state.levels && state.levels.members.find((one) => one.member === m.name);
  if (m.service === "in service") return level && level.by ? `by ${level.by.app}/${level.by.rule}` : "";
  if (m.service === "out") return m.state === "left" ? "it left" : "it is not live";
  if (m.service === "standby") return m.waits ? "waits to be brought in" : "taken aside";
  if (m.service === "unknown") return "no word of what it holds";
  const lacks = (standing(view).get(m.name) || []).filter((s) => s.position.version === 0).map((s) => s.app.name);
  return lacks.length ? `fetches ${some(lacks, 3)}` : "fetches what it lacks";
}

// Of the applications that are placed on it: how many it has in force.
function versions(m, view) {
  const placed = (standing(view).get(m.name) || []).filter((s) => s.position.position !== "elsewhere");
  const agrees = placed.filter((s) => s.position.position === "agrees").length;
  const late = placed.filter((s) => !["agrees", "silent"].includes(s.position.position))
    .map((s) => `${s.app.name} ${s.position.position}`);
  return { placed: placed.length, agrees, late, known: placed.some((s) => s.position.position !== "silent") };
}

const reading = (m) => (state.readings ? state.readings.of.get(m.name) : null);
const known = (value, text) => (value === undefined || value === null || !Number.isFinite(value) ? null : text(value));

// ---- The table --------------------------------------------------------------------------------

const STATES = ["down", "suspect", "left", "alive"];
const HEALTHS = ["critical", "warning", "ok"];
// A column: its label, what it is sorted by, and what is in its cell (data and how it is built).
const COLUMNS = [
  ["order", "#", (m, view) => view.members.indexOf(m), (m, view) => {
    const place = String(view.members.indexOf(m) + 1);
    return [place, () => [dim(place)]];
  }, "n"],
  ["name", "Member", (m) => m.name, (m) => [[m.name, m.me, m.coordinator, m.voter, m.tags], () => [
    make("strong", "", memberLink(m.name)),
    m.me ? make("span", "tag", "this one") : null,
    m.coordinator ? make("span", "tag crown", sign("♛"), "coordinator") : null,
    m.voter ? null : make("span", "tag", "no vote"),
    ...Object.entries(m.tags || {}).map(([key, value]) => make("span", "tag", said(`${key}=${value}`))),
  ]], "who"],
  ["state", "State", (m) => STATES.indexOf(m.state), (m) => [m.state, () => [badge(STATE_KIND[m.state] || "warn", m.state)]]],
  ["service", "Service", (m) => m.service, (m, view) => {
    const why = whyService(m, view);
    return [[m.service, why, m.standby, Boolean(state.operator)], () => [badge(SERVICE_KIND[m.service] || "warn", m.service),
      why ? make("div", "dim small", why) : null, memberAct(m)]];
  }],
  ["health", "Health", (m, view) => HEALTHS.indexOf(bySeverity(concerns(m, view))), (m, view) => {
    const found = concerns(m, view);
    // How long it is down for is told in a column of its own, and is no news each minute.
    const text = m.state === "down" ? "down" : found.length ? found[0].text : "";
    return [[bySeverity(found), text, found.length], () => [badge(HEALTH_KIND[bySeverity(found)], bySeverity(found)),
      found.length ? make("div", "dim small clip", said(text), found.length > 1 ? ` and ${found.length - 1} more` : "") : null]];
  }],
  ["versions", "In force", (m, view) => versions(m, view).agrees - versions(m, view).placed, (m, view) => {
    const v = versions(m, view);
    return [v, () => [v.known ? `${v.agrees} of ${v.placed}` : dim(v.placed ? "not known" : "–"),
      v.late.length ? make("div", "dim small", said(some(v.late, 2))) : null]];
  }],
  ["load", "Load", (m) => reading(m)?.load, (m) => plain(known(reading(m)?.load, number)), "n"],
  ["requests", "Requests", (m) => reading(m)?.requests, (m) => {
    const r = reading(m);
    const failed = r && r.errors > 0 && r.requests > 0 ? (r.errors / r.requests) * 100 : 0;
    const errors = failed ? `${percent(Math.min(failed, 100))} fail` : "";
    const text = known(r?.requests, (v) => `${number(v)}/s`);
    return [[text, errors], () => [text ?? dim("–"), errors ? make("div", failed >= 1 ? "small bad-text" : "small dim", errors) : null]];
  }, "n"],
  ["cpu", "CPU", (m) => reading(m)?.cpu, (m) => meter(reading(m)?.cpu), "n"],
  ["memory", "Memory", (m) => reading(m)?.memory, (m) => meter(reading(m)?.memory), "n"],
  ["disk", "Disk", (m) => reading(m)?.disks[0]?.used, (m) => meter(reading(m)?.disks[0]?.used), "n"],
  ["trip", "Round trip", (m) => (isLive(m) ? m.round_trip_us ?? undefined : undefined), (m) => plain(tripTo(m)), "n"],
  ["address", "Address", (m) => m.address, (m) => [m.address, () => [said(m.address)]], "mono"],
  ["since", "Since", (m) => m.state_for_ms, (m) => {
    const text = span(m.state_for_ms + Date.now() - state.viewed);
    return [text, () => [text]];
  }, "n"],
];

// Of one that is not live it is of before.
const tripTo = (m) => (m.me || !isLive(m) ? null : known(m.round_trip_us, trip));
const trip = (us) => `${(us / 1000).toFixed(us < 10000 ? 1 : 0)} ms`;

function plain(text) {
  return [text ?? "", () => [text ?? dim("–")]];
}

// A share with a bar, which is changed where it stands: there are hundreds of them.
function meter(value) {
  const text = known(value, percent);
  const show = (td) => {
    const [word, bar] = td.children;
    const much = value >= 90;
    setText(word, much ? `! ${text}` : text);
    td.dataset.level = much ? "high" : value >= 80 ? "raised" : "fine";
    bar.firstElementChild.style.width = `${Math.min(100, value).toFixed(0)}%`;
  };
  return [text ?? "", (td) => {
    if (text === null) return [dim("–")];
    td.replaceChildren(make("span", ""), make("span", "bar", make("span", "")));
    show(td);
    return [...td.children];
  }, (td) => {
    if (text === null || td.children.length !== 2) return false;
    show(td);
    return true;
  }];
}

let sorted = { by: "order", down: false };
const rows = new Map();

export function setUpMembers(draw) {
  at("members-head").append(...COLUMNS.map(([id, label, , , className]) => {
    const button = make("button", "", label, sign(""));
    button.type = "button";
    button.addEventListener("click", () => sortBy(id, sorted.by === id ? !sorted.down : false, draw));
    const th = make("th", className === "n" ? "n" : "", button);
    th.scope = "col";
    th.setAttribute("role", "columnheader");
    th.dataset.column = id;
    return th;
  }));
  for (const [id, label] of COLUMNS) {
    const option = make("option", "", label === "#" ? "failover order" : label);
    option.value = id;
    at("member-sort").append(option);
  }
  at("member-sort").addEventListener("change", (event) => sortBy(event.target.value, false, draw));
  at("member-filter").addEventListener("input", filter);
  at("member-unwell").addEventListener("change", filter);
  sortBy("order", false, () => {});
}

function sortBy(by, down, draw) {
  // What is measured is of interest from the highest on.
  const measured = ["load", "requests", "cpu", "memory", "disk", "trip"].includes(by);
  sorted = { by, down: measured && sorted.by !== by ? true : down };
  at("member-sort").value = by;
  for (const th of at("members-head").children) {
    const mine = th.dataset.column === by;
    setAttribute(th, "aria-sort", mine ? (sorted.down ? "descending" : "ascending") : "none");
    setText(th.querySelector("span"), mine ? (sorted.down ? " ▼" : " ▲") : "");
  }
  draw();
}

function inOrder(view) {
  const [, , valueOf] = COLUMNS.find(([id]) => id === sorted.by);
  const way = sorted.down ? -1 : 1;
  const values = new Map(view.members.map((m) => [m, valueOf(m, view)]));
  // What is not known comes last, whichever way.
  return [...view.members].sort((a, b) => {
    const [x, y] = [values.get(a), values.get(b)];
    if (x === undefined || y === undefined) return Number(x === undefined) - Number(y === undefined);
    return (typeof x === "string" ? x.localeCompare(y) : x - y) * way;
  });
}

export function drawMembers(view) {
  const many = view.members.length > MANY;
  at("members-frame").classList.toggle("scroll", many);
  // Nobody's row is pulled away while it has the keyboard's focus.
  const held = at("members").contains(document.activeElement) && rows.size === view.members.length;
  const items = held ? [...rows.values()].map((r) => view.members.find((m) => m.id === r.id)).filter(Boolean) : inOrder(view);
  rows.clear();
  keyed(at("members"), items, (m) => m.id, () => {
    const tr = row();
    tr.append(...COLUMNS.map(([, label, , , className]) => cell(label, className || "")));
    return tr;
  }, (tr, m) => {
    rows.set(m.id, { id: m.id, tr, words: `${m.name} ${m.state} ${m.service} ${m.address} ${JSON.stringify(m.tags)}`.toLowerCase(),
      unwell: bySeverity(concerns(m, view)) !== "ok" || !["in service", "standby"].includes(m.service) });
    COLUMNS.forEach(([, , , contentOf], i) => {
      const [data, build, patch] = contentOf(m, view);
      const td = tr.children[i];
      fill(td, data, () => build(td).filter((child) => child !== null), patch);
    });
  });
  fill(at("members-known"), state.actingWhy || "", () => commands(
    `Health leaves out rules that members have about themselves: what acts there is not known. ${state.actingWhy} \`althing events --all --kind rule\``));
  at("members-known").hidden = !state.actingWhy;
  const silent = state.readings ? [...state.readings.silent.keys()] : [];
  at("members-note").hidden = !silent.length && !state.unread;
  fill(at("members-note"), [silent, state.unread], () => [sign("▲ "), state.unread ? `What is measured is not known anew: ${state.unread} ` : "",
    silent.length ? `${plural(silent.length, "member does", "members do")} not tell what is measured there: ${some(silent)}.` : ""]);
  filter();
}

function filter() {
  const text = at("member-filter").value.trim().toLowerCase();
  const only = at("member-unwell").checked;
  let shown = 0;
  for (const { tr, words, unwell } of rows.values()) {
    const visible = words.includes(text) && (!only || unwell);
    if (tr.hidden === visible) tr.hidden = !visible;
    if (visible) shown += 1;
  }
  at("members-empty").hidden = shown > 0;
  setText(at("members-empty"), only && !text ? "Every member is well." : "No member matches.");
  setText(at("members-title"), shown === rows.size ? `Members (${rows.size})` : `Members (${shown} of ${rows.size})`);
}

// ---- One member ------------------------------------------------------------------------------

export function drawMember(view, name) {
  const m = view.members.find((one) => one.name === name);
  setText(at("member-title"), name);
  at("member-body").hidden = !m;
  at("member-badges").hidden = !m;
  at("member-gone").hidden = Boolean(m);
  if (!m) {
    fill(at("member-gone"), name, () => ["No member of that name is enrolled. It may have left or been removed: ",
      make("code", "", `althing why ${name}`)]);
    return;
  }
  fill(at("member-badges"), [m.state, m.service, m.coordinator, m.me, m.voter], () => [
    badge(STATE_KIND[m.state] || "warn", m.state), badge(SERVICE_KIND[m.service] || "warn", m.service),
    m.coordinator ? make("span", "tag crown", sign("♛"), "coordinator") : null,
    m.me ? make("span", "tag", "tells all this") : null,
    m.voter ? null : make("span", "tag", "no vote"),
  ].filter(Boolean));
  fillActs(at("member-acts"), [name, m.standby], () => [memberAct(m)]);
  drawStandby(m);
  const found = concerns(m, view);
  fill(at("member-concerns"), found, () => (found.length
    ? found.map((one) => make("li", "", badge(HEALTH_KIND[one.severity], one.severity), " ", said(one.text)))
    : [make("li", "", badge("good", "ok"), " Nothing is known here to be wrong with it.")]));
  drawFacts(m, view);
  const all = (standing(view).get(name) || []).filter((s) => s.position.position !== "elsewhere");
  keyed(at("member-apps"), all, (s) => s.app.name, () => {
    const tr = row();
    tr.append(cell("Application", "who"), cell("Stands"), cell("Version", "n"), cell("Roll-out"));
    return tr;
  }, (tr, { app, position }) => {
    const [kind, , word] = POSITIONS[position.position] || ["warn", "", position.position];
    fill(tr.children[0], app.name, () => [appLink(app.name)]);
    fill(tr.children[1], [position.position, position.trouble], () => [badge(kind, position.position),
      position.trouble ? make("div", "small", said(position.trouble)) : make("div", "dim small", word)]);
    fill(tr.children[2], [position.version, app.version], () => [position.version ? String(position.version) : dim("not said"),
      position.version && position.version !== app.version ? dim(` of ${app.version}`) : ""]);
    fill(tr.children[3], [position.rollout, position.rollout_failure], () => [position.rollout ?? dim("–"),
      position.rollout_failure ? make("div", "small", said(position.rollout_failure)) : ""]);
  });
  drawServices(at("member-services"), at("member-services-note"), (s) => s.member === name, { member: name });
  const about = state.events.filter((e) => e.member === name).slice(0, 30);
  fill(at("member-events"), about.map((e) => e.key), () => about.map((event) => eventItem(event)));
  at("member-events-empty").hidden = about.length > 0;
  setAttribute(at("member-events-all"), "href", `#/events?member=${encodeURIComponent(name)}`);
  fill(at("member-do"), [name, m.service, m.state, m.me], () => [
    [`althing why ${name}`, "how it came to what happened to it, from all logs"],
    [`althing metrics 'cpu*' --member ${name}`, "what it measured"],
    ["althing members --reach", "who reaches whom"],
    m.standby ? [`althing resume ${name}`, "bring it into service"]
      : [`althing drain ${name}`, "take it out of service; it goes on holding everything"],
    m.state === "down" ? [`althing remove ${name}`, "only if its server is gone for good"] : null,
  ].filter(Boolean).map(([command, why]) => make("li", "", ...commands(`\`${command}\``), " ", dim(why))));
}

// Why it is on standby, by the logs of all, and what brings it into service.
function drawStandby(m) {
  const box = at("member-standby");
  box.hidden = !m.standby;
  if (!m.standby) return;
  const log = state.roster;
  const told = Array.isArray(log) ? log.filter((e) => [" is out of service", " is on standby", " waits again"].some((words) =>
    e.text.startsWith(m.name + words))).sort((a, b) => b.at - a.at)[0] : null;
  const { rules = [], changes = [] } = state.levels || {};
  const next = changes.find((turn) => turn.begins && !turn.silenced && turn.members.includes(m.name));
  const able = m.waits ? rules.filter((one) => one.more && !one.silenced) : [];
  fill(box, [m.name, m.waits, log ? told || log.why || "" : "asking", next, able], () => [
    make("p", "", dim("Why it is on standby: "), ...(told ? [said(told.text), " ", moment(told.at), dim(" by the log of "), memberLink(told.from)]
      : [!log ? "asking all members …" : log.why ? `the logs are not known: ${log.why}`
        : "no log that was asked says it; it may have been started with --standby, or it is long ago."])),
    make("p", "", dim("What brings it in: "), ...(next ? [said(`rule ${next.rule.rule} of ${next.rule.app}, `), moment(next.at), "; "] : []),
      ...able.flatMap((one) => [said(`rule ${one.rule.rule} of ${one.rule.app}: `), make("code", "", one.sentence), "; "]),
      ...commands(`an operator: \`althing resume ${m.name}\`.${m.waits ? "" : " No rule does: it was taken aside."} ` +
        "Where nobody is in service it answers all the same.")),
  ]);
}

// What it found out about its machine when it was asked last.
function machine(name) {
  const told = state.checkups && state.checkups.members.find((one) => one.member === name);
  if (!told) return [["Program", "not known"], ["Clock", "not known"], ["Room for its data", "not known"]];
  const by = Math.abs(told.ahead_ms);
  const off = by <= told.within_ms ? "as the one here"
    : `${by < 10000 ? `${count(by)} ms` : span(by)} ${told.ahead_ms < 0 ? "behind" : "ahead of"} the one here`;
  return [
    ["Program", `version ${told.althing}`],
    ["Clock", `${off}, within ${count(Math.max(1, told.within_ms))} ms`],
    ["Room for its data", told.disk ? `${size(told.disk.free)} of ${size(told.disk.total)}` : "not known"],
  ];
}

function drawFacts(m, view) {
  const r = reading(m);
  const why = whyService(m, view);
  const facts = [
    ["Since", `${m.state} for ${span(m.state_for_ms + Date.now() - state.viewed)}`],
    ["Service", m.service + (why ? `: ${why}` : "")],
    ["Place in the failover list", `${view.members.indexOf(m) + 1} of ${view.members.length}`],
    ["Vote", m.voter ? "has one" : "has none"],
    ["Catalog", m.sequence === null ? "has not said" : `#${count(m.sequence)}` +
      (m.sequence < view.sequence ? `, ${count(view.sequence - m.sequence)} behind` : "")],
    ["Address", m.address],
    [`Round trip from ${view.me}`, m.me ? "is this one" : tripTo(m) ?? "not known"],
    ["Answered by", m.unreached === null ? "has not said" : m.unreached.length ? `all but ${some(m.unreached)}` : "all that are live"],
    ["Capacity", count(m.capacity)],
    ["Tags", Object.entries(m.tags || {}).map(([k, v]) => `${k}=${v}`).join(", ") || "none"],
    ["Processor", known(r?.cpu, percent) ?? "not known"],
    ["Load", known(r?.load, number) ?? "not known"],
    ["Memory", r && r["mem.total"] ? `${size(r["mem.used"])} of ${size(r["mem.total"])}` : "not known"],
    ["Disks", r && r.disks.length ? r.disks.slice(0, 4).map((d) => `${d.mount} ${percent(d.used)}`).join(", ") : "not known"],
    ["Requests", known(r?.requests, (v) => `${number(v)}/s`) ?? "not known"],
    ...machine(m.name),
    ["Id", m.id],
  ];
  keyed(at("member-facts"), facts, ([term]) => term, ([term]) => fact(term, ""), (element, [term, value]) => {
    fill(element.lastElementChild, value, () => {
      if (term !== "Id") return [said(value)];
      const id = make("code", "", value.slice(0, ID_SHOWN));
      id.title = value;
      return [id];
    });
  });
}
