//! What runs because of what is live: services, hooks, rules, addresses and certificates, each a
//! worker of its own that is told when another version is live.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::mpsc;

use super::Work;
use crate::{
    base::{MemberId, MemberName, catalog::Catalog},
    driver::services::ServiceStatus,
    gateway::Stats,
    net::{RecvStream, SendStream},
    node::{
        addresses, certificates, differs, rules,
        run::Note,
        secrets::Others,
        services::{self, Ask, Asked, Asker, Heard},
        sites::SiteTable,
    },
    proto,
};

impl Work {
    pub(super) fn supervise(&self) {
        let notes = self.notes.clone();
        // The loop may be gone: then nobody needs to know.
        let tell = move |notice| drop(notes.send(Note::Services(notice)));
        let (live, stopping) = (self.running.subscribe(), self.stopping.clone());
        self.tasks.spawn(services::run(self.here.clone(), live, tell, stopping));
        let notes = self.notes.clone();
        let tell = move |defined| drop(notes.send(Note::Addresses(defined)));
        let (content, stopping) = (self.content.clone(), self.stopping.clone());
        self.tasks.spawn(addresses::run(content, self.running.subscribe(), tell, stopping));
        let notes = self.notes.clone();
        let tell = move |notice| drop(notes.send(Note::Hooks(notice)));
        self.tasks.spawn(self.hooks.clone().run(self.running.subscribe(), tell));
    }

    /// The rules of what is live are judged; what is open is kept in `file`. `stats` counts where
    /// requests come from.
    pub(super) fn judge(&self, file: PathBuf, stats: Option<Arc<Stats>>) {
        let (network, services) = (self.network.clone(), self.here.clone());
        let me = self.here.vault.key.member();
        let ask = move |whom: &[(MemberId, MemberName)], question: &Ask| {
            let asked = |(id, name): &(MemberId, MemberName)| Asked {
                id: *id,
                name: name.clone(),
                me: *id == me,
            };
            services::ask(&network, &services, whom.iter().map(asked).collect(), question)
        };
        let here = rules::Here {
            vault: self.here.vault.clone(),
            supervisor: Arc::clone(&self.here.supervisor),
            telemetry: self.here.telemetry.clone(),
            stats,
            open: Arc::clone(&self.here.open),
            file,
            names: self.names.subscribe(),
            silences: self.silences.subscribe(),
            around: self.around.subscribe(),
            ask: Arc::new(ask),
        };
        let notes = self.notes.clone();
        // The loop may be gone: then nobody needs to know.
        let tell = move |notice| drop(notes.send(Note::Rules(notice)));
        let (live, stopping) = (self.running.subscribe(), self.stopping.clone());
        let shelf = self.shelf.clone();
        let wide =
            rules::wide::run(here.clone(), shelf.subscribe(), tell.clone(), stopping.clone());
        self.tasks.spawn(wide);
        self.tasks.spawn(rules::run(here, live, shelf, tell, stopping));
    }

    /// What this member sees of the cluster, for the rules about it.
    pub fn look_around(&self, around: rules::wide::Around) {
        self.around.send_if_modified(|before| {
            let differs = *before != around;
            *before = around;
            differs
        });
    }

    /// Who serves at a moment, by the rules that are live here.
    pub fn levels(
        &self,
        question: rules::levels::LevelsQuestion,
        seen: rules::levels::Seen,
        answer: rules::levels::Answer,
    ) {
        let shelf = self.shelf.borrow().clone();
        // A year of many rules takes a while.
        self.tasks.spawn_blocking(move || {
            // Whoever asked may have gone.
            drop(answer.send(seen.answer(&question, &shelf)));
        });
    }

    /// What the catalog says of this member, its cluster and their rules.
    pub(super) fn name(&self, catalog: &Catalog) {
        let me = catalog.roster.get(self.here.vault.key.member());
        let names = rules::Names {
            member: me.map(|me| me.name.to_string()).unwrap_or_default(),
            cluster: catalog.cluster.to_string(),
        };
        self.names.send_if_modified(|known| {
            let differs = *known != names;
            *known = names;
            differs
        });
        self.silences.send_if_modified(|known| {
            let silences = catalog.conduct.silences();
            let differs = known.as_slice() != silences;
            if differs {
                *known = silences.to_vec();
            }
            differs
        });
    }

    /// What rules say of this member's health, the worst first.
    pub fn judged(&self) -> Vec<(proto::rule::Severity, String)> {
        let me = self.here.vault.key.member();
        rules::complaints(&self.here.open, &self.silences.borrow(), me)
    }

    /// The certificates of what is live are read, and kept where `sites` finds them.
    pub fn serve_certificates(&self, sites: Arc<SiteTable>) {
        let notes = self.notes.clone();
        // The loop may be gone: then nobody needs to know.
        let tell = move |notice| drop(notes.send(Note::Certificates(notice)));
        let (vault, troubles) = (self.here.vault.clone(), Arc::clone(&self.certificates));
        let (live, stopping) = (self.running.subscribe(), self.stopping.clone());
        self.tasks.spawn(certificates::run(vault, sites, troubles, live, tell, stopping));
    }

    /// What is live of what the catalog has runs from now on, and nothing else. `others`
    /// are asked for secrets, and given them.
    pub fn run_services(&self, catalog: &Catalog, others: Others) {
        self.others.send_replace(others);
        self.known.send_replace(differs::Known::of(catalog));
        self.hooks.note(catalog);
        self.name(catalog);
        let active = self.content.applications().into_iter();
        // Version 0 is what was live in another cluster.
        let ours = active.filter(|a| a.version > 0 && catalog.application(&a.app).is_some());
        let live: services::Live = ours.map(|a| (a.app, (a.version, a.root))).collect();
        self.running.send_if_modified(|running| {
            let differs = running.as_ref() != Some(&live);
            *running = Some(live);
            differs
        });
    }

    /// Asks members about what runs there.
    pub fn ask_services(&self, all: Vec<Asked>, ask: &Ask) -> mpsc::Receiver<Heard> {
        services::ask(&self.network, &self.here, all, ask)
    }

    /// Another member asks about what runs here.
    pub fn answer_services(&self, asker: Asker, send: SendStream, recv: RecvStream) {
        let (here, asking) = (self.here.clone(), Arc::clone(&self.asking));
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            // Too many: whoever asks is told by the end of the stream.
            let Ok(_permit) = asking.try_acquire() else { return };
            tokio::select! {
                () = stopping.cancelled() => {}
                result = services::answer_stream(here, asker, send, recv) => {
                    if let Err(error) = result {
                        tracing::debug!(from = %asker.id, %error, "a question ended early");
                    }
                }
            }
        });
    }

    /// How the services here are.
    pub fn services(&self) -> Vec<ServiceStatus> {
        self.here.supervisor.status()
    }

    /// What is not as it should be with what runs here.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = services::complaints(&self.here);
        complaints.extend(self.hooks.complaints());
        complaints.extend(certificates::complaints(&self.certificates));
        complaints
    }
}
