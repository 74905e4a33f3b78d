// The cluster as a whole: is everything well and what is to be done, the overview, and the
// update window with who presides.

import { appLink, at, badge, commands, count, dim, fact, fill, forget, keyed, link, make, memberLink, moment,
  plural, said, setAttribute, setText, sign, size, span, unseen, whose } from "./dom.js";
import { state } from "./feed.js";
import { bySeverity, concerns, isLive, isServing } from "./members.js";
import { marks, VOTES } from "./apps.js";
import { eventItem } from "./events.js";
import { fillActs, windowActs } from "./acts.js";

const HEALTH = {
  "ok": ["✓", "Everything is well", "Every member is live and holds what it should."],
  "warning": ["!", "It works, and something needs a look", ""],
  "critical": ["✕", "Something does not work", ""],
};

// ---- Is everything well ------------------------------------------------------------------

export function drawHealth(view) {
  const alone = view.members.length === 1;
  fill(at("health-reasons"), [view.reasons, view.members.map((m) => m.name), view.applications.map((a) => a.name)], () =>
    view.reasons.map((reason) => reasonItem(reason, view)));
  const [glyph, title, text] = HEALTH[view.health] || ["?", "Unknown health", ""];
  setAttribute(at("health"), "data-health", view.health);
  setText(at("health-sign"), glyph);
  setText(at("health-title"), view.reasons.length > 1 ? `${title}: ${view.reasons.length} things` : title);
  const lonely = "This member is alone: whatever it holds exists once. " +
    "Run `althing invite` here, and `althing up --join` with the token on another server.";
  const shown = alone ? (view.health === "ok" ? lonely : "This member is alone.") : text;
  fill(at("health-text"), shown, () => commands(shown));
  at("health-text").hidden = shown === "";
  at("health-more").hidden = !view.reasons.length;
}

// What was true is not what is true. The next view redraws it.
export function drawUnknown(view) {
  const [, was] = HEALTH[view.health] || ["?", "unknown"];
  setAttribute(at("health"), "data-health", "wait");
  setText(at("health-sign"), "?");
  at("health-text").hidden = true;
  forget(at("health-text"));
  setText(at("health-title"), `Not known. Last known: ${was.toLowerCase()}`);
}

function reasonItem(reason, view) {
  const item = make("li", "", make("p", "", ...commands(reason)));
  const { members, apps } = mentioned(reason, view);
  const places = [
    ...members.slice(0, 5).map((name) => memberLink(name)),
    ...apps.slice(0, 5).map((name) => appLink(name)),
    ...(/^Rule /.test(reason) ? [link("#/rules", "Rules")] : []),
    ...(/^Window |window/.test(reason) ? [link("#/window", "Window")] : []),
  ];
  const advice = reason.includes("`") ? null : adviceFor(reason);
  if (!places.length && !advice) return item;
  const line = make("p", "small dim");
  if (places.length) line.append("Look at ", ...places.flatMap((place, i) => (i ? [", ", place] : [place])), ". ");
  if (advice) line.append(...commands(advice));
  item.append(line);
  return item;
}

// Members and applications whose names stand in a sentence.
function mentioned(text, view) {
  const words = new Set(text.split(/[\s,;`()]+/).map((word) => word.replace(/[.:!?]+$/, "")));
  const named = (all) => all.map((one) => one.name).filter((name) => words.has(name));
  return { members: named(view.members), apps: named(view.applications) };
}

// What to do, where the sentence does not say it itself.
function adviceFor(reason) {
  const down = /^(\S+) is down\.$/.exec(reason);
  if (down) {
    return `Start it again on its server with \`althing up\`. How it came to that: \`althing why ${down[1]}\`. ` +
      `If that server is gone for good: \`althing remove ${down[1]}\`.`;
  }
  const off = /^(\S+) is not version \d+ on /.exec(reason);
  if (off) return `Who holds what: \`althing votes ${off[1]}\`. In which files: \`althing diff ${off[1]} --live --member NAME\`.`;
  const rule = /^Rule (\S+) of ([^\s.:,]+)/.exec(reason);
  // Of one about the cluster, the logs speak by the application.
  const wide = /: (cluster|any|every) /.test(reason);
  if (rule) return `How it came to that: \`althing why ${rule[wide ? 2 : 1]}\`.` +
    (reason.includes("(silenced until") ? "" : ` To keep it quiet meanwhile: \`althing silence ${rule[2]}/${rule[1]} --for 1h --why "…"\`.`);
  const service = /service (\S+) of ([^\s.:,]+)/i.exec(reason);
  if (service) return `What it prints: \`althing logs ${service[2]} ${service[1]}\`.`;
  return "What happened: `althing events --since 1h`.";
}

// ---- The overview --------------------------------------------------------------------------

export function drawOverview(view) {
  drawTiles(view);
  drawBriefApps(view);
  drawSquares(view);
  const newest = state.events.slice(0, 8);
  fill(at("brief-events"), newest.map((e) => e.key), () => newest.map((event) => eventItem(event)));
}

// This member's and the cluster's stand among the reasons; of the others each tells its own.
const acting = (view) => view.reasons.filter((reason) => reason.startsWith("Rule ")).length +
  (state.acting || []).filter((one) => one.member !== view.me).length;

function drawTiles(view) {
  const live = view.members.filter(isLive).length;
  const serving = view.members.filter(isServing).length;
  const standby = view.members.filter((m) => m.standby).length;
  const agreed = view.applications.filter((a) => a.vote === "unanimous" || a.vote === "paused").length;
  const w = view.window;
  const tiles = [
    ["#/members", "Members live", `${count(live)} of ${count(view.members.length)}`,
      `${count(serving)} in service${standby ? `, ${count(standby)} on standby` : ""}`],
    ["#/window", "Voters live", `${count(view.voters_live)} of ${count(view.voters)}`,
      `${count(view.majority)} ${view.majority === 1 ? "is" : "are"} a majority`],
    ["#/apps", "Applications", count(view.applications.length),
      view.applications.length ? `${count(agreed)} in full agreement` : "none yet"],
    ["#/window", "Update window", w ? "open" : "closed", w ? `${w.coordinator} presides` : "the majority is right"],
    ["#/rules", "Rules that act", count(acting(view)),
      (view.silences.length ? plural(view.silences.length, "silence", "silences") : "none silenced") + (state.acting ? "" : ", known here alone")],
    ["#/window", "Catalog", `#${count(view.sequence)}`, `failover ${view.policy.failover}, vote ${view.policy.vote}`],
  ];
  keyed(at("tiles"), tiles, ([, name]) => name, ([href, name]) => {
    const value = make("strong", "", "");
    const anchor = link(href, value);
    return make("div", "tile", make("dt", "", name), make("dd", "", anchor, make("span", "dim", "")));
  }, (tile, [, name, value, note]) => {
    setText(tile.querySelector("strong"), value);
    setText(tile.querySelector("dd .dim"), note);
    setAttribute(tile.querySelector("a"), "aria-label", `${name}: ${value}`);
  });
}

function drawBriefApps(view) {
  const rank = { "hung": 0, "other": 1, "undecided": 2, "agreed": 3, "paused": 4 };
  const apps = [...view.applications].sort((a, b) => (rank[a.vote] ?? 9) - (rank[b.vote] ?? 9)).slice(0, 8);
  at("brief-apps-empty").hidden = apps.length > 0;
  keyed(at("brief-apps"), apps, (a) => a.name, () => make("li", ""), (item, app) => {
    const placed = app.positions.filter((p) => p.position !== "elsewhere");
    const agree = placed.filter((p) => p.position === "agrees").length;
    fill(item, [app.version, app.vote, app.positions.map((p) => [p.member, p.position, p.voter])], () => {
      const [kind, word] = VOTES[app.vote] || ["warn", app.vote];
      const head = make("div", "head", make("strong", "", appLink(app.name), dim(` version ${app.version}`)), badge(kind, word));
      const text = agree === placed.length ? `all ${plural(placed.length, "member agrees", "members agree")}`
        : `${count(agree)} of ${plural(placed.length, "member", "members")} ${agree === 1 ? "agrees" : "agree"}`;
      return [head, app.positions.length <= 40 ? marks(app) : null, make("p", "dim small", text)].filter(Boolean);
    });
  });
}

// Every member as a mark with its name: how two hundred are can be seen at once.
function drawSquares(view) {
  const many = view.members.length > 40;
  at("squares").classList.toggle("dense", many);
  keyed(at("squares"), view.members, (m) => m.id, () => make("li", ""), (item, m) => {
    const found = concerns(m, view);
    const worst = bySeverity(found);
    fill(item, [m.name, worst, found.length && found[0].text, m.service, many], () => {
      const kind = { "critical": "bad", "warning": "warn" }[worst] || (isServing(m) ? "good" : "calm");
      const text = `${m.name}: ${found.length ? found[0].text : m.service}`;
      const glyph = { bad: "✕", warn: "!", good: "✓", calm: "–" }[kind];
      const anchor = link(`#/member/${encodeURIComponent(m.name)}`, sign(glyph), many ? unseen(text) : said(m.name),
        many ? null : unseen(`: ${found.length ? found[0].text : m.service}`));
      anchor.className = `square ${kind}`;
      anchor.title = text;
      return [anchor];
    });
  });
}

// ---- Window, publication, failover order ----------------------------------------------------

export function drawWindow(view) {
  const w = view.window;
  fillActs(at("window-acts"), w && w.id, () => windowActs(view));
  if (fill(at("window-state"), w || "none", () => (w ? commands(w.state)
    : commands("No window is open: the majority is right, and a member that differs is repaired. `althing publish` opens one by itself.")))) {
    at("publication").hidden = !w || !w.publication;
    const kind = !w ? "calm" : w.coordinator_live ? "busy" : w.failover === "manual" ? "bad" : "warn";
    at("window-badge").replaceChildren(badge(kind, !w ? "closed" : w.held ? "held open" : "open"));
    at("window-facts").hidden = !w;
    if (w) {
      at("window-facts").replaceChildren(
        fact("Window", `#${w.id}`),
        fact("Coordinator", memberLink(w.coordinator), w.coordinator_live ? " (live)" : " (not live)"),
        fact("Opened", moment(Date.parse(w.opened_at)), " through ", said(w.opened_by), ...whose(w.asked)),
        fact("Covers", ...(w.scope.length ? w.scope.flatMap((app, i) => (i ? [", ", appLink(app)] : [appLink(app)])) : ["all applications"])),
        fact("Edits", w.automatic ? "of live files are published as they are saved" : "are not published by themselves"),
        fact("Failover", w.failover === "manual" ? "manual: waits for an operator" : "auto: the next one takes over"),
        fact("Taken over", w.takeovers === 1 ? "once" : w.takeovers ? `${w.takeovers} times` : "never"),
      );
    }
  }
  if (w && w.publication) drawPublication(view, w.publication, at("publication-title"), at("publication-bars"));
  drawOrder(view);
  drawOutcomes(view);
  drawTraffic(state.metrics);
  fill(at("policy"), view.policy, () => [
    fact("When a coordinator dies", view.policy.failover === "manual" ? "an operator decides (manual)" : "the next one takes over (auto)"),
    fact("A vote is won by", view.policy.vote === "committed" ? "the committed version" : "the majority"),
    fact("A member that is down is removed", view.policy.remove_after_s
      ? `after ${span(view.policy.remove_after_s * 1000)}` : "by an operator alone"),
  ]);
  fill(at("addresses"), view.addresses, () => (view.addresses.length ? view.addresses.map((a) =>
    make("li", "", make("code", "", a.address), " ", a.holder ? memberLink(a.holder) : badge("warn", "held by nobody"),
      dim(" for ", said(a.apps.join(", "))))) : [make("li", "dim", "No application has one.")]));
}

export function drawPublication(view, p, title, bars) {
  const whole = new Set(p.whole);
  const placed = new Set(p.placed);
  // Those that are still on their way first, each part in failover order.
  const all = view.members.map((m) => m.name).filter((name) => placed.has(name));
  const left = timeLeft(view, p, whole, placed);
  fill(title, [p.app, p.version, p.phase, p.bytes, p.needed, whole.size, left && Math.round(left / 1000)], () => [
    appLink(p.app), ` version ${p.version}: ${p.phase} `,
    dim(`${p.files ? `${plural(p.files, "file", "files")}, ` : ""}${size(p.bytes)}${p.publisher ? `, published through ${p.publisher}` : ""}${p.asked ? ` by operator ${p.asked.operator}, at ${p.asked.at}` : ""} · whole on ${all.filter((name) => whole.has(name)).length} of ${all.length}, needed on ${p.needed}` +
      (left === null ? "" : ` · about ${span(left)} left`)),
    p.message ? make("div", "message", said(p.message)) : "",
  ]);
  const names = all.filter((name) => !whole.has(name)).concat(all.filter((name) => whole.has(name)));
  keyed(bars, names, (name) => name, (name) => {
    const bar = make("progress", "");
    bar.max = 100;
    return make("li", "", make("span", "name", said(name)), bar, make("span", "dim"));
  }, (row, name) => {
    const bytes = whole.has(name) ? p.bytes : Math.min(p.progress[name] || 0, p.bytes);
    const done = p.bytes ? Math.floor((bytes / p.bytes) * 100) : 100;
    const known = whole.has(name) || name in p.progress;
    const text = whole.has(name) ? "whole" : known ? `${Math.min(done, 99)} %` : "unknown";
    row.className = whole.has(name) ? "whole" : "";
    row.title = `${name}: ${size(bytes)} of ${size(p.bytes)}`;
    row.children[1].value = whole.has(name) ? 100 : done;
    setAttribute(row.children[1], "aria-label", `${name}: ${text}`);
    setText(row.children[2], text);
  });
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
  const next = view.members.find((m) => isLive(m) && m.voter);
  keyed(at("order"), view.members, (m) => m.id, () => make("li", ""), (item, m) => {
    item.className = isLive(m) ? "" : "off";
    fill(item, [m.name, m.state, m.voter, m.coordinator, !view.window && m === next], () => [
      memberLink(m.name),
      m.coordinator ? badge("busy", "presides") : !view.window && m === next ? badge("good", "next") : null,
      isLive(m) ? null : dim(m.state),
      m.voter ? null : dim("no vote"),
    ].filter(Boolean));
  });
}

function drawOutcomes(view) {
  at("outcomes-empty").hidden = view.outcomes.length > 0;
  fill(at("outcomes"), view.outcomes, () => view.outcomes.map((o) => {
    const what = o.app === null ? [`window #${o.window}`]
      : o.version === null ? [appLink(o.app), ": nothing published"] : [appLink(o.app), ` version ${o.version}`];
    const taken = o.takeovers ? `, taken over ${o.takeovers === 1 ? "once" : `${o.takeovers} times`}` : "";
    const done = o.version !== null ? badge("good", "published")
      : o.app === null ? badge("calm", "closed") : badge("warn", "given up");
    return make("li", "", make("div", "", done, " ", make("strong", "", ...what)), make("div", "", said(o.why)),
      make("div", "dim small", `window #${o.window}, `, said(o.coordinator), ` presided${taken}`));
  }));
}

function drawTraffic(m) {
  if (!m) return;
  fill(at("traffic"), m, () => [
    fact("Requests answered", count(m.requests)),
    fact("Connections to members", count(m.connections)),
    fact("Sent", `${size(m.bytes_sent)} in ${plural(m.packets_sent + m.messages_sent, "message", "messages")}`),
    fact("Received", `${size(m.bytes_received)} in ${plural(m.received, "message", "messages")}`),
    fact("Waiting inputs", count(m.queue)),
    fact("Slowest input", `${(m.input_us_max / 1000).toFixed(1)} ms`),
    fact("Stood still", m.stalls ? `${count(m.stalls)} times` : "never"),
    fact("Content read again", `${size(m.scrub_bytes)}, ${plural(m.scrub_damaged, "piece", "pieces")} rotten`),
  ]);
}
