//! SIGHUP: a member reads its configuration anew while it runs. What can change at once does; what
//! can't is named in an event. A file with a fault in it changes nothing, and an event says why.

use std::path::{Path, PathBuf};

use tokio::{signal::unix::Signal, task::AbortHandle};

use super::{Setting, Settled, Source};
use crate::{
    admin::{StatusCertificate, StatusTls},
    base::{Reason, Refusal},
    cli::{args::Up, manager::Manager, up},
    gateway::Front,
    member::event::Severity,
    node::Handle,
};

/// When an option that was changed takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// When the member reads its configuration anew.
    AtOnce,
    /// When it is started again.
    AtStart,
    /// Never on one that is in a cluster.
    Joining,
}

impl Takes {
    /// When the option with this key does.
    pub fn of(key: &str) -> Self {
        match key {
            "trusted-proxy" | "accept-proxy" | "access-log" | "access-log-format" | "tag"
            | "scrub-every" | "scrub-rate" | "send-rate" | "receive-rate" | "status-cert"
            | "status-key" => Self::AtOnce,
            "name" | "token" | "token-file" | "standby" => Self::Joining,
            // What is not thought of is safe this way.
            _ => Self::AtStart,
        }
    }
}

/// What differs from what holds, by its keys.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    now: Vec<String>,
    later: Vec<String>,
    joining: Vec<String>,
    /// Whether a tag was taken out. Others may have set it since: it goes by a command.
    tags_stay: bool,
}

impl Changes {
    fn of(holds: &[Setting], wanted: &[Setting]) -> Self {
        let mut changes = Self::default();
        for wish in wanted {
            let before = holds.iter().find(|setting| setting.key == wish.key);
            let before = before.map_or(&[][..], |setting| setting.values.as_slice());
            if before == wish.values {
                continue;
            }
            // A log is begun and ended with the gateway, and TLS with the status port.
            let is_begun = matches!(wish.key.as_str(), "access-log" | "status-cert" | "status-key");
            let is_other = is_begun && before.is_empty() != wish.values.is_empty();
            let keys = match Takes::of(&wish.key) {
                Takes::AtOnce if !is_other => &mut changes.now,
                Takes::AtOnce | Takes::AtStart => &mut changes.later,
                Takes::Joining => &mut changes.joining,
            };
            keys.push(wish.key.clone());
            changes.tags_stay |= wish.key == "tag" && lacks_one(&wish.values, before);
        }
        changes
    }

    /// As an event tells it.
    fn told(&self, file: &Path) -> String {
        let mut text = format!("its configuration was read anew from {}", file.display());
        for (what, keys) in [
            ("from now on: ", &self.now),
            ("changed in the file, and takes effect at the next start: ", &self.later),
            ("of use only where a member founds or joins a cluster: ", &self.joining),
        ] {
            if !keys.is_empty() {
                text.push_str("; ");
                text.push_str(what);
                text.push_str(&keys.join(", "));
            }
        }
        if self.tags_stay {
            text.push_str("; a tag that was taken out stays until `althing tags unset`");
        }
        if *self == Self::default() {
            text.push_str("; nothing in it has changed");
        }
        text
    }

    fn has(&self, keys: &[&str]) -> bool {
        self.now.iter().any(|key| keys.contains(&key.as_str()))
    }
}

/// Whether a tag of `before` is not in `wanted`, whatever its value.
fn lacks_one(wanted: &[String], before: &[String]) -> bool {
    let key = |tag: &String| tag.split('=').next().unwrap_or_default().to_owned();
    before.iter().any(|tag| wanted.iter().all(|wish| key(wish) != key(tag)))
}

/// What a running member was started by.
pub(in crate::cli) struct Begun {
    pub source: Source,
    /// What holds.
    pub holds: Vec<Setting>,
    /// The file that was read last.
    pub file: Option<PathBuf>,
}

/// A running member, and what it was told last.
pub(in crate::cli) struct Reload {
    begun: Begun,
    front: Front,
    /// That of the status port, if it speaks TLS.
    tls: Option<StatusTls>,
    handle: Handle,
    manager: Manager,
    /// Sets the tags that were given last.
    tagging: Option<AbortHandle>,
}

impl Reload {
    /// For a member behind `front`. `tagging` still sets the tags that it was started with.
    pub fn new(
        begun: Begun,
        front: Front,
        tls: Option<StatusTls>,
        (handle, manager): (Handle, Manager),
        tagging: Option<AbortHandle>,
    ) -> Self {
        Self { begun, front, tls, handle, manager, tagging }
    }

    /// Reads everything anew at each signal.
    pub async fn run(mut self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            self.manager.reloading().await;
            self.reload().await;
            self.manager.reloaded().await;
        }
    }

    async fn reload(&mut self) {
        if let Some(log) = &self.front.log {
            log.reopen();
        }
        let told = match self.read_anew() {
            Ok(text) => text.map(|text| (Severity::Info, text)),
            Err(refusal) => {
                let why = refusal.why.trim_end_matches('.');
                let text = format!(
                    "its configuration was not read anew, and everything is as it was: {why}"
                );
                Some((Severity::Warning, text))
            }
        };
        // The same files may hold another certificate, whatever the configuration says.
        for (severity, text) in told.into_iter().chain(self.tls.as_ref().map(certificate_anew)) {
            self.handle.tell(severity, text).await;
        }
    }

    /// What is to be told of it; nothing where no file is in use.
    fn read_anew(&mut self) -> Result<Option<String>, Refusal> {
        let Settled { up, settings, file, .. } = self.begun.source.read()?;
        let Some(file) = file else {
            let Some(gone) = &self.begun.file else { return Ok(None) };
            return Err(Refusal::new(
                Reason::NotFound,
                "The configuration was not read.",
                format!("{} is no longer there.", gone.display()),
                "Put it back, or start the member again without it.",
            ));
        };
        let changes = Changes::of(&self.begun.holds, &settings);
        self.apply(&changes, &up)?;
        for wish in settings {
            if changes.now.contains(&wish.key)
                && let Some(holds) = self.begun.holds.iter_mut().find(|holds| holds.key == wish.key)
            {
                *holds = wish;
            }
        }
        let told = changes.told(&file);
        self.begun.file = Some(file);
        Ok(Some(told))
    }

    /// Everything that can fail comes first: then all of it holds, or nothing does.
    fn apply(&mut self, changes: &Changes, wish: &Up) -> Result<(), Refusal> {
        let (trusted, accept_proxy) = up::networks_of(wish)?;
        let tags = up::tags_of(&wish.tag)?;
        let certificate = match (&self.tls, up::status_files(wish)?) {
            (Some(tls), Some((file, key))) if changes.has(&["status-cert", "status-key"]) => {
                let next = StatusCertificate::read(file, key)?;
                tls.check(&next)?;
                Some((tls, next))
            }
            _ => None,
        };
        if changes.has(&["access-log", "access-log-format"])
            && let Some(log) = &self.front.log
        {
            // One that is to end with this run goes on until then.
            let held = self.begun.holds.iter().find(|setting| setting.key == "access-log");
            let held = held.and_then(|setting| setting.values.first()).map(PathBuf::from);
            if let Some(path) = wish.access_log.clone().or(held) {
                up::change_log(log, &path, wish.access_log_format.into())?;
            }
        }
        if let Some((tls, next)) = certificate {
            tls.set(next);
        }
        if changes.has(&["trusted-proxy"]) {
            self.front.trusted.set(trusted);
        }
        if changes.has(&["accept-proxy"]) {
            self.front.accept_proxy.set(accept_proxy);
        }
        if changes.has(&["scrub-every", "scrub-rate", "send-rate", "receive-rate"]) {
            let (send, receive) = up::rates_of(wish);
            self.handle.tune(up::scrub_of(wish), send, receive);
        }
        if changes.has(&["tag"]) {
            if let Some(before) = self.tagging.take() {
                before.abort();
            }
            let tagging = tokio::spawn(up::set_tags(self.handle.clone(), tags));
            self.tagging = Some(tagging.abort_handle());
        }
        Ok(())
    }
}

/// Reads the certificate of the status port again: what is to be told of it.
fn certificate_anew(tls: &StatusTls) -> (Severity, String) {
    match tls.read_anew() {
        Ok(()) => tls.told(),
        Err(refusal) => {
            let (_, holds) = tls.told();
            let why = refusal.why.trim_end_matches('.');
            (Severity::Warning, format!("{why}. As before: {holds}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Origin, *};

    fn setting(key: &str, values: &[&str]) -> Setting {
        Setting {
            key: key.to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
            is_list: values.len() > 1,
            from: Origin::File,
            line: None,
        }
    }

    #[test]
    fn what_changed_is_told_apart_by_when_it_holds() {
        let holds = [
            setting("send-rate", &[]),
            setting("bind", &["0.0.0.0:7700"]),
            setting("tag", &["role=web"]),
            setting("name", &["one"]),
            setting("access-log", &["/var/log/a"]),
            setting("access-log-format", &["json"]),
        ];
        let file = Path::new("/etc/x");
        let same = Changes::of(&holds, &holds);
        assert_eq!(same, Changes::default());
        assert!(same.told(file).ends_with("from /etc/x; nothing in it has changed"));
        let wanted = [
            setting("send-rate", &["1MB"]),
            setting("bind", &["0.0.0.0:7701"]),
            setting("tag", &["role=web", "zone=a"]),
            setting("name", &["two"]),
            setting("access-log", &["/var/log/b"]),
            setting("access-log-format", &["json"]),
        ];
        let changes = Changes::of(&holds, &wanted);
        assert_eq!(changes.now, ["send-rate", "tag", "access-log"]);
        assert_eq!(
            (&changes.later[..], &changes.joining[..]),
            (&["bind".to_owned()][..], &["name".to_owned()][..])
        );
        let told = changes.told(file);
        assert!(told.contains("from now on: send-rate, tag, access-log;"), "{told}");
        assert!(told.contains("at the next start: bind;"), "{told}");
    }

    #[test]
    fn a_log_is_begun_and_ended_with_the_member() {
        let (with, without) = ([setting("access-log", &["/a"])], [setting("access-log", &[])]);
        assert_eq!(Changes::of(&with, &without).later, ["access-log"]);
        assert_eq!(Changes::of(&without, &with).later, ["access-log"]);
        let (one, other) = ([setting("status-cert", &["/a"])], [setting("status-cert", &["/b"])]);
        let without = [setting("status-cert", &[])];
        assert_eq!(Changes::of(&one, &other).now, ["status-cert"]);
        assert_eq!(Changes::of(&one, &without).later, ["status-cert"]);
        assert_eq!(Changes::of(&without, &one).later, ["status-cert"]);
    }
}
