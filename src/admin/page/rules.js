// Rules: those that act, those that bring members in and what comes next, and silences.

import { appLink, at, badge, cell, clock, commands, count, dim, fill, keyed, make, memberLink, moment, row, said, setText, some } from "./dom.js";
import { state } from "./feed.js";

const TURNS_MAX = 40; // changes to come that are shown
const PLACES = { "in-service": ["good", "in service"], "waits": ["calm", "waits"], "aside": ["calm", "aside"] };
const STATES = { "acts": ["busy", "acts"], "rests": ["calm", "rests"], "depends": ["warn", "depends on what is measured"],
  "unsteady": ["warn", "begins and ends over and over"] };
const SEVERITIES = { "warning": ["warn", "warning"], "critical": ["bad", "critical"] };

const named = (key) => [appLink(key.app), make("strong", "", said(`/${key.rule}`))];

export function drawRules(view) {
  drawActing(view);
  drawLevels();
  levelRules(at("level-rules"), null);
  at("silences-empty").hidden = view.silences.length > 0;
  fill(at("silences"), view.silences, () => view.silences.map((s) => make("li", "",
    make("div", "", badge("calm", "silenced"), " ", make("strong", "", said(s.what)), s.member ? " about " : "", s.member ? memberLink(s.member) : "",
      dim(" until "), moment(s.until_ms)),
    make("div", "", said(s.why || "no reason given")),
    make("div", "dim small", "by ", said(s.by), " since ", said(s.since)))));
}

// Rules of members for themselves are told by each; what this member and the cluster have open
// also stands in the reasons of the health.
function drawActing(view) {
  const open = state.acting || [];
  const told = view.reasons.filter((reason) => /^Rule /.test(reason));
  // What a member tells of this one's own stands among the reasons already.
  const others = open.filter((one) => one.member !== view.me);
  fill(at("acting"), [told, others], () => [
    ...told.map((reason) => make("li", "", badge("warn", "acts"), " ", ...commands(reason))),
    ...others.map((one) => {
      const [kind, word] = SEVERITIES[one.severity] || ["busy", "acts"];
      return make("li", "",
        make("div", "", badge(kind, word), " ", ...named(one.key), " about ", memberLink(one.member), dim(" since "), moment(one.began)),
        make("div", "", said(one.why)), one.sentence ? make("code", "sentence", one.sentence) : "",
        one.put_off ? make("div", "dim small", "silenced: nothing has been done about it") : "");
    }),
    ...(told.length || others.length ? [] : [make("li", "dim", "None that is known here.")]),
  ]);
  const note = state.actingWhy ? `What acts about other members is not known: ${state.actingWhy}`
    : state.actingSilent && state.actingSilent.length ? `Not told by ${some(state.actingSilent)}.` : "";
  fill(at("acting-note"), note, () => commands(note));
  at("acting-note").hidden = note === "";
}

function drawLevels() {
  const levels = state.levels;
  const note = state.levelsWhy ? `Who serves by which rule is not known anew: ${state.levelsWhy}`
    : levels && levels.unknown.length ? `Rules of these applications are not known on this member: ${some(levels.unknown)}.` : "";
  setText(at("levels-note"), note);
  at("levels-note").hidden = note === "";
  if (!levels) return;
  keyed(at("levels"), levels.members, (m) => m.member, () => {
    const tr = row();
    tr.append(cell("Member", "who"), cell("Place"), cell("By"));
    return tr;
  }, (tr, m) => {
    const [kind, word] = PLACES[m.place] || ["warn", m.place];
    fill(tr.children[0], m.member, () => [memberLink(m.member)]);
    fill(tr.children[1], [m.live, m.place], () => [m.live ? badge(kind, word) : badge("bad", `not live (${word})`)]);
    fill(tr.children[2], [m.by, m.sure], () => [...(m.by ? named(m.by) : [dim("–")]), m.sure ? "" : dim(" as long as what is measured stays")]);
  });
  at("turns-empty").hidden = levels.changes.length > 0;
  fill(at("turns"), levels.changes, () => [
    ...levels.changes.slice(0, TURNS_MAX).map((turn) => make("li", "",
      make("div", "", make("strong", "", moment(turn.at)), " ", ...named(turn.rule), turn.begins ? " begins" : " ends"),
      make("div", "dim small", whom(turn)))),
    levels.cut || levels.changes.length > TURNS_MAX ? make("li", "dim", "and more: ", make("code", "", "althing levels --for 7d")) : "",
  ].filter(Boolean));
}

function whom(turn) {
  if (turn.silenced) return "brings nobody in: it is silenced then";
  const names = some(turn.members);
  const who = !names ? [] : turn.begins ? [`${names} into service`] : [`${names} ${turn.members.length === 1 ? "waits" : "wait"} again`];
  const more = !turn.short ? [] : turn.begins ? [`${count(turn.short)} more should come, and nobody waits`]
    : [`${count(turn.short)} stay, so that somebody serves`];
  return [...who, ...more].join("; ") || "nobody comes or goes";
}

// Rules that bring members in, of one application or of all.
export function levelRules(list, app) {
  const rules = state.levels ? state.levels.rules.filter((level) => !app || level.rule.app === app) : [];
  fill(list, state.levels ? rules : "asking", () => (rules.length ? rules.map((level) => {
    const [kind, word] = STATES[level.state] || ["warn", level.state];
    return make("li", "",
      make("div", "", badge(kind, word), " ", ...named(level.rule), level.since ? dim(` since ${clock(level.since)}`) : ""),
      make("code", "sentence", level.sentence),
      make("div", "dim small", [level.silenced ? `silenced until ${clock(level.silenced)}` : "",
        level.began_silenced ? "began silenced, so it brings nobody in" : "", level.brought.length ? `brought in ${some(level.brought)}` : "",
        level.more ? `may bring in ${count(level.more)} more` : "", level.condition ? `decides: ${level.condition}` : ""]
        .filter(Boolean).join(" · ")));
  }) : [make("li", "dim", state.levels ? "None." : "Asking …")]));
}
