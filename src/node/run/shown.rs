//! What is shown of the member: its view, for those who watch, and what is counted and measured
//! here.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{Loop, telling::sentence};
use crate::{
    base::metric::{Known, Series},
    driver::services::State,
    gateway::{access::Log, origins::Database},
    member::view::{Health, View},
    node::{Metrics, rules, start::wall_now, watchdog::Doing},
    proto::{rule, telemetry::Reading},
};

/// How often views are made for those who watch, at the most and at the least.
pub(super) const VIEW_EVERY: Duration = Duration::from_millis(150);
/// See [`VIEW_EVERY`].
pub(super) const VIEW_AT_LEAST: Duration = Duration::from_secs(1);
/// Milliseconds of a day.
const DAY_MS: f64 = 86_400_000.0;

impl Loop {
    pub(super) fn show(&mut self) {
        if self.views.receiver_count() == 0 {
            return;
        }
        let pause = if self.view_dirty { VIEW_EVERY } else { VIEW_AT_LEAST };
        if self.view_made.elapsed() >= pause {
            self.view_dirty = false;
            self.view_made = Instant::now();
            self.pulse.begin(Doing::View);
            self.views.send_replace(Arc::new(self.view()));
            self.done();
        }
    }

    /// What the member knows, and what only the shell can know.
    pub(super) fn view(&self) -> View {
        let mut view = self.member.view(self.now());
        if let Some(trouble) = &self.trouble {
            view.health = Health::Critical;
            view.reasons.insert(0, trouble.clone());
        }
        let mut complaints = self.work.complaints();
        complaints.extend(self.ports.iter().flat_map(|ports| ports.complaints()));
        let log = self.log.as_ref().and_then(Log::trouble);
        complaints.extend(log.map(|why| format!("{}.", sentence(&why))));
        let origins = self.origins.as_ref().and_then(Database::trouble);
        complaints.extend(origins.map(|why| format!("{why}.")));
        if !complaints.is_empty() {
            view.health = view.health.max(Health::Warning);
            view.reasons.extend(complaints);
        }
        let conduct = &self.member.catalog().conduct;
        let wide = rules::wide::complaints(conduct.episodes(), conduct.silences());
        for (severity, text) in self.work.judged().into_iter().chain(wide) {
            view.health = view.health.max(match severity {
                rule::Severity::Warning => Health::Warning,
                rule::Severity::Critical => Health::Critical,
            });
            view.reasons.push(text);
        }
        view
    }

    pub(super) fn metrics(&self) -> Metrics {
        let net = self.network.stats();
        let detector = self.member.detector();
        let counted = self.pulse.counted();
        let scrubbed = self.work.scrubbed();
        let served = self.stats.snapshot();
        Metrics {
            packets_sent: net.datagrams_sent,
            messages_sent: net.messages_sent,
            bytes_sent: net.bytes_sent,
            received: net.datagrams_received + net.messages_received,
            bytes_received: net.bytes_received,
            connections: net.connections,
            requests: served.requests,
            tcp_connections: served.tcp_connections,
            tcp_active: served.tcp_active,
            tcp_failures: served.tcp_failures,
            tcp_bytes_received: served.tcp_bytes_received,
            tcp_bytes_sent: served.tcp_bytes_sent,
            access_log_dropped: self.log.as_ref().map_or(0, Log::dropped),
            unwell: detector.unwell,
            suspicions: detector.suspicions,
            gossip_backlog: detector.backlog,
            queue_writes: self.writes_last.saturating_sub(self.writes_done),
            queue_proposals: self.member.pending_changes() as u64,
            rumors_kept: self.member.rumors_kept() as u64,
            stalls: counted.stalls,
            stall_us_max: counted.stall_us_max,
            stood_us_max: counted.stood_us_max,
            fetched_bytes: self.work.fetched(),
            scrub_bytes: scrubbed.bytes.load(Ordering::Relaxed),
            scrub_damaged: scrubbed.damaged.load(Ordering::Relaxed),
            scrub_passes: scrubbed.passes.load(Ordering::Relaxed),
            ..self.metrics
        }
    }

    /// What is measured here once a second, beside the machine.
    pub(super) fn readings(&self) -> Vec<(Series, Reading)> {
        let counts = self.member.counts(self.now());
        let metrics = self.metrics();
        let bare = [
            (Known::MembersLive, counts.live as f64),
            (Known::MembersDown, counts.down as f64),
            (Known::VotesHung, counts.hung as f64),
            (Known::VotesDiffering, counts.differing as f64),
            (Known::Queue, metrics.queue as f64),
            (Known::Stalls, metrics.stalls as f64),
            (Known::GossipBytes, metrics.bytes_sent as f64),
            (Known::ReplicationBytes, self.work.fetched() as f64),
            (Known::Repairs, self.repairs.values().sum::<u64>() as f64),
        ];
        let of_all = bare.map(|(known, value)| (Series::from(known), Reading::Number(value)));
        let mut readings = Vec::from(of_all);
        let mut put = |known, label: &str, value: f64| {
            // A label that is none can't be: these are names already.
            let series = Series::new(known, Some(label)).ok();
            readings.extend(series.map(|series| (series, Reading::Number(value))));
        };
        for (app, repairs) in &self.repairs {
            put(Known::Repairs, app.as_str(), *repairs as f64);
        }
        let (certificates, now) = (self.sites.certificates(), wall_now());
        for app in self.member.catalog().applications.keys() {
            if let Some(certificate) = certificates.of(app) {
                // Below zero once it is over.
                let left = certificate.validity().until().0 as f64 - now.0 as f64;
                put(Known::CertificateDays, app.as_str(), left / DAY_MS);
            }
        }
        for status in self.work.services() {
            let label = format!("{}/{}", status.app, status.service);
            put(Known::ServiceRestarts, &label, status.restarts as f64);
            put(Known::ServiceReady, &label, f64::from(status.state == State::Ready));
        }
        readings
    }
}
