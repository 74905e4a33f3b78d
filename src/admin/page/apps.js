// Applications: all of them, and a page for each.

import { appLink, at, badge, cell, commands, count, dim, fact, fill, keyed, make, memberLink, moment, plural, row, said,
  setText, sign, size, some, unseen, whose } from "./dom.js";
import { drawPublication } from "./cluster.js";
import { drawServices } from "./services.js";
import { levelRules } from "./rules.js";
import { drawFiles, filesButton, setUpFiles } from "./differs.js";
import { compareAct, fillActs, publishAct, resolveAct, rollbackAct } from "./acts.js";
import { state } from "./feed.js";

const MANY = 40;       // from this many members on, lists scroll in a frame
const ROOT_SHOWN = 10; // digits of a signature that are shown

export const VOTES = {
  "unanimous": ["good", "unanimous", "every voter holds this version"],
  "agreed": ["warn", "agreed", "a majority holds this version; the others are repaired"],
  "undecided": ["warn", "undecided", "too few ballots are in hand: nothing is touched"],
  "other": ["warn", "other content", "a majority holds something else"],
  "hung": ["bad", "hung", "no majority: nothing is touched until an operator decides with `althing resolve`"],
  "paused": ["busy", "paused", "a window is open: the editor is right"],
};
export const POSITIONS = {
  "agrees": ["good", "✓", "holds this version"],
  "differs": ["bad", "≠", "holds something else"],
  "late": ["busy", "↻", "is on its way to this version"],
  "nothing": ["warn", "∅", "holds nothing of it"],
  "silent": ["calm", "?", "has not said"],
  "elsewhere": ["calm", "–", "it is not placed here"],
  "leaving": ["busy", "→", "not placed here any more; serves until others do"],
};

export function setUpApps(draw) {
  at("legend").append(...Object.entries(POSITIONS).map(([word, [kind, glyph]]) => {
    const mark = make("span", `mark ${kind}`, glyph);
    mark.setAttribute("aria-hidden", "true");
    return make("span", "", mark, ` ${word}`);
  }), make("span", "", "round: no vote"));
  at("app-filter").addEventListener("input", draw);
  at("app-off").addEventListener("change", draw);
  setUpFiles();
}

const short = (root) => {
  const code = make("code", "", root.slice(0, ROOT_SHOWN));
  code.title = root;
  return code;
};

export function drawApps(view) {
  const text = at("app-filter").value.trim().toLowerCase();
  const shown = view.applications.filter((app) => `${app.name} ${app.vote} ${app.hosts.join(" ")}`.toLowerCase().includes(text));
  at("apps-empty").hidden = view.applications.length > 0;
  fillActs(at("apps-acts"), "", () => [publishAct("")]);
  at("legend").hidden = view.applications.length === 0;
  const all = view.applications.length;
  setText(at("apps-title"), all ? `Applications (${shown.length === all ? all : `${shown.length} of ${all}`})` : "Applications");
  keyed(at("apps"), shown, (app) => app.name, () => make("article", "card app"), (card, app) => {
    const { versions: _, ...rest } = app;
    fill(card, rest, () => cardOf(app));
  });
}

function cardOf(app) {
  const [kind, word, why] = VOTES[app.vote] || ["warn", app.vote, ""];
  const where = app.hosts.concat(app.default ? ["any other host name"] : []);
  return [
    make("div", "head", make("h3", "", appLink(app.name), make("span", "version", ` version ${app.version}`)), badge(kind, word)),
    make("p", "dim small", `${plural(app.files, "file", "files")} · ${size(app.bytes)} · root `, short(app.root)),
    where.length ? make("p", "small", dim("Answers to "), said(where.join(", "))) : null,
    app.placement ? make("p", "small", dim("Placed on "), make("code", "", app.placement)) : null,
    ...here(app),
    make("p", "vote small", dim("Vote: "), ...commands(why), dim(` (${app.ballots} of ${app.electorate} ballots)`)),
    marks(app),
    standingOf(app),
  ].filter(Boolean);
}

// What this member does to it, and what failed here.
function here(app) {
  return [
    app.work ? make("p", "note-line", badge("busy", `${app.work} on this member`)) : null,
    app.error ? make("p", "note-line", badge("bad", "failed on this member"), " ", said(app.error)) : null,
  ].filter(Boolean);
}

export function marks(app) {
  const many = app.positions.length > MANY;
  const list = make("ul", many ? "marks dense scroll" : "marks");
  if (many) list.tabIndex = 0;
  list.setAttribute("aria-label", `How each member stands to ${app.name} version ${app.version}`);
  list.append(...app.positions.map((p) => {
    const [kind, glyph] = POSITIONS[p.position] || ["warn", "·"];
    const vote = p.voter ? "" : ", no vote";
    const item = make("li", `mark ${kind}${p.voter ? "" : " voteless"}`, sign(glyph), unseen(`${p.member} ${p.position}${vote}`));
    item.title = `${p.member}: ${p.position}${vote}` +
      (p.version ? `, version ${p.version}` : "") + (p.root ? `, ${p.root.slice(0, ROOT_SHOWN)}` : "");
    return item;
  }));
  return list;
}

// Who is off, by name: what a row of two hundred marks can't say at a glance.
function standingOf(app) {
  const line = make("p", "standing small");
  for (const position of ["differs", "nothing", "late", "silent", "leaving"]) {
    const names = app.positions.filter((p) => p.position === position).map((p) => p.member);
    if (names.length) line.append(make("span", "", dim(`${position}: `), said(some(names))));
  }
  const placed = app.positions.filter((p) => p.position !== "elsewhere").length;
  if (!line.childElementCount) line.append(dim(`All ${plural(placed, "member agrees", "members agree")}.`));
  return line;
}

// ---- One application -----------------------------------------------------------------------

const ROLLOUT = { "waiting": "calm", "late": "warn", "starting": "busy", "ready": "good", "failed": "bad" };

export function drawApp(view, name) {
  const app = view.applications.find((one) => one.name === name);
  setText(at("app-title"), name);
  at("app-body").hidden = !app;
  at("app-badges").hidden = !app;
  at("app-gone").hidden = Boolean(app);
  if (!app) {
    setText(at("app-gone"), "There is no application of that name in this cluster.");
    return;
  }
  const [kind, word, why] = VOTES[app.vote] || ["warn", app.vote, ""];
  fill(at("app-badges"), [app.version, app.vote, app.work, app.error], () => [
    make("span", "tag", `version ${app.version}`), badge(kind, word), ...here(app)]);
  fillActs(at("app-acts"), [name, app.version], () => [publishAct(name), compareAct(name), app.vote === "hung" ? resolveAct(name) : null].filter(Boolean));
  drawFacts(app);
  drawComing(view, app);
  fill(at("app-vote"), [app.vote, app.ballots, app.electorate], () => [
    ...commands(why.charAt(0).toUpperCase() + why.slice(1)), dim(`. ${app.ballots} of ${app.electorate} ballots are in hand.`)]);
  drawPositions(app);
  drawFiles(name);
  fill(at("app-versions"), [app.versions, app.version, Boolean(state.operator)], () => app.versions.map((v, i) => make("li", "",
    make("div", "", make("strong", "", `version ${v.number}`), i === 0 ? make("span", "tag", "in force") : null,
      v.origin === "published" ? null : make("span", "tag", v.origin), " ", moment(v.published_at_ms), dim(" through "), said(v.publisher), ...whose(v.asked),
      i && state.operator ? rollbackAct(name, v.number) : null),
    v.message ? make("div", "message", said(v.message)) : null,
    make("div", "dim small", `${plural(v.files, "file", "files")} · ${size(v.bytes)} · root `, short(v.root)))));
  drawServices(at("app-services"), at("app-services-note"), (s) => s.app === name, { app: name });
  // Not even the names of secrets are told without a permission.
  fill(at("app-secrets-note"), name, () => commands(`Names are told on members alone: \`althing secret list ${name}\`.`));
  levelRules(at("app-rules"), name);
  fill(at("app-do"), [name, app.vote, app.version], () => [
    [`althing history ${name}`, "all versions, and with `--json` who and when"],
    [`althing diff ${name}`, "what the last version changed"],
    [`althing diff ${name} --live --member NAME`, "in which files that member differs"],
    [`althing settings ${name}`, "what its programs are set to"],
    app.version > 1 ? [`althing rollback ${name}`, "back to the version before"] : null,
    app.vote === "hung" ? [`althing resolve ${name} --member NAME`, "what that member holds becomes the next version"] : null,
  ].filter(Boolean).map(([command, what]) => make("li", "", make("code", "", command), " ", make("span", "dim", ...commands(what)))));
}

function drawFacts(app) {
  const facts = [
    ["Content", `${plural(app.files, "file", "files")}, ${size(app.bytes)}`],
    ["Signature", app.root],
    ["Answers to", app.hosts.concat(app.default ? ["any other host name"] : []).join(", ") || "no host name"],
    ["Placed on", app.placement ?? "all members"],
    ["Lies at", app.path ?? "live/ in the data directory"],
    ["Voters that it is placed on", count(app.electorate)],
  ];
  keyed(at("app-facts"), facts, ([term]) => term, ([term]) => fact(term, ""), (element, [term, value]) => {
    fill(element.lastElementChild, value, () => [
      term === "Signature" ? short(value)
        : term === "Placed on" && app.placement || term === "Lies at" && app.path ? make("code", "", value) : said(value)]);
  });
}

// A publication under way, or a roll-out: how far it is.
function drawComing(view, app) {
  const box = at("app-publication");
  const p = view.window && view.window.publication && view.window.publication.app === app.name ? view.window.publication : null;
  const told = app.positions.filter((one) => one.rollout);
  const open = told.some((one) => one.rollout !== "ready");
  box.hidden = !p && !open;
  if (p) {
    if (!box.querySelector(".bars")) box.replaceChildren(make("h4", ""), make("ul", "bars scroll"), make("p", "files-of"));
    box.querySelector(".bars").tabIndex = 0;
    box.querySelector(".bars").setAttribute("aria-label", "How far each member is");
    drawPublication(view, p, box.querySelector("h4"), box.querySelector(".bars"));
    // Whom it is published through holds all of it first.
    fill(box.querySelector(".files-of"), [app.name, p.publisher], () => (p.publisher
      ? [filesButton(app.name, p.publisher, "Files that it changes", " published")] : []));
  } else if (open) {
    const by = (how) => told.filter((one) => one.rollout === how).map((one) => one.member);
    box.replaceChildren(make("h4", "", `Version ${app.version} is rolled out: ready on ${by("ready").length} of ${told.length}`),
      make("p", "standing small", ...["starting", "waiting", "late", "failed"].filter((s) => by(s).length)
        .map((s) => make("span", "", badge(ROLLOUT[s], s), " ", said(some(by(s)))))));
  }
}

function drawPositions(app) {
  const only = at("app-off").checked;
  const shown = app.positions.filter((p) => !only || !["agrees", "elsewhere"].includes(p.position));
  at("app-frame").classList.toggle("scroll", shown.length > MANY);
  at("app-positions-empty").hidden = shown.length > 0;
  at("app-frame").hidden = shown.length === 0;
  keyed(at("app-positions"), shown, (p) => p.member, () => {
    const tr = row();
    tr.append(cell("Member", "who"), cell("Stands"), cell("Version", "n"), cell("Holds"), cell("Vote"), cell("Roll-out"), cell("What keeps it"));
    return tr;
  }, (tr, p) => {
    const [kind, , word] = POSITIONS[p.position] || ["warn", "", ""];
    fill(tr.children[0], p.member, () => [memberLink(p.member)]);
    fill(tr.children[1], p.position, () => [badge(kind, p.position), " ", dim(word)]);
    fill(tr.children[2], [p.version], () => [p.version ? String(p.version) : dim("not said")]);
    fill(tr.children[3], [app.name, p.root, app.root, p.position], () => [...(!p.root ? [dim("not said")]
      : [short(p.root), p.root === app.root ? "" : make("span", "small", " another content")]),
      ...(p.position === "elsewhere" ? [] : [" ", filesButton(app.name, p.member)])]);
    fill(tr.children[4], [p.voter], () => [p.voter ? "counts" : dim("does not count")]);
    fill(tr.children[5], [p.rollout], () => [p.rollout ? badge(ROLLOUT[p.rollout] || "warn", p.rollout) : dim("–")]);
    const why = p.rollout_failure || p.trouble;
    fill(tr.children[6], [why], () => [why ? said(why) : dim("–")]);
  });
}
