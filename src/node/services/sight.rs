//! How what runs of the live versions is, told whenever it changes.

use std::{collections::BTreeMap, time::Duration};

use super::{Live, Unfit};
use crate::{
    base::{AppName, Digest},
    driver::services::{ServiceStatus, State},
    proto::rollout::Sight,
};

/// How often it is looked at while something is about to become ready.
const SOON: Duration = Duration::from_millis(200);
/// How often while it is ready, in case it ends again.
const SLOW: Duration = Duration::from_secs(1);
/// How often a program may end before it is ready, without a word that it is failing.
const ENDS_MAX: u64 = 2;

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Sights {
    told: BTreeMap<AppName, (u64, Sight)>,
    looks: u32,
}

/// Looks at what is ready before it is taken to last.
const LOOKS_MAX: u32 = 3_600;

impl Sights {
    /// What has changed. `done` is what the supervisor was told, `why` why it could not be.
    pub fn look<'a>(
        &mut self,
        live: Option<&Live>,
        done: &BTreeMap<AppName, (u64, Digest)>,
        why: impl Fn(&AppName) -> Option<&'a Unfit>,
        status: &[ServiceStatus],
    ) -> Vec<(AppName, u64, Sight)> {
        let Some(live) = live else { return Vec::new() };
        self.told.retain(|app, _| live.contains_key(app));
        let mut news = Vec::new();
        for (app, of) in live {
            let sight = if done.get(app) == Some(of) {
                let its: Vec<&ServiceStatus> = status.iter().filter(|s| &s.app == app).collect();
                sight(of.0, &its)
            } else {
                match why(app) {
                    Some(Unfit::Unusable(why)) => Sight::Failing(why.clone()),
                    _ => Sight::Waiting,
                }
            };
            let is_known = self
                .told
                .get(app)
                .is_some_and(|(version, told)| *version == of.0 && *told == sight);
            if !is_known {
                self.looks = 0;
                self.told.insert(app.clone(), (of.0, sight.clone()));
                news.push((app.clone(), of.0, sight));
            }
        }
        self.looks = self.looks.saturating_add(1);
        news
    }

    /// In how long it is to be looked at again, if at all.
    pub fn look_again(&self) -> Option<Duration> {
        if self.told.values().any(|(_, sight)| *sight == Sight::Waiting) {
            return Some(SOON);
        }
        let runs = self.told.values().any(|(_, sight)| *sight != Sight::Idle);
        (runs && self.looks < LOOKS_MAX).then_some(SLOW)
    }
}

/// How the services of one application are, of its version `version`.
fn sight(version: u64, status: &[&ServiceStatus]) -> Sight {
    let mut sight = Sight::Idle;
    for ServiceStatus { service, version: of, state, restarts, last_exit, .. } in status {
        let how = last_exit.as_deref().unwrap_or("did not say why");
        match state {
            _ if *of != version => sight = Sight::Waiting,
            State::Failed => return Sight::Failing(format!("service {service} {how}")),
            State::BackingOff if *restarts >= ENDS_MAX => {
                return Sight::Failing(format!("service {service} {how} again and again"));
            }
            State::RunningNotReady => {
                return Sight::Failing(format!("service {service} runs and is not ready in time"));
            }
            State::Unwell => {
                return Sight::Failing(format!("service {service} does not answer any more"));
            }
            State::Ready | State::Stopped if sight == Sight::Idle => sight = Sight::Ready,
            State::Ready | State::Stopped => {}
            State::Starting | State::BackingOff | State::Stopping => sight = Sight::Waiting,
        }
    }
    sight
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ServiceName, WallTime};

    fn status(version: u64, state: State, restarts: u64) -> ServiceStatus {
        ServiceStatus {
            app: AppName::parse("web").unwrap(),
            service: ServiceName::parse("api").unwrap(),
            version,
            state,
            pid: None,
            since: WallTime(0),
            restarts,
            last_exit: Some("exited with status 1".to_owned()),
            port: None,
        }
    }

    #[test]
    fn all_that_runs_has_to_be_ready_and_of_the_version() {
        let of = |all: &[ServiceStatus]| sight(2, &all.iter().collect::<Vec<_>>());
        let ready = || status(2, State::Ready, 0);
        assert_eq!(of(&[]), Sight::Idle);
        assert_eq!(of(&[ready(), status(2, State::Stopped, 0)]), Sight::Ready);
        assert_eq!(of(&[ready(), status(1, State::Ready, 0)]), Sight::Waiting);
        assert_eq!(of(&[status(2, State::Starting, 0), ready()]), Sight::Waiting);
        assert_eq!(of(&[ready(), status(2, State::BackingOff, 1)]), Sight::Waiting);
        for failing in [
            status(2, State::BackingOff, 2),
            status(2, State::Failed, 0),
            status(2, State::RunningNotReady, 0),
        ] {
            assert!(matches!(of(&[ready(), failing]), Sight::Failing(_)));
        }
    }

    #[test]
    fn only_what_changes_is_told() {
        let app = AppName::parse("web").unwrap();
        let live = Live::from([(app.clone(), (2, Digest::of("test", b"2")))]);
        let mut sights = Sights::default();
        let mut look = |done: &Live, status: &[ServiceStatus]| {
            let news = sights.look(Some(&live), done, |_| None, status);
            (news.into_iter().map(|(_, _, sight)| sight).collect::<Vec<_>>(), sights.look_again())
        };
        assert_eq!(look(&Live::new(), &[]), (vec![Sight::Waiting], Some(SOON)));
        assert_eq!(look(&Live::new(), &[]), (vec![], Some(SOON)));
        let ready = [status(2, State::Ready, 0)];
        assert_eq!(look(&live, &ready), (vec![Sight::Ready], Some(SLOW)));
        assert_eq!(look(&live, &ready), (vec![], Some(SLOW)));
        for _ in 0..LOOKS_MAX {
            look(&live, &ready);
        }
        assert_eq!(look(&live, &ready), (vec![], None));
    }
}
