// The status page. It follows /api/v1/stream and shows what arrives; it asks
// for nothing else and can change nothing.
//
// Names, messages and reasons were written by other people: they reach the
// document as text (textContent) and in no other way.
"use strict";

const EVENTS_MAX = 200;    // events in the list
const STALE_AFTER_S = 12;  // a view comes every five seconds
const REOPEN_AFTER_S = 20; // a connection that is silent this long is dead
const MANY = 40;           // from this many members on, lists scroll in a frame
const ROOT_SHOWN = 10;     // digits of a signature that are shown

const at = (id) => document.getElementById(id);
const state = { view: null, metrics: null, events: [], start: "", last: "", heard: 0, viewed: 0 };

// ---- Making elements: text is always a text node -----------------------------

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Isolated, so that a name with right-to-left marks can't disorder its line.
const said = (text) => make("bdi", "", String(text));
const hiddenText = (text) => make("span", "sr", text);

function badge(kind, text) {
  const signs = { good: "✓", warn: "!", bad: "✕", busy: "↻", calm: "–" };
  const sign = make("span", "", signs[kind]);
  sign.setAttribute("aria-hidden", "true");
  return make("span", `badge ${kind}`, sign, said(text));
}

function fact(term, ...values) {
  return make("div", "", make("dt", "", term), make("dd", "", ...values));
}

// Draws a part only when what it shows has changed: focus, selection and open
// details stay, and 200 members cost nothing while nothing happens.
const drawn = new Map();
function part(name, data, draw) {
  const key = JSON.stringify(data);
  if (drawn.get(name) === key) return;
  drawn.set(name, key);
  draw();
}

// ---- Words for numbers -----------------------------------------------------------

const count = (n) => Number(n).toLocaleString();
const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;

function size(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  let value = Number(bytes);
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

function span(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function moment(ms) {
  const date = new Date(ms);
  const time = make("time", "");
  if (Number.isNaN(date.getTime())) return time;
  time.dateTime = date.toISOString();
  time.title = date.toLocaleString();
  const today = date.toDateString() === new Date().toDateString();
  time.textContent = today
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" })
    : date.toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
  return time;
}

// ---- Health ------------------------------------------------------------------------

const HEALTH = {
  "ok": ["✓", "Everything is well", "Every member is live and holds what it should."],
  "warning": ["!", "It works, and something needs a look", ""],
  "critical": ["✕", "Something does not work", ""],
};

function drawHealth(view) {
  const alone = view.members.length === 1;
  part("health", [view.health, view.reasons, alone], () => {
    const [sign, title, text] = HEALTH[view.health] || ["?", "Unknown health", ""];
    at("health").dataset.health = view.health;
    setText(at("health-sign"), sign);
    setText(at("health-title"), title);
    const lonely = "This member is alone: whatever it holds exists once. " +
      "Run `althing invite` here, and `althing up --join` with the token on another server.";
    const shown = alone ? (view.health === "ok" ? lonely : "This member is alone.") : text;
    at("health-text").replaceChildren(...commands(shown));
    at("health-text").hidden = shown === "";
    at("health-reasons").replaceChildren(...view.reasons.map((r) => make("li", "", ...commands(r))));
    const marks = { "ok": "", "warning": "(!) ", "critical": "(✕) " };
    document.title = `${marks[view.health] || ""}${view.me} – Althing`;
  });
}

// What was true is not what is true. The next view redraws it.
function drawUnknown() {
  if (!drawn.delete("health")) return;
  const [, was] = HEALTH[state.view.health] || ["?", "unknown"];
  at("health").dataset.health = "wait";
  setText(at("health-sign"), "?");
  at("health-text").hidden = true;
  setText(at("health-title"), `Not known. Last known: ${was.toLowerCase()}`);
  document.title = `(?) ${state.view.me} – Althing`;
}

// What stands between backticks is a command to copy.
function commands(text) {
  return text.split("`").map((piece, i) => (i % 2 ? make("code", "", piece) : said(piece)));
}

function drawTiles(view) {
  const live = view.members.filter((m) => m.state === "alive" || m.state === "suspect").length;
  const serving = view.members.filter((m) => m.service === "in service").length;
  const agreed = view.applications.filter((a) => a.vote === "unanimous" || a.vote === "paused").length;
  const window_ = view.window;
  const tiles = [
    ["Members live", `${count(live)} of ${count(view.members.length)}`, `${count(serving)} in service`],
    ["Voters live", `${count(view.voters_live)} of ${count(view.voters)}`,
      `${count(view.majority)} ${view.majority === 1 ? "is" : "are"} a majority`],
    ["Applications", count(view.applications.length),
      view.applications.length ? `${count(agreed)} in full agreement` : "none yet"],
    ["Update window", window_ ? "open" : "closed",
      window_ ? `${window_.coordinator} presides` : "the majority is right"],
    ["Catalog", `#${count(view.sequence)}`,
      `failover ${view.policy.failover}, vote ${view.policy.vote}`],
  ];
  part("tiles", tiles, () => {
    at("tiles").replaceChildren(...tiles.map(([name, value, note]) =>
      make("div", "tile", make("dt", "", name), make("dd", "", make("strong", "", said(value)),
        make("span", "dim", said(note))))));
  });
}

// ---- Window, publication, failover order ---------------------------------------------

function drawWindow(view) {
  const w = view.window;
  part("window", w, () => {
    at("publication").hidden = !w || !w.publication;
    at("window-facts").hidden = !w;
    if (!w) {
      at("window-badge").replaceChildren(badge("calm", "closed"));
      setText(at("window-state"), "No window is open: the majority is right, and a member that differs is repaired.");
      return;
    }
    const kind = w.coordinator_live ? "busy" : w.failover === "manual" ? "bad" : "warn";
    at("window-badge").replaceChildren(badge(kind, w.held ? "held open" : "open"));
    at("window-state").replaceChildren(...commands(w.state));
    at("window-facts").replaceChildren(
      fact("Window", `#${w.id}`),
      fact("Coordinator", said(w.coordinator), w.coordinator_live ? " (live)" : " (not live)"),
      fact("Opened", moment(Date.parse(w.opened_at)), " through ", said(w.opened_by)),
      fact("Covers", said(w.scope.length ? w.scope.join(", ") : "all applications")),
      fact("Failover", w.failover === "manual" ? "manual: waits for an operator" : "auto: the next one takes over"),
      fact("Taken over", w.takeovers === 1 ? "once" : w.takeovers ? `${w.takeovers} times` : "never"),
    );
    if (w.publication) drawPublication(view, w.publication);
  });
  const rank = [!view.window, view.members.map((m) => [m.name, m.state, m.voter, m.coordinator])];
  part("order", rank, () => drawOrder(view));
}

function drawPublication(view, p) {
  const whole = new Set(p.whole);
  const placed = new Set(p.placed);
  // Those that are still on their way first, each part in failover order.
  const all = view.members.map((m) => m.name).filter((name) => placed.has(name));
  const there = all.filter((name) => whole.has(name)).length;
  const left = timeLeft(view, p, whole, placed);
  at("publication-title").replaceChildren(
    said(p.app), ` version ${p.version}: ${p.phase} `,
    make("span", "dim", `${size(p.bytes)} · whole on ${there} of ${all.length}, needed on ${p.needed}` +
      (left === null ? "" : ` · ${span(left)} left`)),
  );
  const names = all.filter((name) => !whole.has(name)).concat(all.filter((name) => whole.has(name)));
  const bytesOf = (name) => (whole.has(name) ? p.bytes : Math.min(p.progress[name] || 0, p.bytes));
  at("publication-bars").replaceChildren(...names.map((name) => {
    const bytes = bytesOf(name);
    const percent = p.bytes ? Math.floor((bytes / p.bytes) * 100) : 100;
    const known = whole.has(name) || name in p.progress;
    const text = whole.has(name) ? "whole" : known ? `${Math.min(percent, 99)} %` : "unknown";
    const bar = make("progress", "");
    bar.max = 100;
    bar.value = whole.has(name) ? 100 : percent;
    bar.setAttribute("aria-label", `${name}: ${text}`);
    const row = make("li", whole.has(name) ? "whole" : "", make("span", "name", said(name)), bar,
      make("span", "dim", text));
    row.title = `${name}: ${size(bytes)} of ${size(p.bytes)}`;
    return row;
  }));
}

// Milliseconds until all live members have it, at the pace since it was first seen here;
// null while that would be a guess.
let paceOf = null;

function timeLeft(view, p, whole, placed) {
  const live = view.members.filter((m) => m.state === "alive" && placed.has(m.name)).map((m) => m.name);
  const arrived = live.reduce((sum, name) =>
    sum + (whole.has(name) ? p.bytes : Math.min(p.progress[name] || 0, p.bytes)), 0);
  const key = `${p.app} ${p.version}`;
  if (!paceOf || paceOf.key !== key) paceOf = { key, since: performance.now(), before: arrived };
  const elapsed = performance.now() - paceOf.since;
  const came = arrived - paceOf.before;
  if (elapsed < 1000 || came <= 0 || p.phase !== "staging") return null;
  return (live.length * p.bytes - arrived) / came * elapsed;
}

function drawOrder(view) {
  const live = (m) => m.state === "alive" || m.state === "suspect";
  const next = view.members.find((m) => live(m) && m.voter);
  at("order").replaceChildren(...view.members.map((m) => {
    const item = make("li", live(m) ? "" : "off", said(m.name));
    if (m.coordinator) item.append(badge("busy", "presides"));
    else if (!view.window && m === next) item.append(badge("good", "next"));
    if (!live(m)) item.append(make("span", "dim", ` ${m.state}`));
    return item;
  }));
}

// ---- Members ---------------------------------------------------------------------------

const STATE_KIND = { "alive": "good", "suspect": "warn", "down": "bad", "left": "calm" };
const SERVICE_KIND = { "in service": "good", "receiving": "busy", "standby": "calm", "unknown": "warn", "out": "bad" };
const rows = new Map();

function drawMembers(view) {
  const wanted = view.members.map((m, i) => memberRow(m, i, view.sequence));
  const kept = new Set(view.members.map((m) => m.id));
  for (const id of rows.keys()) if (!kept.has(id)) rows.delete(id);
  const body = at("members");
  if (wanted.length !== body.children.length || wanted.some((row, i) => body.children[i] !== row)) {
    body.replaceChildren(...wanted);
    const many = wanted.length > MANY;
    at("members-frame").classList.toggle("scroll", many);
    if (many) at("members-frame").tabIndex = 0;
    else at("members-frame").removeAttribute("tabindex");
  }
  filterMembers();
}

function memberRow(m, index, sequence) {
  let row = rows.get(m.id);
  if (!row) {
    row = { element: make("tr", ""), key: "", since: null };
    row.element.setAttribute("role", "row");
    rows.set(m.id, row);
  }
  row.member = m;
  const { state_for_ms: _, ...shown } = m;
  const key = JSON.stringify([shown, index, sequence]);
  if (row.key !== key) {
    row.key = key;
    fillMember(row, m, index, sequence);
  }
  return row.element;
}

function fillMember(row, m, index, sequence) {
  const cell = (label, className, ...children) => {
    const td = make("td", className, ...children);
    td.setAttribute("role", "cell");
    td.dataset.label = label;
    return td;
  };
  const name = make("strong", "", said(m.name));
  name.title = m.id;
  const labels = [];
  if (m.me) labels.push(make("span", "tag", "this one"));
  if (m.coordinator) labels.push(make("span", "tag crown", crown(), "coordinator"));
  if (m.standby) labels.push(make("span", "tag", "standby"));
  for (const [key, value] of Object.entries(m.tags || {})) {
    labels.push(make("span", "tag", said(`${key}=${value}`)));
  }
  const behind = m.sequence !== null && m.sequence < sequence;
  row.since = make("span", "");
  row.element.className = unwell(m) ? "unwell" : "";
  row.element.replaceChildren(
    cell("Order", "n dim", String(index + 1)),
    cell("Member", "who", name, ...labels),
    cell("State", "", badge(STATE_KIND[m.state] || "warn", m.state)),
    cell("Service", "", badge(SERVICE_KIND[m.service] || "warn", m.service)),
    cell("Address", "mono", said(m.address)),
    cell("Vote", "", m.voter ? "yes" : make("span", "dim", "no")),
    cell("Catalog", "n", m.sequence === null ? make("span", "dim", "none") : `#${m.sequence}`,
      behind ? make("span", "dim", " behind") : null),
    cell("Since", "n", row.since),
  );
}

function crown() {
  const sign = make("span", "", "♛");
  sign.setAttribute("aria-hidden", "true");
  return sign;
}

const unwell = (m) => m.state !== "alive" || !["in service", "standby"].includes(m.service);

function filterMembers() {
  const text = at("member-filter").value.trim().toLowerCase();
  const only = at("member-unwell").checked;
  let shown = 0;
  for (const { element, member } of rows.values()) {
    const words = `${member.name} ${member.state} ${member.service} ${member.address}`.toLowerCase();
    const visible = words.includes(text) && (!only || unwell(member));
    if (element.hidden === visible) element.hidden = !visible;
    if (visible) shown += 1;
  }
  const empty = at("members-empty");
  empty.hidden = shown > 0;
  setText(empty, only && !text ? "Every member is well." : "No member matches.");
  setText(at("members-title"), shown === rows.size ? `Members (${rows.size})` : `Members (${shown} of ${rows.size})`);
}

// ---- Applications ------------------------------------------------------------------------

const VOTES = {
  "unanimous": ["good", "unanimous", "every voter holds this version"],
  "agreed": ["warn", "agreed", "a majority holds this version; the others are repaired"],
  "undecided": ["warn", "undecided", "too few ballots are in hand: nothing is touched"],
  "other": ["warn", "other content", "a majority holds something else"],
  "hung": ["bad", "hung", "no majority: nothing is touched until an operator decides"],
  "paused": ["busy", "paused", "a window is open: the editor is right"],
};
const POSITIONS = {
  "agrees": ["good", "✓"], "differs": ["bad", "≠"], "late": ["busy", "↻"],
  "nothing": ["warn", "∅"], "silent": ["calm", "?"], "elsewhere": ["calm", "–"], "leaving": ["busy", "→"],
};
const cards = new Map();

function drawApplications(view) {
  const apps = view.applications;
  at("apps-empty").hidden = apps.length > 0;
  at("legend").hidden = apps.length === 0;
  setText(at("apps-title"), apps.length ? `Applications (${apps.length})` : "Applications");
  const kept = new Set(apps.map((a) => a.name));
  for (const name of cards.keys()) if (!kept.has(name)) cards.delete(name);
  const wanted = apps.map((app) => applicationCard(app));
  const list = at("apps");
  if (wanted.length !== list.children.length || wanted.some((card, i) => list.children[i] !== card)) {
    list.replaceChildren(...wanted);
  }
}

function applicationCard(app) {
  let card = cards.get(app.name);
  if (!card) {
    card = { element: make("article", "card app"), top: make("div", ""), key: "", versions: "" };
    card.history = make("details", "");
    card.element.append(card.top, card.history);
    cards.set(app.name, card);
  }
  const { versions, ...rest } = app;
  const key = JSON.stringify(rest);
  if (card.key !== key) {
    card.key = key;
    fillApplication(card.top, app);
  }
  const history = JSON.stringify(versions);
  if (card.versions !== history) {
    card.versions = history;
    fillVersions(card.history, app);
  }
  return card.element;
}

function fillApplication(top, app) {
  const [kind, word, why] = VOTES[app.vote] || ["warn", app.vote, ""];
  const root = make("code", "", app.root.slice(0, ROOT_SHOWN));
  root.title = app.root;
  const head = make("div", "head", make("h3", "", said(app.name), make("span", "version", ` version ${app.version}`)),
    badge(kind, word));
  const what = make("p", "dim small", plural(app.files, "file", "files"), ` · ${size(app.bytes)} · root `, root);
  const where = app.hosts.concat(app.default ? ["any other host name"] : []);
  top.replaceChildren(head, what);
  if (where.length) top.append(make("p", "small", make("span", "dim", "Answers to "), said(where.join(", "))));
  if (app.path) top.append(make("p", "small", make("span", "dim", "Lies at "), make("code", "", app.path)));
  if (app.placement) top.append(make("p", "small", make("span", "dim", "Placed on "), make("code", "", app.placement)));
  if (app.work) top.append(make("p", "note", badge("busy", `${app.work} on this member`)));
  if (app.error) top.append(make("p", "note", badge("bad", "failed on this member"), " ", said(app.error)));
  top.append(make("p", "vote small", make("span", "dim", "Vote: "), why, make("span", "dim",
    ` (${app.ballots} of ${app.electorate} ballots)`)), marks(app), standing(app));
}

function marks(app) {
  const many = app.positions.length > MANY;
  const list = make("ul", many ? "marks dense scroll" : "marks");
  if (many) list.tabIndex = 0;
  list.setAttribute("aria-label", `How each member stands to ${app.name} version ${app.version}`);
  list.append(...app.positions.map((p) => {
    const [kind, sign] = POSITIONS[p.position] || ["warn", "·"];
    const glyph = make("span", "", sign);
    glyph.setAttribute("aria-hidden", "true");
    const vote = p.voter ? "" : ", no vote";
    const item = make("li", `mark ${kind}${p.voter ? "" : " voteless"}`, glyph,
      hiddenText(`${p.member} ${p.position}${vote}`));
    item.title = `${p.member}: ${p.position}${vote}` +
      (p.version ? `, version ${p.version}` : "") + (p.root ? `, ${p.root.slice(0, ROOT_SHOWN)}` : "");
    return item;
  }));
  return list;
}

// Who is off, by name: what a row of two hundred marks can't say at a glance.
function standing(app) {
  const line = make("p", "standing small");
  for (const position of ["differs", "nothing", "late", "silent", "leaving"]) {
    const names = app.positions.filter((p) => p.position === position).map((p) => p.member);
    if (!names.length) continue;
    const some = names.slice(0, 8).join(", ") + (names.length > 8 ? ` and ${names.length - 8} more` : "");
    line.append(make("span", "", make("span", "dim", `${position}: `), said(some)));
  }
  const placed = app.positions.filter((p) => p.position !== "elsewhere").length;
  if (!line.childElementCount) line.append(make("span", "dim", `All ${plural(placed, "member agrees", "members agree")}.`));
  return line;
}

function fillVersions(details, app) {
  const list = make("ol", "versions");
  list.append(...app.versions.map((v) => {
    const root = make("code", "", v.root.slice(0, ROOT_SHOWN));
    root.title = v.root;
    const head = make("div", "", make("strong", "", String(v.number)), " ", moment(v.published_at_ms),
      make("span", "dim", " through "), said(v.publisher),
      v.origin === "published" ? null : make("span", "tag", v.origin));
    const message = v.message ? make("div", "message", said(v.message)) : null;
    return make("li", "", head, message,
      make("div", "dim small", `${plural(v.files, "file", "files")} · ${size(v.bytes)} · `, root));
  }));
  details.replaceChildren(make("summary", "", plural(app.versions.length, "version", "versions"), " kept"), list);
}

// ---- Outcomes, traffic, events -------------------------------------------------------------

function drawOutcomes(view) {
  part("outcomes", view.outcomes, () => {
    at("outcomes-empty").hidden = view.outcomes.length > 0;
    at("outcomes").replaceChildren(...view.outcomes.map((o) => {
      const what = o.app === null ? [`window #${o.window}`]
        : o.version === null ? [said(o.app), ": nothing published"] : [said(o.app), ` version ${o.version}`];
      const taken = o.takeovers ? `, taken over ${o.takeovers === 1 ? "once" : `${o.takeovers} times`}` : "";
      const done = o.version !== null ? badge("good", "published")
        : o.app === null ? badge("calm", "closed") : badge("warn", "given up");
      return make("li", "", make("div", "", done, " ", make("strong", "", ...what)), make("div", "", said(o.why)),
        make("div", "dim small", `window #${o.window}, `, said(o.coordinator), ` presided${taken}`));
    }));
  });
}

function drawTraffic(m) {
  part("traffic", m, () => {
    at("traffic").replaceChildren(
      fact("Requests answered", count(m.requests)),
      fact("Connections to members", count(m.connections)),
      fact("Sent", `${size(m.bytes_sent)} in ${plural(m.packets_sent + m.messages_sent, "message", "messages")}`),
      fact("Received", `${size(m.bytes_received)} in ${plural(m.received, "message", "messages")}`),
      fact("Waiting inputs", count(m.queue)),
      fact("Slowest input", `${(m.input_us_max / 1000).toFixed(1)} ms`),
    );
  });
}

const SEVERITY = { "info": ["calm", "info"], "warning": ["warn", "warning"], "critical": ["bad", "critical"] };
const RANK = { "info": 0, "warning": 1, "critical": 2 };

function eventItem(event) {
  const [kind, word] = SEVERITY[event.severity] || ["calm", event.severity];
  const about = [event.member, event.app].filter((name) => name !== null && name !== undefined);
  const item = make("li", `event ${kind}`,
    make("div", "when", moment(event.at), badge(kind, word)),
    make("div", "what", said(event.text),
      make("div", "dim small", said([event.kind, ...about].join(" · ")))));
  item.dataset.rank = String(RANK[event.severity] ?? 0);
  return item;
}

// Events are drawn once a frame, however many arrive at once.
let fresh = [];
function takeEvent(event, id) {
  const start = id.split("-")[0];
  if (start !== state.start) {
    state.start = start;
    fresh = [];
    at("events").replaceChildren();
  }
  state.last = id;
  fresh.push(event);
  if (fresh.length === 1) window.setTimeout(drawEvents, 50);
}

function drawEvents() {
  const list = at("events");
  list.prepend(...fresh.slice(-EVENTS_MAX).reverse().map(eventItem));
  fresh = [];
  while (list.children.length > EVENTS_MAX) list.lastElementChild.remove();
  filterEvents();
}

function filterEvents() {
  const least = RANK[at("event-filter").value] ?? 0;
  let shown = 0;
  for (const item of at("events").children) {
    item.hidden = Number(item.dataset.rank) < least;
    if (!item.hidden) shown += 1;
  }
  at("events-empty").hidden = shown > 0;
  setText(at("events-empty"), at("events").childElementCount ? "Nothing of this kind." : "No events yet.");
}

// ---- The connection -------------------------------------------------------------------------

function show(view) {
  state.view = view;
  document.body.classList.remove("waiting");
  state.viewed = Date.now();
  setText(at("cluster"), view.cluster.slice(0, ROOT_SHOWN));
  at("cluster").title = view.cluster;
  setText(at("me"), view.me);
  setText(at("version"), view.althing);
  drawHealth(view);
  drawTiles(view);
  drawWindow(view);
  drawMembers(view);
  drawApplications(view);
  drawOutcomes(view);
  tick();
}

// Once a second: how old what is shown is, and since when members are as they are.
function tick() {
  const now = Date.now();
  const silent = Math.floor((now - state.heard) / 1000);
  if (source && silent >= REOPEN_AFTER_S) open();
  const live = at("live");
  if (!state.view) {
    live.dataset.state = "wait";
    setText(at("live-text"), silent > 5 ? "no answer yet, trying again" : "connecting");
    return;
  }
  const age = Math.floor((now - state.viewed) / 1000);
  const stale = age >= STALE_AFTER_S;
  live.dataset.state = stale ? "stale" : "live";
  setText(at("live-text"), stale ? `last update ${span(age * 1000)} ago`
    : age < 6 ? "live" : `live, last update ${age} s ago`);
  document.body.classList.toggle("is-stale", stale);
  at("stale").hidden = !stale;
  if (stale) drawUnknown();
  // Its text stays the same, so that it is read out once and not every second.
  if (stale) {
    setText(at("stale"), `Out of date: ${state.view.me} does not answer. What is below is how it was; ` +
      "this page goes on trying. Another member's page shows the cluster without it.");
  }
  for (const row of rows.values()) {
    if (row.since) setText(row.since, span(row.member.state_for_ms + now - state.viewed));
  }
}

let source = null;
function open() {
  if (source) source.close();
  state.heard = Date.now();
  // A browser sends the last id by itself only on reconnects of its own.
  const from = state.last ? `?last=${encodeURIComponent(state.last)}` : "";
  source = new EventSource(`/api/v1/stream${from}`);
  const on = (name, take) => source.addEventListener(name, (message) => {
    state.heard = Date.now();
    take(JSON.parse(message.data), message.lastEventId);
  });
  on("view", show);
  on("event", takeEvent);
  on("metrics", drawTraffic);
  // A lost connection it repairs itself; one that was refused, tick() reopens.
}

function legend() {
  at("legend").append(...Object.entries(POSITIONS).map(([word, [kind, sign]]) => {
    const mark = make("span", `mark ${kind}`, sign);
    mark.setAttribute("aria-hidden", "true");
    return make("span", "", mark, ` ${word}`);
  }), make("span", "", "round: no vote"));
}

at("member-filter").addEventListener("input", filterMembers);
at("member-unwell").addEventListener("change", filterMembers);
at("event-filter").addEventListener("change", filterEvents);
legend();
open();
window.setInterval(tick, 1000);
