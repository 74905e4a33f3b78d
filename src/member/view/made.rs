//! How the view is made of the catalog, the ballots and what the member knows of the others.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ApplicationView, Health, MemberView, OperatorView, OutcomeView, PolicyView, PositionView,
    PublicationView, SilenceView, VersionView, View, WindowView,
};
use crate::{
    base::{
        AppName, Digest, MemberId, RuleName, Time, WallTime,
        catalog::{Application, Catalog, Enrolled, Failover, Origin, Policy, Window, WindowMode},
        conduct::Silence,
        operator::Operator,
    },
    member::{Member, content::Work},
    proto::{
        election,
        membership::{Reach, State as Liveness},
        rollout::State,
        vote::{Position, Verdict},
    },
};

impl Member {
    /// Everything, now.
    pub fn view(&self, now: Time) -> View {
        let catalog = self.catalog();
        let (voters_live, majority) =
            election::quorum_in_view(&catalog.roster, |m| self.is_live(m));
        let mut view = View {
            althing: env!("CARGO_PKG_VERSION").to_owned(),
            me: self.name_of(self.me),
            cluster: catalog.cluster.to_string(),
            sequence: catalog.sequence,
            voters: catalog.roster.voters().count(),
            majority,
            voters_live,
            health: Health::Ok,
            reasons: Vec::new(),
            members: self.member_views(now, catalog),
            applications: catalog
                .applications
                .iter()
                .map(|(app, application)| self.application_view(now, catalog, app, application))
                .collect(),
            window: catalog.window.as_ref().map(|w| self.window_view(now, catalog, w)),
            outcomes: catalog
                .outcomes
                .iter()
                .rev()
                .map(|o| OutcomeView {
                    window: o.window,
                    app: o.app.as_ref().map(AppName::to_string),
                    version: o.version,
                    coordinator: self.name_of(o.coordinator),
                    takeovers: o.takeovers,
                    why: o.why.clone(),
                })
                .collect(),
            addresses: self.address_views(now),
            policy: policy_view(&catalog.conduct.policy),
            silences: self.silence_views(catalog),
            operators: self.operator_views(catalog),
            invites: self.invite_views(catalog),
        };
        self.judge(&mut view);
        view
    }

    fn silence_views(&self, catalog: &Catalog) -> Vec<SilenceView> {
        let stand = catalog.conduct.silences().iter().filter(|s| self.wall < s.until);
        let view = |Silence { what, by, why, since, until }: &Silence| SilenceView {
            app: what.app.as_ref().map(AppName::to_string),
            rule: what.rule.as_ref().map(RuleName::to_string),
            member: what.member.map(|member| self.name_of(member)),
            what: self.told_of(what),
            by: by.to_string(),
            why: why.clone(),
            since: since.to_string(),
            until_ms: until.0,
            until: until.to_string(),
        };
        stand.map(view).collect()
    }

    fn operator_views(&self, catalog: &Catalog) -> Vec<OperatorView> {
        let view = |operator: &Operator| OperatorView {
            name: operator.name.to_string(),
            by: operator.by.to_string(),
            since: operator.since.to_string(),
            until_ms: operator.until.map(|until| until.0),
            until: operator.until.map(|until| until.to_string()),
            is_over: operator.is_over(self.wall),
        };
        catalog.conduct.operators().iter().map(view).collect()
    }

    fn member_views(&self, now: Time, catalog: &Catalog) -> Vec<MemberView> {
        let coordinator = catalog.window.as_ref().map(|w| w.coordinator);
        let directory = self.membership.directory();
        let reach = self.membership.reach();
        let reach: BTreeMap<MemberId, Reach> = reach.into_iter().map(|r| (r.member, r)).collect();
        let names = |ids: &BTreeSet<MemberId>| ids.iter().map(|id| self.name_of(*id)).collect();
        let view = |m: &Enrolled| {
            let contact = directory.get(&m.id);
            let state = match contact.map(|c| c.state) {
                None | Some(Liveness::Alive) => "alive",
                Some(Liveness::Suspect) => "suspect",
                Some(Liveness::Down) => "down",
                Some(Liveness::Left) => "left",
            };
            let ballot = self.votes.fresh(now, m.id);
            let service = match ballot {
                _ if !self.is_live(m.id) => "out",
                None => "unknown",
                Some(b) if b.differing.iter().any(|d| d.activated == 0) => "receiving",
                Some(_) if m.standby => "standby",
                Some(_) => "in service",
            };
            let round_trip = self.membership.round_trip(self.me, m.id);
            let round_trip_us = round_trip.map(|span| span.as_micros() as u64);
            let since = contact.map_or(Time(0), |c| c.since);
            MemberView {
                name: m.name.to_string(),
                id: m.id.0.to_string(),
                address: contact.map_or(self.address, |c| c.address).to_string(),
                state: state.to_owned(),
                reached: self.membership.is_reached(m.id),
                unreached: reach.get(&m.id).and_then(|r| r.unreached.as_ref()).map(names),
                round_trip_us: round_trip_us.filter(|_| m.id != self.me),
                place: reach.get(&m.id).and_then(|r| r.place),
                state_for_ms: now.since(since).as_millis() as u64,
                me: m.id == self.me,
                voter: m.voter,
                standby: m.standby,
                waits: catalog.conduct.is_waiting(m.id),
                tags: m.tags.clone(),
                capacity: self.capacities.of(self.me, m),
                coordinator: coordinator == Some(m.id),
                sequence: self.votes.ballot(m.id).map(|b| b.sequence),
                service: service.to_owned(),
            }
        };
        catalog.roster.members.iter().map(view).collect()
    }

    fn application_view(
        &self,
        now: Time,
        catalog: &Catalog,
        app: &AppName,
        application: &Application,
    ) -> ApplicationView {
        let current = application.current();
        let tally = self.votes.tally(now, catalog, app);
        let vote = match &tally {
            _ if catalog.window_covers(app) => "paused",
            None => "undecided",
            Some(t) if t.is_unanimous() => "unanimous",
            Some(t) => match t.verdict(catalog.conduct.policy.vote) {
                Verdict::Undecided => "undecided",
                Verdict::Committed => "agreed",
                Verdict::Other(_) => "other",
                Verdict::Hung => "hung",
            },
        };
        let holding = self.content.holding(app);
        let work = holding.and_then(|h| h.work).map(|work| match work {
            Work::Scanning | Work::Glancing => "scanning",
            Work::Activating => "switching",
            Work::Repairing => "repairing",
            Work::Ingesting => "reading",
            Work::Withdrawing => "taking away",
        });
        let spec = &current.spec;
        ApplicationView {
            name: app.to_string(),
            version: current.number,
            root: current.root.to_string(),
            files: current.files,
            bytes: current.bytes,
            hosts: spec.hosts.clone(),
            default: spec.default,
            path: spec.path.clone(),
            placement: spec.placement.as_ref().map(ToString::to_string),
            vote: vote.to_owned(),
            ballots: tally.as_ref().map_or(0, |t| t.in_hand()),
            electorate: tally.as_ref().map_or(0, |t| t.positions.len()),
            positions: self.position_views(now, catalog, app, current.root),
            // A scan goes on all the time and is no news.
            work: work.filter(|w| *w != "scanning").map(str::to_owned),
            error: self.content.trouble(catalog, app).map(str::to_owned),
            versions: application
                .versions
                .iter()
                .rev()
                .map(|v| VersionView {
                    number: v.number,
                    root: v.root.to_string(),
                    files: v.files,
                    bytes: v.bytes,
                    publisher: self.name_of(v.publisher),
                    published_at_ms: v.published_at.0,
                    published_at: v.published_at.to_string(),
                    message: v.message.clone(),
                    origin: match v.origin {
                        Origin::Published => "published".to_owned(),
                        Origin::Rollback(to) => format!("rollback to {to}"),
                        Origin::Majority => "majority".to_owned(),
                        Origin::Edited => "edited".to_owned(),
                    },
                    asked: v.asked.clone(),
                })
                .collect(),
        }
    }

    fn position_views(
        &self,
        now: Time,
        catalog: &Catalog,
        app: &AppName,
        committed: Digest,
    ) -> Vec<PositionView> {
        let current = catalog.application(app).map_or(0, |a| a.current().number);
        let placed = catalog.placed(app);
        let view = |m: &Enrolled| {
            let ballot = self.votes.fresh(now, m.id).filter(|b| b.sequence == catalog.sequence);
            let differing = ballot.and_then(|b| b.differing.iter().find(|d| &d.app == app));
            if !placed.is_some_and(|placed| placed.holds(m)) {
                let is_live = differing.is_some_and(|d| d.activated > 0);
                return PositionView {
                    member: m.name.to_string(),
                    position: if is_live { "leaving" } else { "elsewhere" }.to_owned(),
                    root: differing.and_then(|d| d.root).map(|r| r.to_string()),
                    version: differing.map(|d| d.activated),
                    voter: false,
                    trouble: None,
                    rollout: None,
                    rollout_failure: None,
                };
            }
            let version_now = catalog.application(app).map(|a| a.current());
            let state = version_now.and_then(|v| self.how_it_comes(now, app, v, m.id));
            let (rollout, rollout_failure) = match state {
                _ if !self.is_live(m.id) => (None, None),
                None if self.rolls(app.as_str()) => (Some("waiting"), None),
                None => (Some("late"), None),
                Some(State::Starting) => (Some("starting"), None),
                Some(State::Ready) => (Some("ready"), None),
                Some(State::Failed(why) | State::Stuck(why)) => (Some("failed"), Some(why)),
            };
            let (position, root, version) = match (ballot, differing) {
                (None, _) => (Position::Silent, None, None),
                (Some(_), None) => (Position::Holds(committed), Some(committed), Some(current)),
                (Some(_), Some(d)) => {
                    let position = match d.root {
                        _ if d.activated != current => Position::Late,
                        None => Position::Nothing,
                        Some(root) => Position::Holds(root),
                    };
                    (position, d.root, Some(d.activated))
                }
            };
            let word = match position {
                Position::Silent => "silent",
                Position::Late => "late",
                Position::Nothing => "nothing",
                Position::Holds(root) if root == committed => "agrees",
                Position::Holds(_) => "differs",
            };
            let trouble = match word {
                "silent" | "agrees" => None,
                _ if m.id == self.me => self.content.trouble(catalog, app),
                _ => self.troubles.of(now, catalog, m.id, app),
            };
            PositionView {
                member: m.name.to_string(),
                position: word.to_owned(),
                root: root.map(|r| r.to_string()),
                version,
                voter: m.voter,
                trouble: trouble.map(str::to_owned),
                rollout: rollout.map(str::to_owned),
                rollout_failure,
            }
        };
        catalog.roster.members.iter().map(view).collect()
    }

    fn window_view(&self, now: Time, catalog: &Catalog, window: &Window) -> WindowView {
        let publication = window.publication.as_ref().map(|p| {
            let progress = catalog.roster.members.iter().filter_map(|m| {
                let ballot = self.votes.fresh(now, m.id)?;
                Some((m.name.to_string(), ballot.staged_bytes))
            });
            let whole = self.votes.whole(now, p.version.root);
            let placed = catalog.roster.placed(&p.version.spec);
            PublicationView {
                app: p.app.to_string(),
                version: p.version.number,
                message: p.version.message.clone(),
                publisher: self.name_of(p.version.publisher),
                files: p.version.files,
                phase: if p.committed { "switching" } else { "staging" }.to_owned(),
                bytes: p.version.bytes,
                whole: whole.into_iter().map(|m| self.name_of(m)).collect(),
                progress: progress.collect(),
                placed: placed.members().map(|m| m.name.to_string()).collect(),
                needed: placed.majority(),
                asked: p.version.asked.clone(),
            }
        });
        let live = self.is_live(window.coordinator);
        let state = match &publication {
            _ if !live && window.failover == Failover::Manual => {
                "frozen: its coordinator is down and failover is manual; the version before goes \
                 on being served; decide with `althing window takeover`, or bring it back"
                    .to_owned()
            }
            _ if !live => "its coordinator is down: the next one takes over".to_owned(),
            None if window.mode == WindowMode::Automatic => {
                "held open in automatic mode: edits of live files are publications; voting on its \
                 scope pauses"
                    .to_owned()
            }
            None => "held open by an operator; voting on its scope pauses".to_owned(),
            Some(p) if p.phase == "staging" => {
                let spec = window.publication.as_ref().map(|staged| &staged.version.spec);
                let placed = spec.map(|spec| catalog.roster.placed(spec));
                let names: BTreeSet<&str> = placed
                    .into_iter()
                    .flat_map(|placed| placed.voters())
                    .map(|m| m.name.as_str())
                    .collect();
                let have = p.whole.iter().filter(|name| names.contains(name.as_str())).count();
                format!(
                    "{} version {}: {have} members hold it whole, {} are needed",
                    p.app, p.version, p.needed
                )
            }
            Some(p) => {
                format!("{} version {} is committed; members are switching", p.app, p.version)
            }
        };
        WindowView {
            id: window.id,
            coordinator: self.name_of(window.coordinator),
            coordinator_live: live,
            takeovers: window.takeovers,
            opened_by: self.name_of(window.opened_by),
            opened_at: WallTime::to_string(&window.opened_at),
            scope: window.scope.iter().map(AppName::to_string).collect(),
            failover: failover_word(window.failover).to_owned(),
            held: window.is_held(),
            automatic: window.mode == WindowMode::Automatic,
            publication,
            state,
            asked: window.asked.clone(),
        }
    }
}

fn failover_word(failover: Failover) -> &'static str {
    match failover {
        Failover::Auto => "auto",
        Failover::Manual => "manual",
    }
}

fn policy_view(policy: &Policy) -> PolicyView {
    let vote = match policy.vote {
        crate::base::catalog::VotePolicy::Majority => "majority",
        crate::base::catalog::VotePolicy::Committed => "committed",
    };
    PolicyView {
        failover: failover_word(policy.failover).to_owned(),
        vote: vote.to_owned(),
        remove_after_s: policy.remove_after_s,
    }
}
