// Acts: what an operator with a token does from here. Each is asked about in a dialog that says what will
// happen, to what, and which command does the same. The member decides, and records who it was.
//
// The token goes into the header of these requests and nowhere else. The tab keeps it until it is closed.

import { at, badge, clock, commands, dim, fill, forget, make, plural, said, setText, size, some, span, unseen } from "./dom.js";
import { schedule, state } from "./feed.js";
import { isLive, isServing } from "./members.js";

const KEPT = "althing token"; // in the storage of the tab
const TOKEN = /^althing-op-[\x21-\x7e]+$/;
const TOLD_MS = 60000;        // how long it is said what came of an act whose dialog was closed

let token = "";
let asked = null; // what the dialog is about
let hiding = 0;   // hides what was told, after a while

// ---- What is sent ------------------------------------------------------------------------------

async function call(path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    const response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: JSON.stringify(body),
      cache: "no-store", credentials: "omit", redirect: "error" });
    const told = await response.json().catch(() => null);
    if (response.ok && told) return { ok: told };
    const error = (told && told.error) || { what: `This member answered with status ${response.status}.`, why: "", todo: "" };
    return { error, unknown: response.status === 401 };
  } catch {
    return { error: { what: "No answer came.", why: body === undefined ? "This member can't be reached."
      : "Whether it was done is not known: the connection was lost.", todo: "Look at the events before it is tried again." } };
  }
}

async function signIn(given) {
  token = given;
  const answer = await call("/api/v1/whoami");
  state.operator = answer.ok || null;
  if (!answer.ok) token = "";
  // What a member does not know any more is not kept; one that does not answer may know it later.
  if (answer.ok || answer.unknown) keep(token);
  schedule();
  return answer;
}

function signOut() {
  token = "";
  state.operator = null;
  keep("");
  schedule();
}

// A browser may refuse to keep anything.
function keep(text) {
  try {
    if (text) window.sessionStorage.setItem(KEPT, text);
    else window.sessionStorage.removeItem(KEPT);
  } catch {
    // Then it holds until the page is closed.
  }
}

// ---- The dialog ----------------------------------------------------------------------------------

// A button that asks about an act: `describe` tells what it does, by the view, what was filled in, and what `of` told
// when the dialog was opened.
function act(key, label, describe, { fields = () => [], about = "", of = () => null } = {}) {
  const button = make("button", "act", label, about ? unseen(` ${about}`) : null);
  button.type = "button";
  button.dataset.act = key;
  button.addEventListener("click", () => askAbout(key, fields(state.view), describe, of(state.view)));
  return button;
}

function askAbout(key, fields, describe, of = null) {
  asked = { key, describe, of, fields: fields.map((one) => ({ ...one, input: inputOf(one) })), sent: false, done: false };
  at("ask-fields").replaceChildren(...asked.fields.map(({ label, hint, input }) =>
    make("label", input.type === "checkbox" ? "check" : "", input.type === "checkbox" ? input : label,
      input.type === "checkbox" ? label : input, hint ? dim(hint) : null)));
  at("ask-typed").value = "";
  forget(at("ask-says"));
  at("ask-result").replaceChildren();
  setText(at("ask-progress"), "");
  setText(at("ask-no"), "Cancel");
  drawAsked();
  at("ask").showModal();
  // Where nothing is to be filled in, what can't do harm has the focus.
  if (!asked.fields.length) at(asked.now && asked.now.typed ? "ask-typed" : "ask-no").focus();
}

function inputOf({ id, type = "text", options, value, placeholder = "" }) {
  const input = make(options ? "select" : "input", "");
  if (options) {
    input.append(...options.map(([key, text]) => Object.assign(make("option", "", text), { value: key })));
  } else {
    Object.assign(input, { type, placeholder, autocomplete: "off", spellcheck: false });
    if (type === "checkbox") input.checked = Boolean(value);
  }
  input.id = `ask-field-${id}`;
  if (type !== "checkbox" && value !== undefined) input.value = value;
  return input;
}

const filledIn = () => Object.fromEntries(asked.fields.map(({ id, input }) =>
  [id, input.type === "checkbox" ? input.checked : input.value.trim()]));

// What it would do, as things are now: they may change while somebody reads.
function drawAsked() {
  if (!asked || asked.sent) return;
  const now = asked.describe(state.view, filledIn(), asked.of);
  asked.now = now;
  at("ask-fields").hidden = !asked.fields.length;
  at("ask-same").hidden = !now || !now.command;
  at("ask-sure").hidden = !now || !now.typed;
  at("ask-yes").hidden = false;
  if (now) {
    setText(at("ask-title"), now.title);
    setText(at("ask-yes"), now.verb);
    setText(at("ask-command"), now.command || "");
    setText(at("ask-name"), now.typed || "");
  }
  const stale = document.body.classList.contains("is-stale") ? ["What stands here is out of date."] : [];
  const says = now ? [now.does, [...(now.warns || []), ...stale]] : [["This can't be done any more: things have changed meanwhile."], []];
  // Another sentence is agreed to anew.
  if (fill(at("ask-says"), says, () => [...says[0].map((text) => make("p", "", ...commands(text))),
    ...says[1].map((text) => make("p", "note", badge("warn", "take care"), " ", ...commands(text)))])) at("ask-typed").value = "";
  ready();
}

function ready() {
  const { now } = asked;
  at("ask-yes").disabled = asked.sent || !now || Boolean(now.lacks) || Boolean(now.typed && at("ask-typed").value.trim() !== now.typed);
}

async function confirm() {
  // A view may have come that is not drawn yet.
  drawAsked();
  const mine = asked;
  const { now } = mine;
  if (mine.done || at("ask-yes").disabled) return;
  mine.sent = true;
  at("ask-yes").disabled = true;
  for (const { input } of mine.fields) input.disabled = true;
  setText(at("ask-no"), "Close");
  at("ask-result").replaceChildren(badge("busy", "under way"), ` Asking ${state.view.me} …`);
  at("ask-no").focus();
  const began = Date.now();
  const timer = window.setInterval(() => {
    if (asked === mine) setText(at("ask-progress"), `${span(Date.now() - began)}${progressOf(now.app)}`);
  }, 1000);
  const answer = now.run ? await now.run() : await call(now.path || "/api/v1/command", now.body);
  window.clearInterval(timer);
  if (answer.unknown) signOut();
  const result = answer.ok ? [badge("good", "done"), " ", ...(now.told ? now.told(answer.ok) : outcome(answer.ok.ok))] : refusal(answer.error);
  schedule();
  if (asked !== mine) {
    tell(make("strong", "", `${now.title} `), ...result);
    hiding = window.setTimeout(() => { at("told").hidden = true; }, TOLD_MS);
    return;
  }
  mine.done = Boolean(answer.ok);
  setText(at("ask-progress"), "");
  at("ask-result").replaceChildren(...result);
  for (const part of ["fields", "same", "sure", "yes"]) at(`ask-${part}`).hidden = mine.done;
  if (mine.done) {
    at("ask-says").replaceChildren();
    return;
  }
  mine.sent = false;
  for (const { input } of mine.fields) input.disabled = false;
  ready();
}

function progressOf(app) {
  const p = state.view.window && state.view.window.publication;
  return app && p && p.app === app ? ` · version ${p.version}: ${p.phase}, whole on ${p.whole.length} of ${p.placed.length}` : "";
}

function outcome(ok) {
  const { done, published } = ok || {};
  if (published) return [said(`${published.app} version ${published.version} is in force: ${published.why}.`)];
  return done ? [said(`${done.text}.`), dim(` Catalog #${done.sequence}.`)] : [];
}

// What happened, why, and what to do.
function refusal({ what, why, todo }) {
  return [make("p", "", badge("bad", "refused"), " ", make("strong", "", ...commands(what))),
    why ? make("p", "", dim("Why: "), ...commands(why)) : null, todo ? make("p", "", dim("What to do: "), ...commands(todo)) : null].filter(Boolean);
}

// The focus goes back to the button, or to the one that stands in its place by now.
function closed() {
  if (at("ask").open) return; // it is told late: the dialog is about something else by now
  const key = asked ? asked.key : "";
  const running = asked && asked.sent && !asked.done;
  asked = null;
  const same = [...document.querySelectorAll("[data-act]")].find((one) => one.dataset.act === key && one.offsetParent);
  (same || at("main")).focus({ preventScroll: true });
  // A form keeps what was typed into it: a token is not to be found there.
  at("ask-fields").replaceChildren();
  if (running) tell(badge("busy", "under way"), " What comes of it will be said here.");
}

// At the top of the page, in the place of what was told before.
function tell(...parts) {
  window.clearTimeout(hiding);
  at("told").replaceChildren(...parts);
  at("told").hidden = false;
}

// ---- Who acts --------------------------------------------------------------------------------------

// Whether acts are taken here: over TLS from everywhere, without it on the member's own machine alone.
const isTaken = () => window.location.protocol === "https:" || /^(localhost|127\..*|\[::1\])$/.test(window.location.hostname);

function aboutToken(view, { given }) {
  const { operator } = state;
  if (operator) {
    return { title: `Signed in as ${operator.operator}`, verb: "Sign out", told: () => ["This page only reads now."],
      does: [`What is done from here is recorded as done by ${operator.operator}.` +
        (operator.expires ? ` The token is good until ${clock(operator.expires)}.` : "")],
      run: async () => { signOut(); return { ok: {} }; } };
  }
  const port = window.location.port || "80";
  return { title: "Sign in with a token", verb: "Sign in", lacks: !TOKEN.test(given),
    does: ["Without a token this page only reads. With one it can publish, roll back, drain and so on, as the operator whose token it is. " +
      "The token stays in this tab until it is closed."],
    warns: isTaken() ? [] : [`Without TLS acts are taken on ${view.me}'s own machine alone. From another one, open the page through ` +
      `\`ssh -L ${port}:127.0.0.1:${port} ${window.location.hostname}\`, or start the member with \`--status-cert\` and \`--status-key\`.`],
    told: (who) => [`Signed in as ${who.operator}.`], run: () => signIn(given) };
}

export function setUpActs() {
  at("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    confirm();
  });
  at("ask-form").addEventListener("input", (event) => (event.target.id === "ask-typed" ? ready() : drawAsked()));
  at("ask-no").addEventListener("click", () => at("ask").close());
  at("ask").addEventListener("close", closed);
  at("sign").addEventListener("click", () => askAbout("sign", state.operator ? []
    : [{ id: "given", label: "Token", type: "password", placeholder: "althing-op-…" }], aboutToken));
  try {
    const before = window.sessionStorage.getItem(KEPT);
    if (before) signIn(before);
  } catch {
    // Then nobody is signed in.
  }
}

export function drawSign() {
  fill(at("sign"), state.operator ? state.operator.operator : "", () => (state.operator
    ? [unseen("Signed in as "), said(state.operator.operator)] : ["Read only", unseen(": sign in")]));
  drawAsked();
}

// Buttons into a box that is there for them.
export function fillActs(box, keys, build) {
  const all = state.operator ? build() : [];
  fill(box, [Boolean(state.operator), keys, all.map((one) => one.dataset.act)], () => all);
  box.hidden = !all.length;
}

// ---- Acts about a member -------------------------------------------------------------------------

export function memberAct(m) {
  return state.operator ? act(`service ${m.name}`, m.standby ? "Resume" : "Drain", serviceOf(m.name, m.standby),
    { about: m.name, fields: () => (m.standby ? [] : [{ id: "wait", type: "checkbox", label: "Rules may bring it into service again" }]) }) : null;
}

const inForce = (p) => p.version > 0 && p.position !== "elsewhere";

const serviceOf = (name, resume) => (view, { wait }) => {
  const m = view.members.find((one) => one.name === name);
  if (!m || m.standby !== resume) return null;
  const others = view.members.filter((one) => isServing(one) && one !== m).map((one) => one.name);
  const away = isLive(m) ? [] : [`${name} is not live: this holds from when it is back.`];
  if (resume) {
    return { title: `Resume ${name}`, verb: "Bring into service", command: `althing resume ${name}`, body: { service: { member: name, on: true } },
      does: [`${name} is given requests again, beside ${plural(others.length, "member", "members")} in service.`], warns: away };
  }
  const serving = new Set(others);
  const alone = view.applications.filter((app) => app.positions.some((p) => p.member === name && inForce(p)) &&
    !app.positions.some((p) => serving.has(p.member) && inForce(p))).map((app) => app.name);
  const last = isServing(m) && (!others.length || alone.length);
  return { title: `Drain ${name}`, verb: "Take out of service", typed: last ? name : "",
    command: `althing drain ${name}${wait ? " --wait" : ""}`, body: wait ? { wait: { member: name } } : { service: { member: name, on: false } },
    does: [`${name} is given no more requests; what is under way there is finished, and it goes on holding everything.`,
      others.length ? `Its requests are taken over by ${some(others, 5)}.` : "Nobody else is in service.",
      wait ? "Rules may bring it in." : "It stays out until somebody resumes it."],
    warns: [...(last ? [alone.length ? `It is the last one in service that has ${some(alone)} in force: until another one has, it answers for that all the same.`
      : "It is the last one in service: until another one is, it answers all the same."] : []), ...away] };
};

// ---- Acts about an application ---------------------------------------------------------------------

// As a shell reads it.
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const found = (view, name) => view.applications.find((one) => one.name === name);
const busy = (view, name) => (view.window && (!view.window.scope.length || view.window.scope.includes(name))
  ? [`Window #${view.window.id} is open: see what it is for.`] : []);
const placedOn = (app) => plural(app.positions.filter((p) => p.position !== "elsewhere").length, "member", "members");

export function publishAct(name) {
  const fields = (view) => [
    ...(name ? [] : [{ id: "app", label: "Name", placeholder: "as its manifest says", hint: "May be left out where althing.toml says it." }]),
    { id: "source", label: `Directory on ${view.me}`, placeholder: "/srv/site" },
    { id: "message", label: "Message for the history" },
    ...(name ? [{ id: "only", type: "checkbox", value: true, label: `Only if version ${found(view, name).version} is still in force` }] : [])];
  const base = name ? found(state.view, name).version : null;
  return act(`publish ${name}`, name ? "Publish" : "Publish a new one", (view, { app: given, source, message, only }) => {
    const app = name || given;
    const now = found(view, app);
    if (name && !now) return null;
    // A new one replaces none: the member refuses it where the manifest names one that is there.
    const against = name ? (only ? base : null) : 0;
    if (!name && now) {
      return { title: `Publish ${app}`, verb: "Publish", lacks: true, does: [`${app} is there already: publish it from its own page.`] };
    }
    const lacks = !source.startsWith("/");
    return { title: app ? `Publish ${app}` : "Publish an application", verb: "Publish", path: "/api/v1/publish", app, lacks,
      command: `althing publish ${quoted(source || "DIR")}${app ? ` --app ${quoted(app)}` : ""}${against === null ? "" : ` --base ${against}`}` +
        `${message ? ` --message ${quoted(message)}` : ""}`,
      body: { app: app || null, source, message, base: against, hosts: [], place: null },
      does: [lacks ? `Name a directory from the root, as it stands on ${view.me}.`
        : `What stands in ${source} on ${view.me} becomes version ${name ? now.version + 1 : 1} of ${app || "what its manifest names"}, ` +
          `on ${name ? placedOn(now) : "the members that it is placed on"}. It is in force when a majority holds all of it` +
          (name ? `; until then version ${now.version} is served.` : "."), "That may take as long as the bytes take."],
      warns: app ? busy(view, app) : [] };
  }, { fields, about: name });
}

// What stands on the member that tells, against what is in force: what differs the vote puts right.
export function compareAct(name) {
  return act(`sync ${name}`, "Compare", (view, { full }) => {
    const app = found(view, name);
    if (!app) return null;
    return { title: `Compare ${name} on ${view.me}`, verb: "Compare", command: `althing sync ${name}${full ? " --full" : ""}`,
      does: [`What stands on ${view.me} is compared with version ${app.version}, and it is told which files differ. ` +
        "What differs is put right by the vote, unless a window is open. Another member is asked by its button in the vote."],
      run: () => compare(name, full), told: differing };
  }, { fields: () => [{ id: "full", type: "checkbox", label: "Read every byte, not only what may have changed" }], about: name });
}

async function compare(app, full) {
  const first = await call("/api/v1/inspect", { compare: { app, full, lists: false } });
  if (!first.ok) return first;
  const { compared } = first.ok.ok;
  if (compared.same) return { ok: { compared } };
  const second = await call("/api/v1/inspect", { diff: { app, from: null, to: null, live: true, text: false } });
  return second.ok ? { ok: { compared, diff: second.ok.ok.diff } } : second;
}

const PATHS_SHOWN = 200;

function differing({ compared, diff }) {
  const read = ` ${plural(compared.files, "file", "files")}, ${size(compared.bytes_read)} read in ${span(compared.took_ms)}.`;
  if (!diff) return [`Here stands version ${compared.version}.`, dim(read)];
  const list = make("ul", "scroll paths", ...diff.changes.slice(0, PATHS_SHOWN).map((one) => make("li", "", dim(`${one.op} `), make("code", "", one.path))));
  const more = diff.more + Math.max(0, diff.changes.length - PATHS_SHOWN);
  list.tabIndex = 0;
  list.setAttribute("aria-label", "What differs");
  return [`${plural(diff.added + diff.changed + diff.deleted, "path differs", "paths differ")} from version ${compared.version}.`, dim(read), list,
    more ? dim(`And ${more} more.`) : ""];
}

export function rollbackAct(name, number) {
  return act(`rollback ${name} ${number}`, "Roll back", (view) => {
    const app = found(view, name);
    const to = app && app.versions.find((one) => one.number === number);
    if (!to || number === app.version) return null;
    return { title: `Roll ${name} back`, verb: `Roll back to version ${number}`, typed: name, app: name,
      command: `althing rollback ${name} ${number}`, body: { rollback: { app: name, version: number } },
      does: [`${name} goes from version ${app.version} to the content of version ${number}, on ${placedOn(app)}.`,
        `That was published ${clock(to.published_at_ms)} through ${to.publisher}${to.asked ? ` by operator ${to.asked.operator}, at ${to.asked.at}` : ""}${to.message ? ", with this message:" : "."}`,
        ...(to.message ? [to.message.replaceAll("`", "'")] : []),
        `It becomes version ${app.version + 1}; version ${app.version} stays in the history.`], warns: busy(view, name) };
  }, { about: `to version ${number}` });
}

export function resolveAct(name) {
  // What each holds, and how many hold the same.
  const holders = (view) => found(view, name).positions.filter((p) => p.root);
  const alike = (view, root) => holders(view).filter((p) => p.root === root).length;
  return act(`resolve ${name}`, "Decide the vote", (view, { member }) => {
    const app = found(view, name);
    if (!app || app.vote !== "hung") return null;
    const p = holders(view).find((one) => one.member === member);
    const others = app.positions.filter((one) => one.position !== "elsewhere" && one.root && p && one.root !== p.root).map((one) => one.member);
    return { title: `Decide the vote on ${name}`, verb: "Decide", typed: name, app: name, lacks: !p,
      command: `althing resolve ${name} --member ${member || "NAME"}`, body: { resolve: { app: name, member } },
      does: p ? [`What ${member} holds becomes version ${app.version + 1} of ${name}: ${p.root.slice(0, 10)}, which ` +
        `${alike(view, p.root) === 1 ? "nobody else holds" : `${alike(view, p.root)} members hold`}.`] : ["Nobody has said what it holds."],
      warns: p && others.length ? [`What these hold is replaced: ${some(others)}. On each, what is replaced is kept aside for a while: \`althing restore ${name}\`.`] : [] };
  }, { fields: (view) => [{ id: "member", label: "Whose content is right", options: holders(view).map((p) =>
    [p.member, `${p.member}: ${p.root.slice(0, 10)}, version ${p.version ?? "not said"}, held by ${alike(view, p.root)}`]) }] });
}

// ---- Acts about the window --------------------------------------------------------------------------

export function windowActs(view) {
  const w = view.window;
  if (!w) return [openAct()];
  return [w.held ? closeAct() : null, w.coordinator_live ? null : takeOverAct()].filter(Boolean);
}

function openAct() {
  const fields = (view) => [
    { id: "app", label: "For", options: [["", "all applications"], ...view.applications.map((app) => [app.name, app.name])] },
    { id: "failover", label: "If its coordinator is lost", options: [["", `as the policy says (${view.policy.failover})`],
      ["auto", "the next one takes over"], ["manual", "an operator decides"]] },
    { id: "automatic", type: "checkbox", label: "Automatic: what is saved in live files is published" }];
  return act("window", "Open a window", (view, { app, failover, automatic }) => {
    if (view.window) return null;
    const what = app || "all applications";
    return { title: "Open an update window", verb: "Open", body: { "window-open": { scope: app ? [app] : [], failover: failover || null, automatic } },
      command: `althing window open${app ? ` --app ${app}` : ""}${failover ? ` --failover ${failover}` : ""}${automatic ? " --automatic" : ""}`,
      does: [`Voting on ${what} pauses until the window is closed: a member that differs is not repaired.`,
        automatic ? "An edit of live files on any member is published to all." : "Edits of live files stay where they are made."] };
  }, { fields });
}

// The command names no window: what is confirmed has to be the one that was asked about.
const windowOf = (view) => (view.window ? view.window.id : null);
const another = (title, verb, id, w) => ({ title, verb, lacks: true,
  does: [`Window #${id} is over, and window #${w.id} is open by now: nothing is done. Close this, and look at that one first.`] });

function closeAct() {
  return act("window", "Close the window", (view, _, id) => {
    const w = view.window;
    if (!w) return null;
    if (w.id !== id) return another(`Close window #${id}`, "Close", id, w);
    if (!w.held) return null;
    return { title: `Close window #${w.id}`, verb: "Close", command: "althing window close", body: "window-close",
      does: [`Voting on ${w.scope.length ? some(w.scope) : "all applications"} goes on.`],
      warns: ["What was edited on fewer than a majority and not published is put back to what is in force, and kept aside."] };
  }, { of: windowOf });
}

function takeOverAct() {
  return act("window takeover", "Take the window over", (view, _, id) => {
    const w = view.window;
    if (!w) return null;
    if (w.id !== id) return another(`Take window #${id} over`, "Take over", id, w);
    if (w.coordinator_live) return null;
    return { title: `Take window #${w.id} over`, verb: "Take over", typed: view.me, command: "althing window takeover", body: "window-takeover",
      does: [`${view.me} presides over window #${w.id} in the place of ${w.coordinator}, which is not live` +
        `${w.publication ? `, and goes on with ${w.publication.app} version ${w.publication.version}` : ""}.`],
      warns: w.failover === "manual" ? ["Failover is manual in it: be sure that its coordinator will not come back to it."] : [] };
  }, { of: windowOf });
}
