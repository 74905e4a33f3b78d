//! Whether everything is well, and if not, why and what to do: the sentences at the top of the
//! status.

use std::collections::BTreeMap;

use super::{Health, PositionView, View};
use crate::member::{Member, parting::Parting};

impl Member {
    /// Is everything well, and if not, why and what to do.
    pub(super) fn judge(&self, view: &mut View) {
        let mut found: Vec<(Health, String)> = Vec::new();
        if let Some(names) = self.unknown_to() {
            found.push((
                Health::Critical,
                format!(
                    "This member is unknown to {names}: it was probably removed while it was away. \
                     Stop it; to join again as a new member, move its data directory away and use \
                     a new token."
                ),
            ));
        }
        if let Some(names) = self.gone_to_another_cluster() {
            found.push((
                Health::Critical,
                format!(
                    "Another cluster answers at the address of {names}: this one was probably \
                     recovered there without this member. To join it and keep the content: stop \
                     this member, run `althing recover --rejoin`, and start it with a token of that \
                     cluster."
                ),
            ));
        }
        if self.parting.as_ref().is_some_and(Parting::is_rotation) {
            let text = "This member has a new key, and takes it up once a majority of the voters has \
                        said that it knows.";
            found.push((Health::Warning, text.to_owned()));
        }
        found.extend(self.lies_told().into_iter().map(|text| (Health::Critical, text)));
        if view.voters_live < view.majority {
            found.push((
                Health::Critical,
                format!(
                    "{} of {} voters are live and {} are needed: nothing can be changed or repaired; \
                     what is held goes on being served. Bring members back; if they are lost for \
                     ever, see `althing recover`.",
                    view.voters_live, view.voters, view.majority
                ),
            ));
        }
        if let Some(why) = self.unable_to_hold() {
            let text = format!(
                "This member can't hold virtual addresses: {why}. Other members hold them."
            );
            found.push((Health::Warning, text));
        }
        for app in &view.applications {
            if let (0, Some(placement)) = (app.electorate, &app.placement) {
                let text = format!(
                    "{0} is placed on `{placement}`, and no member with a vote is that: nobody has to \
                     hold it. Give members the tags that it needs, or publish it with another \
                     placement.",
                    app.name
                );
                found.push((Health::Critical, text));
                continue;
            }
            let failed =
                app.positions.iter().filter_map(|p| Some((p, p.rollout_failure.as_ref()?)));
            for (position, why) in failed {
                let text = format!(
                    "{0} version {1} did not get ready on {2}: {why}. See `althing logs {0}`; \
                     publish a version that works, or `althing rollback {0}`.",
                    app.name, app.version, position.member
                );
                found.push((Health::Warning, text));
            }
            // Who waits for its turn is not late.
            let rolls = self.rolls(&app.name);
            let mut said = false;
            match app.vote.as_str() {
                "hung" => found.push((
                    Health::Critical,
                    format!(
                        "The vote on {0} is hung: decide with `althing resolve {0} --member NAME`.",
                        app.name
                    ),
                )),
                "unanimous" | "paused" => {}
                _ => {
                    let is_off = |p: &&PositionView| match p.position.as_str() {
                        "differs" | "nothing" => true,
                        "late" => !rolls || p.trouble.is_some() || p.version == Some(0),
                        _ => false,
                    };
                    let mut off: Vec<&str> = Vec::new();
                    let mut kept_off: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
                    for p in app.positions.iter().filter(is_off) {
                        match &p.trouble {
                            Some(why) => kept_off.entry(why).or_default().push(&p.member),
                            None => off.push(&p.member),
                        }
                        // Of this member it is said here, and not once more below.
                        said |= p.member == view.me && p.trouble.is_some();
                    }
                    for (why, members) in kept_off {
                        let members = members.join(", ");
                        let text = format!(
                            "{} is not version {} on {members}: {why}.",
                            app.name, app.version
                        );
                        found.push((Health::Warning, text));
                    }
                    if !off.is_empty() {
                        let follows = match app.vote.as_str() {
                            "agreed" => "it is being put right",
                            "other" => "a majority holds something else, which becomes a version",
                            _ => "too few ballots are in hand to decide",
                        };
                        let text = format!(
                            "{} is not version {} on {}: {follows}.",
                            app.name,
                            app.version,
                            off.join(", ")
                        );
                        found.push((Health::Warning, text));
                    }
                }
            }
            if let Some(error) = app.error.as_ref().filter(|_| !said) {
                found.push((Health::Warning, format!("{} on this member: {error}", app.name)));
            }
        }
        for member in &view.members {
            let Some(unreached) = member.unreached.as_ref().filter(|names| !names.is_empty())
            else {
                continue;
            };
            found.push((
                Health::Warning,
                format!(
                    "{} is not answered by {}: see `althing members --reach`.",
                    member.name,
                    unreached.join(", ")
                ),
            ));
        }
        for member in view.members.iter().filter(|m| m.state == "down") {
            found.push((Health::Warning, format!("{} is down.", member.name)));
        }
        if let Some(window) = view.window.as_ref().filter(|w| !w.coordinator_live) {
            found.push((Health::Warning, format!("Window {}: {}.", window.id, window.state)));
        }
        view.health = found.iter().map(|(health, _)| *health).max().unwrap_or(Health::Ok);
        found.sort_by_key(|(health, _)| std::cmp::Reverse(*health));
        view.reasons = found.into_iter().map(|(_, text)| text).collect();
    }
}
