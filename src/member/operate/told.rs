//! What events tell of a change that is committed: what it was, whom it is about, who asked for it.

use crate::{
    base::{AppName, MemberId, catalog::WindowMode, conduct, operator::AskedBy},
    member::{
        Member,
        change::{Begin, Change},
        event::{Event, EventKind, Severity},
        inviting,
        io::Effect,
        operate::Purpose,
        told_with,
    },
};

impl Member {
    /// Tells of a change that this member has proposed.
    pub(super) fn tell_committed(
        &mut self,
        sequence: u64,
        change: &Change,
        purpose: &Purpose,
        effects: &mut Vec<Effect>,
    ) {
        let Some(text) = told(self, change) else { return };
        let kind = match change {
            Change::Open(_)
            | Change::TakeOver { .. }
            | Change::Finish { .. }
            | Change::Close { .. } => EventKind::Window,
            Change::Commit { .. } | Change::AdoptMajority { .. } => EventKind::Version,
            Change::Begin(_)
            | Change::End { .. }
            | Change::Silence(_)
            | Change::Unsilence { .. } => EventKind::Rule,
            Change::AddOperator(_) | Change::RemoveOperator { .. } => EventKind::Operator,
            _ => EventKind::Catalog,
        };
        let severity = match change {
            Change::Expire { .. } => Severity::Warning,
            Change::Begin(begin) => begin.severity.map_or(Severity::Info, |bad| match bad {
                conduct::Severity::Warning => Severity::Warning,
                conduct::Severity::Critical => Severity::Critical,
            }),
            _ => Severity::Info,
        };
        let (asked, cause) = match purpose {
            Purpose::Reply { by: Some((asked, event)), .. } => (Some(asked.clone()), Some(*event)),
            _ => (asked_for(self, change), None),
        };
        let text = format!("{} (catalog {sequence})", told_with(text, asked.as_ref()));
        let (app, episode) = (concerned(self, change), of_episode(change));
        let event = self.event(severity, kind, self.me, app, text);
        effects.push(Effect::Event(Event { episode, asked, cause, ..event }));
    }
}

/// The application that `change` was about, which has been committed.
fn concerned(member: &Member, change: &Change) -> Option<AppName> {
    match change {
        Change::Open(open) => open.publication().map(|p| p.app.clone()),
        Change::Commit { .. } | Change::TakeOver { .. } => {
            let window = member.catalog().window.as_ref()?;
            window.publication.as_ref().map(|p| p.app.clone())
        }
        Change::Finish { window, .. } => {
            let outcomes = &member.catalog().outcomes;
            outcomes.iter().rfind(|outcome| outcome.window == *window)?.app.clone()
        }
        Change::AdoptMajority { app, .. } => Some(app.clone()),
        Change::Begin(begin) => Some(begin.app.clone()),
        Change::End { which, .. } => Some(which.app.clone()),
        Change::Silence(silence) => silence.what.app.clone(),
        Change::Unsilence { what, .. } => what.app.clone(),
        _ => None,
    }
}

/// Who asked with a token for what `change` was about, which has been committed. The rest of what
/// can be asked for is proposed by the member that is asked.
fn asked_for(member: &Member, change: &Change) -> Option<AskedBy> {
    match change {
        Change::Open(open) => open.asked().cloned(),
        Change::Commit { .. } => {
            let publication = member.catalog().window.as_ref()?.publication.as_ref()?;
            publication.version.asked.clone()
        }
        _ => None,
    }
}

/// The episode of a rule that `change` belongs to.
fn of_episode(change: &Change) -> Option<String> {
    match change {
        Change::Begin(begin) => Some(begin.episode.clone()),
        Change::End { which, .. } => Some(which.episode.clone()),
        Change::StandDown { because, .. } => Some(because.clone()),
        _ => None,
    }
}

/// What a committed change is, for the events of the member that proposed it.
fn told(member: &Member, change: &Change) -> Option<String> {
    let name = |id: &MemberId| member.name_of(*id);
    Some(match change {
        Change::Admit { entry, invite, .. } => {
            format!("{} joined with invitation {}", entry.name, inviting::short(invite))
        }
        Change::Enfranchise { member } => format!("{} has a vote now", name(member)),
        Change::Remove { member } => format!("{} is no longer enrolled", name(member)),
        Change::Invite { invite, .. } => {
            let id = inviting::short(&invite.key);
            format!("invitation {id} was issued, for {}", invite.uses_left)
        }
        Change::Withdraw { invite: Some(key), .. } => {
            format!("invitation {} was withdrawn", inviting::short(key))
        }
        Change::Withdraw { invite: None, .. } => "all open invitations were withdrawn".to_owned(),
        Change::Failover { .. } => "the failover list was changed".to_owned(),
        Change::Tags { member: of, .. } => {
            let tags = &member.catalog().roster.get(*of)?.tags;
            let tags: Vec<String> =
                tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("the tags of {} are now: {}", name(of), tags.join(" "))
        }
        Change::Standby { member: of, standby: true } => {
            format!("{} is out of service, on standby", name(of))
        }
        Change::StandDown { member: of, because, .. } => {
            format!("{} is out of service, on standby, because of a rule ({because})", name(of))
        }
        Change::Standby { member: of, standby: false } => format!("{} is in service", name(of)),
        Change::StandUp { member: of } => {
            let waits = member.catalog().conduct.is_waiting(*of);
            let how = if waits { "waits again" } else { "is in service again" };
            format!("{} {how}: the rule that put it out of service acts no more", name(of))
        }
        Change::Policy { .. } | Change::RemoveAfter { .. } => "the policy was changed".to_owned(),
        Change::Expire { member, seconds } => format!(
            "{} is no longer enrolled: it was down for {seconds} s, and the policy remove-after \
             says that such a member is removed",
            name(member)
        ),
        Change::Open(open) => match open.publication() {
            Some(p) => format!(
                "a window was opened for {} version {}, published on {}",
                p.app,
                p.version.number,
                name(&open.opened_by)
            ),
            None if open.mode() == WindowMode::Automatic => format!(
                "a window was opened by {} in automatic mode: edits of live files are publications",
                name(&open.opened_by)
            ),
            None => format!("a window was opened by {} and is held", name(&open.opened_by)),
        },
        Change::TakeOver { window, from, by, ordered } => {
            let why = if *ordered { "by order" } else { "because it is down" };
            format!("{} took window {window} over from {} {why}", name(by), name(from))
        }
        Change::Commit { .. } => {
            let window = member.catalog().window.as_ref()?;
            let p = window.publication.as_ref()?;
            format!("{} version {} is committed", p.app, p.version.number)
        }
        Change::Finish { window, why, .. } => format!("window {window}: {why}"),
        Change::Close { window } => format!("window {window} was closed"),
        Change::AdoptMajority { app, version, .. } => {
            format!("{app} version {}: what a majority held is right now", version.number)
        }
        Change::Wait { member: of } => {
            format!("{} is on standby, and rules may bring it into service", name(of))
        }
        Change::Begin(begin) => {
            let episode = member.catalog().conduct.episode(&begin.app, &begin.rule);
            let brought = episode.map(|e| e.brought.iter().map(name).collect::<Vec<_>>());
            let brought = brought.unwrap_or_default().join(", ");
            let effect = match (begin.bring, brought.as_str()) {
                (0, _) => String::new(),
                (wanted, "") => format!("; {wanted} should come into service, and nobody waits"),
                (_, brought) => format!("; in service now: {brought}"),
            };
            let Begin { app, rule, why, at, .. } = &**begin;
            let silences = member.catalog().conduct.silences();
            let silence = conduct::Silence::of(silences, app, rule, None, *at);
            let silence = silence.map(|silence| format!("; it is {}", silence.told()));
            format!("rule {rule} of {app} acts: {why}{effect}{}", silence.unwrap_or_default())
        }
        Change::End { which, why, .. } => {
            format!("rule {} of {} acts no more: {why}", which.rule, which.app)
        }
        Change::Silence(silence) => {
            format!("{}: {}", member.told_of(&silence.what), silence.told())
        }
        Change::Unsilence { what, .. } => format!("silenced no more: {}", member.told_of(what)),
        Change::AddOperator(operator) => operator.told(),
        Change::RemoveOperator { name, .. } => {
            format!("operator {name} may not act over the network any more")
        }
        // These are for the next judge, and for who goes next.
        Change::Told { .. } | Change::Forget { .. } | Change::Drained { .. } => return None,
        // Everybody tells of it.
        Change::Rotate(_) => return None,
        Change::Address { member: of, was, address, .. } => {
            format!("the roster has {address} for {} now: it was {was}", name(of))
        }
        Change::Confirm => "what a proposer had left unfinished is settled".to_owned(),
    })
}
