// The status page. It follows /api/v1/stream and shows what arrives, and asks for what is
// measured while somebody looks at it. What changes something is in acts.js.
//
// The part that is shown is chosen by the address behind the #. Only that part is drawn.

import { at, keyed, make, setAttribute, setText, span } from "./dom.js";
import { age, connect, readingsPath, repeat, schedule, state, takeReadings } from "./feed.js";
import { application, Charts, CLUSTER, MEMBER, RANGES, SMALL } from "./charts.js";
import { drawHealth, drawOverview, drawUnknown, drawWindow } from "./cluster.js";
import { drawMember, drawMembers, setUpMembers } from "./members.js";
import { drawApp, drawApps, setUpApps } from "./apps.js";
import { chooseEvents, closeEvents, drawEvents, openEvents, setUpEvents } from "./events.js";
import { drawRules } from "./rules.js";
import { drawSign, setUpActs } from "./acts.js";
import { closeFiles } from "./differs.js";

const CLUSTER_SHOWN = 10; // digits of the cluster's id that are shown

// What each part draws, and what is asked for while it is open.
const VIEWS = {
  overview: { draw: drawOverview, title: () => "", asks: ["levels", "acting"], open: () => charts("pulse", SMALL) },
  members: { draw: drawMembers, title: () => "Members", asks: ["readings", "levels", "acting"] },
  member: { draw: drawMember, title: (name) => name, asks: ["readings", "levels", "acting", "services", "checkups", "roster"], tab: "members",
    open: (name) => charts("member", MEMBER, { member: name }) },
  apps: { draw: drawApps, title: () => "Applications", asks: [] },
  app: { draw: drawApp, title: (name) => name, asks: ["levels", "services"], tab: "apps",
    open: (name) => charts("app", application(name)), close: closeFiles },
  window: { draw: drawWindow, title: () => "Update window", asks: [] },
  charts: { draw: drawCharts, title: () => "Charts", asks: [], open: openCharts },
  events: { draw: drawEvents, title: () => "Events", asks: [], open: (_, query) => { chooseEvents(query); openEvents(); }, close: closeEvents },
  rules: { draw: drawRules, title: () => "Rules", asks: ["levels", "acting"] },
};

const ASKS = {
  readings: [readingsPath, 10000, (answer) => {
    if (answer.ok) takeReadings(answer.ok);
    state.unread = answer.ok ? "" : answer.why;
  }],
  levels: [() => `/api/v1/levels?for=${7 * 86400000}`, 15000, (answer) => {
    if (answer.ok) state.levels = answer.ok;
    state.levelsWhy = answer.ok ? "" : answer.why;
  }],
  acting: [() => "/api/v1/acting", 10000, (answer) => {
    state.acting = answer.ok ? answer.ok.acting : null; // what acted before may be over
    state.actingWhy = answer.ok ? "" : answer.why;
    state.actingSilent = answer.ok ? answer.ok.silent.map((s) => s.member) : [];
  }],
  checkups: [() => "/api/v1/checkups", 30000, (answer) => { state.checkups = answer.ok || null; }],
  roster: [() => "/api/v1/log?kind=catalog&limit=500", 30000, (answer) => { state.roster = answer.ok ? answer.ok.events : { why: answer.why }; }],
  services: [() => "/api/v1/services", 10000, (answer) => { state.services = answer.ok || { ...state.services, ...answer }; }],
};

// ---- Which part is shown ----------------------------------------------------------------------

let shown = { view: null, name: "", query: new URLSearchParams() };
let asking = [];
let group = null;

function read(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  let name = "";
  try {
    name = decodeURIComponent(rest.join("/"));
  } catch {
    // An address that was cut short names nobody.
  }
  const known = Object.hasOwn(VIEWS, view) && (Boolean(name) || !["member", "app"].includes(view));
  return { view: known ? view : "overview", name, query: new URLSearchParams(query) };
}

function go() {
  const to = read(window.location.hash);
  if (to.view === shown.view && to.name === shown.name) return;
  const before = shown.view;
  if (before && VIEWS[before].close) VIEWS[before].close();
  for (const one of asking) one.stop();
  if (group) group.stop();
  group = null;
  shown = to;
  document.body.dataset.view = to.view;
  for (const name of Object.keys(VIEWS)) at(`view-${name}`).hidden = name !== to.view;
  for (const tab of at("tabs").querySelectorAll("a")) {
    const current = tab.dataset.view === (VIEWS[to.view].tab || to.view);
    if (current) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  asking = VIEWS[to.view].asks.map((ask) => {
    const [path, every, take] = ASKS[ask];
    return repeat(path, () => every, (answer) => {
      take(answer);
      schedule();
    });
  });
  if (VIEWS[to.view].open) VIEWS[to.view].open(to.name, to.query);
  if (state.view) draw();
  if (before) {
    window.scrollTo(0, 0);
    const heading = at(`view-${to.view}`).querySelector("h2[tabindex]") || at("main");
    heading.focus({ preventScroll: true });
  }
}

// Shows an address without going there: the part is shown already.
function readdress(hash) {
  window.history.replaceState(null, "", hash);
}

// ---- Charts ------------------------------------------------------------------------------------

let range = "15m";

function charts(id, specs, options = {}) {
  if (group) group.stop();
  const chosen = id === "pulse" ? "15m" : range;
  group = new Charts(at(id === "charts" || id === "pulse" ? id : `${id}-charts`), at(`${id}-note`), specs, { ...options, range: chosen });
}

function openCharts(_, query) {
  if (Object.hasOwn(RANGES, query.get("range") || "")) range = query.get("range");
  checkRange();
  const member = query.get("member");
  charts("charts", member ? MEMBER : CLUSTER, { member });
}

function drawCharts(view) {
  const names = ["", ...view.members.map((m) => m.name)];
  keyed(at("charts-member"), names, (name) => name, (name) => {
    const option = make("option", "", name || "the whole cluster");
    option.value = name;
    return option;
  }, () => {});
  const wanted = (group && group.member) || "";
  if (at("charts-member").value !== wanted) at("charts-member").value = wanted;
}

function chartsAddress() {
  const query = new URLSearchParams();
  if (group && group.member) query.set("member", group.member);
  if (range !== "15m") query.set("range", range);
  return `#/charts${query.size ? `?${query}` : ""}`;
}

function setUpCharts() {
  for (const place of ["charts", "member", "app"]) {
    at(`${place}-ranges`).append(...Object.entries(RANGES).map(([key, { name }]) => {
      const input = make("input", "");
      Object.assign(input, { type: "radio", name: `${place}-range`, value: key });
      input.addEventListener("change", () => {
        range = key;
        checkRange();
        if (group) group.choose(range);
        if (shown.view === "charts") readdress(chartsAddress());
      });
      return make("label", "", input, make("span", "", name));
    }));
  }
  checkRange();
  at("charts-member").addEventListener("change", () => {
    const member = at("charts-member").value || null;
    charts("charts", member ? MEMBER : CLUSTER, { member });
    readdress(chartsAddress());
  });
}

function checkRange() {
  for (const input of document.querySelectorAll(".ranges input")) input.checked = input.value === range;
}

// ---- Drawing -----------------------------------------------------------------------------------

function draw() {
  const { view } = state;
  if (!view) return;
  if (document.body.classList.contains("waiting")) {
    document.body.classList.remove("waiting");
    tick();
  }
  setText(at("cluster"), view.cluster.slice(0, CLUSTER_SHOWN));
  setAttribute(at("cluster"), "title", view.cluster);
  setText(at("me"), view.me);
  setText(at("version"), view.althing);
  if (!document.body.classList.contains("is-stale")) drawHealth(view);
  const sign = { "ok": "", "warning": "(!) ", "critical": "(✕) " }[view.health] ?? "";
  const part = VIEWS[shown.view].title(shown.name);
  document.title = `${document.body.classList.contains("is-stale") ? "(?) " : sign}${part ? `${part} – ` : ""}${view.me} – Althing`;
  VIEWS[shown.view].draw(view, shown.name);
  drawSign();
}

// Once a second: how old what is shown is.
function tick() {
  const { old, stale } = age();
  const live = at("live");
  if (!state.view) {
    live.dataset.state = "wait";
    setText(at("live-text"), old > 5 ? "no answer yet, trying again" : "connecting");
    return;
  }
  live.dataset.state = stale ? "stale" : "live";
  setText(at("live-text"), stale ? `last update ${span(old * 1000)} ago` : old < 6 ? "live" : `live, last update ${old} s ago`);
  const was = document.body.classList.contains("is-stale");
  document.body.classList.toggle("is-stale", stale);
  at("stale").hidden = !stale;
  if (stale && !was) {
    drawUnknown(state.view);
    // Its text stays the same, so that it is read out once and not every second.
    const since = new Date(state.viewed).toLocaleTimeString("en-GB");
    setText(at("stale"), `Out of date since ${since}: ${state.view.me} does not answer. What is below is how it was; ` +
      "this page goes on trying. Another member's page shows the cluster without it.");
  }
  if (stale !== was) draw();
  else if (["members", "member"].includes(shown.view) && !document.hidden) schedule();
}

// ---- Colours and keys ----------------------------------------------------------------------

function setUpTheme() {
  const apply = (theme) => {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    at("theme").value = document.documentElement.dataset.theme || "auto";
  };
  // A browser may refuse to keep anything.
  try {
    apply(window.localStorage.getItem("theme"));
  } catch {
    apply(null);
  }
  at("theme").addEventListener("change", (event) => {
    apply(event.target.value);
    try {
      window.localStorage.setItem("theme", event.target.value);
    } catch {
      // Then it holds until the page is closed.
    }
  });
}

function setUpKeys() {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const field = at(`view-${shown.view}`).querySelector(".find");
    if (!field) return;
    event.preventDefault();
    field.focus();
    field.select();
  });
}

setUpTheme();
setUpKeys();
setUpCharts();
setUpMembers(() => draw());
setUpApps(() => draw());
setUpEvents(() => draw(), readdress);
setUpActs();
window.addEventListener("hashchange", go);
go();
connect(draw);
window.setInterval(tick, 1000);
