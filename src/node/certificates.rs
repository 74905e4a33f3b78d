//! The certificates that this member serves its applications with: read out of the secrets
//! of the live versions, judged, and put where the gateway finds them.
//!
//! A certificate that can't be used replaces none that can: what was in use stays, and an
//! event and the member's health say what to do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    content::{ContentError, Defined},
    secrets::Vault,
    services::{Live, Unfit},
    sites::SiteTable,
    start::wall_now,
};
use crate::{
    base::{AppName, Digest, WallTime},
    driver::{secrets::Secrets, tls::Tls},
    gateway::{Certificate, Validity},
    member::event::Severity,
};

/// How soon what could not be read is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often is looked whether one of them expires.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
/// How many hosts are named in a complaint.
const NAMED_MAX: usize = 3;

/// What is told of a certificate.
pub(super) struct Notice {
    pub app: AppName,
    pub severity: Severity,
    /// A sentence without its point.
    pub text: String,
}

/// What is wrong, by application, for the member's health: sentences without their point.
pub(super) type Troubles = Arc<Mutex<BTreeMap<AppName, String>>>;

/// All that is said of the certificates of this member's applications.
pub(super) fn complaints(troubles: &Troubles) -> Vec<String> {
    let all = troubles.lock().unwrap_or_else(PoisonError::into_inner);
    all.values().map(|why| format!("{}.", super::run::sentence(why))).collect()
}

/// What the live version of an application says.
struct Seen {
    version: (u64, Digest),
    tls: Option<Tls>,
    /// Why there is no other certificate than the one before: a sentence without its point.
    wrong: Option<String>,
    /// When it is looked at once more, if that may help.
    again: Option<Instant>,
}

/// Keeps the certificates as the live versions have them, until it is stopped.
pub(super) async fn run(
    vault: Vault,
    sites: Arc<SiteTable>,
    troubles: Troubles,
    mut live: watch::Receiver<Option<Live>>,
    tell: impl Fn(Notice),
    stopping: CancellationToken,
) {
    let certificates = sites.certificates();
    let mut seen: BTreeMap<AppName, Seen> = BTreeMap::new();
    loop {
        let wanted = live.borrow_and_update().clone();
        if let Some(wanted) = wanted {
            seen.retain(|app, _| wanted.contains_key(app));
            certificates.retain(|app| wanted.contains_key(app));
            for (app, version) in wanted {
                let is_known = |seen: &Seen| {
                    seen.version == version && seen.again.is_none_or(|at| Instant::now() < at)
                };
                if seen.get(&app).is_some_and(is_known) {
                    continue;
                }
                let read = read(&vault, &app).await;
                let now = taken(&sites, &app, version, read, &tell);
                seen.insert(app, now);
            }
            certificates.is_known();
        }
        let all = seen.iter().filter_map(|(app, seen)| {
            let (severity, text) = trouble(&sites, app, seen, wall_now())?;
            Some((app.clone(), severity, text))
        });
        note(&troubles, all.collect(), &tell);
        let again = seen.values().filter_map(|seen| seen.again).min();
        let wake = Instant::now() + LOOK_EVERY;
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = live.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(again.map_or(wake, |at| at.min(wake))) => {}
        }
    }
}

/// What a version says of TLS, and its certificate, or a sentence without its point.
type Read = (Tls, Result<Certificate, String>);

/// Reads what the live version of `app` has.
async fn read(vault: &Vault, app: &AppName) -> Result<Option<Read>, Unfit> {
    let (content, name) = (vault.content.clone(), app.clone());
    let read = tokio::task::spawn_blocking(move || content.defined(&name)).await;
    // A panic in there has been told of.
    let read = read.map_err(|_| Unfit::Waiting("it could not be read".to_owned()))?;
    let defined = read.map_err(|error| match error {
        ContentError::Definition { .. } => Unfit::Unusable(error.to_string()),
        _ => Unfit::Waiting(error.to_string()),
    })?;
    let Some((_, Defined { tls: Some(tls), secrets, .. })) = defined else { return Ok(None) };
    let secrets = match secrets {
        Some(sealed) => vault.open(app, &sealed).await?,
        None => Secrets::new(),
    };
    let certificate = certificate(app, &tls, &secrets);
    Ok(Some((tls, certificate)))
}

/// The certificate that `tls` names. The error is a sentence without its point.
fn certificate(app: &AppName, tls: &Tls, secrets: &Secrets) -> Result<Certificate, String> {
    let name = &tls.certificate;
    let secret = secrets.get(name).ok_or_else(|| format!("the secret {name} is not set"))?;
    Certificate::from_pem(app, secret.expose()).map_err(|why| why.to_string())
}

/// Whether the certificate that `tls` names is one that a member can begin to use: for
/// whoever sets it. The error is a sentence without its point.
pub(super) fn check(app: &AppName, tls: &Tls, secrets: &Secrets) -> Result<Certificate, String> {
    let name = &tls.certificate;
    certificate(app, tls, secrets)
        .map_err(|why| format!("the secret {name} is no certificate that can be used: {why}"))
}

/// Puts the certificate in the place of the one before, if it is fit to.
fn taken(
    sites: &SiteTable,
    app: &AppName,
    version: (u64, Digest),
    read: Result<Option<Read>, Unfit>,
    tell: &impl Fn(Notice),
) -> Seen {
    let certificates = sites.certificates();
    let (tls, found) = match read {
        Ok(Some(read)) => read,
        Ok(None) => {
            certificates.set(app, None);
            return Seen { version, tls: None, wrong: None, again: None };
        }
        // What was before stays.
        Err(unfit) => {
            let again = match unfit {
                Unfit::Unusable(_) => None,
                Unfit::Waiting(_) => Some(Instant::now() + RETRY),
            };
            return Seen { version, tls: None, wrong: Some(unfit.why().to_owned()), again };
        }
    };
    let seen = |tls, wrong| Seen { version, tls: Some(tls), wrong, again: None };
    let new = match found {
        Ok(new) => new,
        Err(why) => return seen(tls, Some(why)),
    };
    let (now, before) = (wall_now(), certificates.of(app));
    if let Some(before) = &before
        && before.validity().holds(now)
        && !new.validity().holds(now)
    {
        return seen(tls, Some(out_of_time(new.validity(), now)));
    }
    let is_news = before.is_none_or(|before| !before.is_same(&new));
    let until = new.validity().until();
    certificates.set(app, Some(Arc::new(new)));
    if is_news {
        let text =
            format!("{app} is served with its certificate here, which is valid until {until}");
        tell(Notice { app: app.clone(), severity: Severity::Info, text });
    }
    seen(tls, None)
}

fn out_of_time(validity: Validity, now: WallTime) -> String {
    let until = validity.until();
    if now > until { format!("it expired on {until}") } else { "it is not valid yet".to_owned() }
}

/// What is wrong with the certificate of `app` at `now`.
fn trouble(
    sites: &SiteTable,
    app: &AppName,
    seen: &Seen,
    now: WallTime,
) -> Option<(Severity, String)> {
    let used = sites.certificates().of(app);
    let set = match &seen.tls {
        Some(tls) => {
            format!("set another one with `althing secret set {app} {}`", tls.certificate)
        }
        None => "it is tried again by itself".to_owned(),
    };
    if let Some(why) = &seen.wrong {
        let (severity, stays) = match used {
            Some(used) if used.validity().holds(now) => (
                Severity::Warning,
                format!(
                    "the one before stays in use, which expires on {}",
                    used.validity().until()
                ),
            ),
            Some(_) => (Severity::Critical, "the one before has expired".to_owned()),
            None => (Severity::Critical, "nobody can come by TLS".to_owned()),
        };
        let text = format!("the certificate of {app} can't be used on this member, because {why}");
        let again = if seen.tls.is_some() || seen.again.is_some() {
            format!(": {set}")
        } else {
            ": publish a version that can be used".to_owned()
        };
        return Some((severity, format!("{text}; {stays}{again}")));
    }
    let used = used?;
    let validity = used.validity();
    if !validity.holds(now) {
        let why = out_of_time(validity, now);
        let text = format!("clients refuse the certificate of {app}, because {why}: {set}");
        return Some((Severity::Critical, text));
    }
    let hosts = sites.hosts(app);
    let lacking: Vec<&str> =
        hosts.iter().map(String::as_str).filter(|host| !used.names(host)).collect();
    if !lacking.is_empty() {
        let mut shown = lacking.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        if lacking.len() > NAMED_MAX {
            shown.push_str(&format!(" and {} more", lacking.len() - NAMED_MAX));
        }
        let soon = match validity.ends_soon(now) {
            true => format!(", and it expires on {}", validity.until()),
            false => String::new(),
        };
        let text = format!(
            "the certificate of {app} is not made out for {shown}, so clients refuse it \
             there{soon}: {set}"
        );
        return Some((Severity::Warning, text));
    }
    validity.ends_soon(now).then(|| {
        let until = validity.until();
        (Severity::Warning, format!("the certificate of {app} expires on {until}: {set}"))
    })
}

/// Keeps what is wrong, and tells what of it is new, and what is over.
fn note(troubles: &Troubles, all: Vec<(AppName, Severity, String)>, tell: &impl Fn(Notice)) {
    let now = all.iter().map(|(app, _, text)| (app.clone(), text.clone())).collect();
    let before =
        std::mem::replace(&mut *troubles.lock().unwrap_or_else(PoisonError::into_inner), now);
    for app in before.keys().filter(|app| all.iter().all(|(other, ..)| other != *app)) {
        let text = format!("the certificate of {app} is as it should be again");
        tell(Notice { app: app.clone(), severity: Severity::Info, text });
    }
    for (app, severity, text) in all {
        if before.get(&app) != Some(&text) {
            tell(Notice { app, severity, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SecretName;

    fn made(from: i32, until: i32) -> Certificate {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
        let der = parameters.self_signed(&key).unwrap().der().to_vec();
        let section = |label: &str, der: &[u8]| {
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
        };
        let pem = section("CERTIFICATE", &der) + &section("PRIVATE KEY", &key.serialize_der());
        Certificate::from_pem(&app(), &pem).unwrap()
    }

    fn app() -> AppName {
        AppName::parse("shop").unwrap()
    }

    fn tls() -> Tls {
        let certificate = SecretName::parse("web-cert").unwrap();
        Tls { certificate, redirect: false, port: None, hsts: Duration::ZERO }
    }

    /// What follows when versions with these certificates are live one after the other.
    struct Steps {
        sites: SiteTable,
        troubles: Troubles,
        told: Mutex<Vec<String>>,
        number: u64,
    }

    impl Steps {
        fn next(&mut self, read: Result<Option<Read>, Unfit>) -> Option<String> {
            self.number += 1;
            let version = (self.number, Digest::of_bytes(b"x"));
            let tell = |notice: Notice| self.told.lock().unwrap().push(notice.text);
            let seen = taken(&self.sites, &app(), version, read, &tell);
            self.look(&seen, wall_now())
        }

        fn look(&self, seen: &Seen, now: WallTime) -> Option<String> {
            let tell = |notice: Notice| self.told.lock().unwrap().push(notice.text);
            let trouble = trouble(&self.sites, &app(), seen, now);
            let all = trouble.iter().map(|(severity, text)| (app(), *severity, text.clone()));
            note(&self.troubles, all.collect(), &tell);
            trouble.map(|(_, text)| text)
        }

        fn used(&self) -> Option<WallTime> {
            self.sites.certificates().of(&app()).map(|used| used.validity().until())
        }
    }

    fn steps() -> Steps {
        Steps {
            sites: SiteTable::new(Arc::default()),
            troubles: Troubles::default(),
            told: Mutex::default(),
            number: 0,
        }
    }

    #[test]
    fn one_that_expires_soon_is_told_of_once() {
        let steps = steps();
        let (used, nobody) = (made(2020, 2090), |_: Notice| {});
        let until = used.validity().until();
        let before = |days: u64| WallTime(until.0 - days * 86_400_000);
        let read = Ok(Some((tls(), Ok(used))));
        let seen = taken(&steps.sites, &app(), (1, Digest::of_bytes(b"x")), read, &nobody);
        assert_eq!(steps.look(&seen, before(15)), None);
        for days in [13, 12, 1] {
            let why = steps.look(&seen, before(days)).unwrap();
            assert!(why.contains("expires on 2090-01-01T00:00:00Z: set another one"), "{why}");
            assert_eq!(*steps.told.lock().unwrap(), [why], "however often it is looked");
            assert_eq!(complaints(&steps.troubles).len(), 1, "and shown until it is replaced");
        }
        let why = steps.look(&seen, WallTime(until.0 + 1_000)).unwrap();
        assert!(why.contains("it expired on"), "{why}");
        assert_eq!(steps.told.lock().unwrap().len(), 2);
    }

    #[test]
    fn what_can_not_be_used_replaces_nothing_that_can() {
        let mut steps = steps();
        let good = |certificate| Ok(Some((tls(), Ok(certificate))));
        let bad = || Ok(Some((tls(), Err("it is none".to_owned()))));

        let why = steps.next(bad()).unwrap();
        assert!(why.contains("it is none; nobody can come by TLS: set another one"), "{why}");
        // One that is over is better than none.
        let why = steps.next(good(made(2020, 2021))).unwrap();
        assert!(why.contains("it expired on 2021-01-01T00:00:00Z: set another"), "{why}");
        let old = steps.used();
        assert!(old.is_some());

        assert_eq!(steps.next(good(made(2020, 2090))), None);
        let used = steps.used();
        assert_ne!(used, old);
        for (read, word) in [
            (bad(), "it is none; the one before stays in use, which expires on 2090-01-01"),
            (good(made(2020, 2021)), "it expired on 2021-01-01T00:00:00Z; the one before stays"),
            (good(made(2080, 2090)), "it is not valid yet; the one before stays"),
            (Err(Unfit::Waiting("nobody hands it over".to_owned())), "it is tried again by itself"),
        ] {
            let why = steps.next(read).unwrap();
            assert!(why.contains(word), "{why}");
            assert_eq!(steps.used(), used);
            let said = complaints(&steps.troubles);
            assert!(said[0].starts_with("The certificate of shop") && said[0].ends_with('.'));
            assert_eq!(steps.told.lock().unwrap().last(), Some(&why), "told once");
        }
        assert_eq!(steps.next(good(made(2020, 2091))), None);
        assert!(complaints(&steps.troubles).is_empty());
        let last = steps.told.lock().unwrap().last().cloned().unwrap();
        assert!(last.contains("as it should be again"), "{last}");
        assert_eq!(steps.next(Ok(None)), None);
        assert_eq!(steps.used(), None, "a version without TLS");
    }
}
