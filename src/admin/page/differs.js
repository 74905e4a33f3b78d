// In which files one member differs, whichever page it is asked on, and which a publication changes. It is asked
// while it is looked at.

import { at, commands, count, dim, fill, make, plural, unseen } from "./dom.js";
import { repeat, schedule } from "./feed.js";

const EVERY_MS = 5000;
const OPS = { "ADD": "added", "SET": "changed", "DEL": "missing" };

let asked = null; // which application and member, by which button, and what was answered

// `key` tells the buttons about one member apart.
export function filesButton(app, member, label = "Files", key = "") {
  const button = make("button", "files", label, unseen(` of ${app} that differ on ${member}`));
  button.type = "button";
  button.dataset.act = `files${key} ${member}`;
  button.addEventListener("click", () => {
    stop();
    const path = `/api/v1/differs?app=${encodeURIComponent(app)}&member=${encodeURIComponent(member)}`;
    asked = { app, member, key: button.dataset.act, answer: null };
    asked.asking = repeat(() => path, () => EVERY_MS, (answer) => {
      asked.answer = answer;
      schedule();
    });
    drawFiles(app);
    at("app-files-title").focus();
  });
  return button;
}

export function setUpFiles() {
  at("app-files-close").addEventListener("click", () => {
    const { app, key } = asked;
    closeFiles();
    drawFiles(app);
    const button = [...document.querySelectorAll("#view-app [data-act]")].find((one) => one.dataset.act === key && one.offsetParent);
    if (button) button.focus();
    else at("app-title").focus();
  });
}

function stop() {
  if (asked) asked.asking.stop();
}

export function closeFiles() {
  stop();
  asked = null;
}

export function drawFiles(app) {
  at("app-files").hidden = !asked || asked.app !== app;
  if (at("app-files").hidden) return;
  const { member, answer } = asked;
  fill(at("app-files-title"), [app, member], () => [`What differs on ${member}`]);
  const told = answer && answer.ok && answer.ok.told;
  // By itself, so that a change is read out, and not two hundred paths.
  const says = sentence(member, answer, told);
  fill(at("app-files-says"), says, () => commands(says));
  fill(at("app-files-told"), [member, told], () => (told ? [...paths(told.differs, "What differs", OPS), ...coming(told)] : []));
}

function sentence(member, answer, told) {
  if (!answer) return `Asking ${member} …`;
  if (!answer.ok) return `It is not known: ${answer.why}`;
  if (!told) return `${member} does not say: ${answer.ok.silent.map((one) => one.why).join(" ")}`;
  const { version, live, differs } = told;
  if (live === null) return `Nothing of it is live on ${member}.`;
  const late = live === version ? "" : ` It has switched to version ${live} so far.`;
  if (!differs) return `Which files version ${version} has is not known there yet.${late}`;
  return `${total(differs) ? `${counted(differs)} from version ${version}` : `What stands there is version ${version}`}.${late}`;
}

const total = (all) => all.added + all.changed + all.deleted;
const counted = (all) => plural(total(all), "path differs", "paths differ");

function coming({ coming: one }) {
  if (!one) return [];
  const text = one.changes ? `Version ${one.version} is being published: ${counted(one.changes)} from the version before.`
    : `Version ${one.version} is being published; which files it has is not known there yet.`;
  return [make("p", "small next", text), ...paths(one.changes, "What is being published", { ...OPS, "DEL": "removed" })];
}

function paths(all, label, words) {
  if (!all || !all.paths.length) return [];
  const list = make("ul", "scroll paths", ...all.paths.map(({ op, path }) => make("li", "", dim(`${words[op] || op} `), make("code", "", path))));
  list.tabIndex = 0;
  list.setAttribute("aria-label", label);
  return [list, all.more ? make("p", "dim small", `And ${count(all.more)} more.`) : ""];
}
