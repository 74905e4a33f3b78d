// The programs that applications run, as members tell of them.

import { appLink, badge, commands, dim, fill, keyed, make, memberLink, moment, said, some } from "./dom.js";
import { state } from "./feed.js";

const STATES = {
  "starting": ["busy", "starting"], "ready": ["good", "ready"], "running-not-ready": ["warn", "running, not ready"],
  "unwell": ["warn", "unwell"], "backing-off": ["warn", "backing off"], "stopping": ["busy", "stopping"],
  "stopped": ["calm", "stopped"], "failed": ["bad", "failed"],
};

// Those that `wanted` chooses, into `list`; `note` says what is not known.
export function drawServices(list, note, wanted, { member = null, app = null }) {
  const told = state.services;
  const found = told && told.services ? told.services.filter(wanted) : [];
  keyed(list, found, (s) => `${s.member} ${s.app}/${s.service}`, () => make("li", ""), (item, s) => {
    fill(item, s, () => {
      const [kind, name] = STATES[s.state] || ["warn", s.state];
      const more = [s.restarts ? `started again ${s.restarts === 1 ? "once" : `${s.restarts} times`}` : "",
        s.last_exit ? `ended last: ${s.last_exit}` : "", s.pid ? `process ${s.pid}` : "", s.port ? `port ${s.port}` : ""].filter(Boolean);
      return [
        make("div", "", badge(kind, name), " ",
          ...(member ? [appLink(s.app), make("strong", "", said(`/${s.service}`))]
            : [make("strong", "", said(s.service)), " on ", memberLink(s.member)]),
          dim(` version ${s.version}, since `), moment(s.since)),
        make("div", "dim small", said(more.join(" · "))),
      ];
    });
  });
  const command = `althing services${member ? ` --member ${member}` : app ? ` ${app}` : ""}`;
  const silent = told && told.silent ? told.silent.map((s) => s.member).filter((name) => !member || name === member) : [];
  const text = !told ? "Asking …"
    : told.why ? `What runs is not known: ${told.why}`
    : silent.length ? `Not told by ${some(silent)}. On any member: \`${command}\`.`
    : found.length ? "" : "It runs none.";
  fill(note, text, () => commands(text));
  note.hidden = text === "";
}
