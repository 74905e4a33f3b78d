//! What the gateway routes by, made anew after what may have changed it, and with it whatever else
//! depends on what is live: services, rules, and the trees that are watched.

use std::time::Duration;

use tokio::time::Instant;

use super::Loop;
use crate::{
    base::{AppName, MemberId, catalog::Application},
    member::event::{EventKind, Severity},
    node::secrets::Others,
};

/// How long a starting member takes no clients because nobody would answer them, at most.
const COLD_MAX: Duration = Duration::from_secs(15);
/// How often it looks whether somebody would.
pub(super) const COLD_LOOK: Duration = Duration::from_millis(50);
/// How often the gateway's table of who serves what is made anew, at the most.
const SITES_EVERY: Duration = Duration::from_millis(250);
/// The same where nothing is known to have changed: what somebody said may have become too old.
const SITES_AT_LEAST: Duration = Duration::from_secs(1);

impl Loop {
    /// Takes clients once there is somebody who answers them, here or on another member.
    pub(super) fn warm_up(&mut self) {
        if self.warm.is_cancelled() {
            return;
        }
        if self.sites.is_warm() || self.started.elapsed() >= COLD_MAX {
            self.warm.cancel();
        }
    }

    /// From one look at who serves what to the next.
    pub(super) fn sites_pause(&self) -> Duration {
        if self.sites_dirty { SITES_EVERY } else { SITES_AT_LEAST }
    }

    pub(super) fn refresh_sites(&mut self) {
        self.sites_dirty = false;
        self.sites_made = Instant::now();
        let routes = self.member.routes(self.now());
        self.sites.set(routes, self.work.content());
        let lost = self.ports.as_ref().map(|ports| ports.refresh(&self.sites));
        for (app, text) in lost.unwrap_or_default() {
            self.tell_about(EventKind::Service, Severity::Warning, Some(app), text);
        }
        let catalog = self.member.catalog();
        let me = self.member.id();
        let others = catalog.roster.members.iter().map(|m| m.id).filter(|id| *id != me);
        let live: Vec<MemberId> = others.filter(|id| self.member.is_live(*id)).collect();
        self.forwarder.keep(&live.iter().copied().collect());
        let placed = |(app, application): (&AppName, &Application)| {
            let placed = catalog.roster.placed(&application.current().spec);
            (app.clone(), placed.members().map(|m| m.id).collect())
        };
        let placed = catalog.applications.iter().map(placed).collect();
        self.work.look_around(self.around());
        self.work.run_services(catalog, Others { live, placed });
        let automatic = catalog.applications.keys().filter(|app| catalog.automatic(app).is_some());
        self.work.watch(automatic.cloned().collect());
    }
}
