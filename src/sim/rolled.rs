//! What runs of versions: some never get ready, and versions come to a few members at a time.

use rand::Rng;

use super::{
    Situation,
    world::{Happening, World},
};
use crate::{
    base::{
        AppName, Digest, Rollout,
        catalog::{Application, Origin},
    },
    member::Input,
    proto::rollout::Sight,
};

impl World {
    /// How a version is to come, and whether it will ever get ready.
    pub(super) fn rollout(&mut self, root: Digest) -> Rollout {
        if !self.mix.rolled {
            return Rollout::default();
        }
        if self.storm && self.rng.random_bool(0.2) {
            self.unready.insert(root);
        }
        let at_once = self.rng.random_bool(0.5).then(|| self.rng.random_range(1..4));
        let pause_ms = self.rng.random_bool(0.5).then(|| self.rng.random_range(0..2_000));
        Rollout { at_once, pause_ms, stays: false }
    }

    /// A server has switched from version `before` to another one.
    pub(super) fn runs(&mut self, s: usize, app: &AppName, version: u64, before: u64) {
        let unready = self.root_of(app, version).is_some_and(|root| self.unready.contains(&root));
        if unready && before != 0 {
            self.checker.reach(Situation::NotReady);
            self.servers[s].failing.insert((app.clone(), version));
        }
        self.see(s, app.clone(), version, unready);
    }

    /// What was live before a server started runs again.
    pub(super) fn run_again(&mut self, s: usize) {
        let activated: Vec<(AppName, u64)> =
            self.servers[s].disk.activated.iter().map(|(app, n)| (app.clone(), *n)).collect();
        for (app, version) in activated {
            let root = self.root_of(&app, version);
            let unready = root.is_some_and(|root| self.unready.contains(&root));
            self.see(s, app, version, unready);
        }
    }

    fn see(&mut self, s: usize, app: AppName, version: u64, unready: bool) {
        let sight = match (unready, self.mix.rolled) {
            (true, _) => Sight::Failing("it ended".to_owned()),
            (false, true) => Sight::Ready,
            (false, false) => Sight::Idle,
        };
        let after = if self.mix.rolled { self.rng.random_range(1_000..500_000) } else { 1_000 };
        let run = self.servers[s].run;
        let input = Input::Seen { app, version, sight };
        self.later(after, Happening::Own { server: s, run, input });
    }

    fn root_of(&self, app: &AppName, version: u64) -> Option<Digest> {
        Some(self.checker.newest()?.application(app)?.version(version)?.root)
    }

    /// What did not get ready and is in force all the same.
    pub(super) fn not_taken_back(
        &self,
        s: usize,
        app: &AppName,
        application: &Application,
    ) -> Option<String> {
        let (server, current) = (&self.servers[s], application.current());
        let before = application.before_current()?;
        let mut others = self.enrolled_and_running().into_iter();
        let can = others.any(|other| self.servers[other].disk.whole.contains(&before.root));
        let failed = current.origin == Origin::Published
            && server.failing.contains(&(app.clone(), current.number));
        (failed && can).then(|| {
            format!("{app} version {} failed on {} and is in force", current.number, server.name)
        })
    }

    /// Whether the members that have not switched to the version never will, be it that they wait
    /// for their turn or that their disk was full at first: it failed on one before them, and what
    /// it should make way for again no store has; or it gets ready nowhere, replaced nothing where
    /// it is live, and keeps a member waiting that has another one. Only somebody who publishes
    /// another one helps.
    pub(super) fn is_stuck(&self, app: &AppName, application: &Application) -> bool {
        let current = application.current();
        let Some(before) = application.before_current() else { return false };
        let running = self.enrolled_and_running();
        let failed = |s: &usize| self.servers[*s].failing.contains(&(app.clone(), current.number));
        let is_live = |s: &usize| self.servers[*s].disk.live.get(app) == Some(&current.root);
        if !running.iter().any(failed) {
            // Nobody waits where all may switch at once, nor for what was not published, nor with
            // nothing to go on serving: there it is tried until it is done, ready or not.
            let rolls =
                current.origin == Origin::Published && current.spec.rollout.at_once.is_some();
            let waits = |s: &usize| {
                let activated = self.servers[*s].disk.activated.get(app);
                activated.is_some_and(|number| ![0, current.number].contains(number))
            };
            let is_unready = self.unready.contains(&current.root);
            return rolls && is_unready && running.iter().any(is_live) && running.iter().any(waits);
        }
        current.origin == Origin::Published
            && !running.iter().any(|s| self.servers[*s].disk.whole.contains(&before.root))
    }
}
