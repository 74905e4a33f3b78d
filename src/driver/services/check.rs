//! Whether definitions make sense: bounds, paths that stay in the tree, names
//! that the system takes. Pure, so that `publish` says it before a member
//! meets it; a member checks again, because a version comes from others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::spec::{Limits, Ready, Requests, Service, Services};
use crate::{
    base::{RelPath, SecretName},
    driver::{Wrong, secrets},
};

/// Services of one application.
pub const SERVICES_MAX: usize = 64;
/// Words of one command.
pub const WORDS_MAX: usize = 256;
/// All words of one command, bytes.
pub const WORDS_BYTES_MAX: usize = 32 << 10;
/// Variables of one environment.
pub const ENV_MAX: usize = 256;
/// All variables of one environment, names and values, bytes.
pub const ENV_BYTES_MAX: usize = 64 << 10;
/// The longest that a service may take to stop: a member that is stopped waits for it.
pub const STOP_WITHIN_MAX: Duration = Duration::from_secs(600);
/// The longest that a service may take to get ready.
pub const READY_WITHIN_MAX: Duration = Duration::from_secs(3_600);
/// Requests at once, and waiting, of one process.
pub const REQUESTS_MAX: u32 = 65_535;
/// The longest that a request may wait for its turn.
pub const QUEUE_WITHIN_MAX: Duration = Duration::from_secs(300);
/// A service that is asked more often does little else.
const CHECK_MIN: Duration = Duration::from_millis(100);
/// What is found after an hour is found by others first.
const CHECK_MAX: Duration = Duration::from_secs(3_600);
/// Length of an address or URL, bytes.
const ADDRESS_MAX: usize = 2_048;
/// Less open files than these, and a program can't even load its libraries.
const FILES_MIN: u64 = 8;
/// The kernel's own bound on open files.
const FILES_MAX: u64 = 1 << 20;
/// Less address space than this, and nothing but a tiny static program starts.
const MEMORY_MIN: u64 = 4 << 20;
/// The kernel's own bound on processes.
const PROCESSES_MAX: u64 = 1 << 22;

impl Services {
    /// Checks every definition. The errors are whole sentences, each with the
    /// key that is wrong and what to write instead.
    pub fn check(&self) -> Result<(), Vec<String>> {
        Wrong::sentences(self.wrong())
    }

    /// The same with the place of each.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut all = Vec::new();
        if self.0.len() > SERVICES_MAX {
            let why = format!(
                "{} services are defined, and an application may have {SERVICES_MAX}: \
                 take some out, or make them an application of their own.",
                self.0.len()
            );
            all.push(Wrong::new(["services"], why));
        }
        for (name, service) in self.0.iter().take(SERVICES_MAX) {
            let (above, said) = (["services", name.as_str()], format!("[services.{name}]"));
            service.check(|wrong| all.push(wrong.below(&above, &said)));
        }
        all
    }
}

impl Service {
    fn check(&self, mut say: impl FnMut(Wrong)) {
        check_run(&self.run, &mut say);
        check_directory(&self.directory, &mut say);
        check_env(&self.env, &mut say);
        check_secrets(&self.secrets, &self.env, &mut say);
        if self.stop.within > STOP_WITHIN_MAX {
            let why = "stop.within is longer than 10 minutes: write a shorter span.";
            say(Wrong::new(["stop", "within"], why));
        }
        self.check_ready(&mut say);
        if !self.check.is_zero() && !(CHECK_MIN..=CHECK_MAX).contains(&self.check) {
            let why = "check has to be from 100 ms to an hour, or \"0s\" for never.";
            say(Wrong::new(["check"], why));
        }
        if let Some(Requests { at_once, queue, within }) = self.requests {
            let is_wrong = !(1..=REQUESTS_MAX).contains(&at_once);
            if is_wrong || queue > REQUESTS_MAX {
                let why = format!(
                    "requests.at_once has to be a number from 1 to {REQUESTS_MAX}, and \
                     requests.queue one from 0."
                );
                say(Wrong::new(["requests", if is_wrong { "at_once" } else { "queue" }], why));
            }
            if within > QUEUE_WITHIN_MAX {
                let why = "requests.within is longer than 5 minutes: write a shorter span.";
                say(Wrong::new(["requests", "within"], why));
            }
        }
        check_limits(self.limits, &mut say);
    }

    fn check_ready(&self, say: &mut impl FnMut(Wrong)) {
        // The port that it will be given is as good as any.
        let (key, within) = match &self.ready.at(1) {
            Ready::After(after) => ("after", *after),
            Ready::Tcp { address, within } => {
                if let Err(why) = parse_address(address) {
                    let why = format!(
                        "ready.tcp = {:?} can't be asked, because {why}: write an address of \
                         this machine with its port, as \"127.0.0.1:8080\".",
                        shown(address)
                    );
                    say(Wrong::new(["ready", "tcp"], why));
                }
                ("within", *within)
            }
            Ready::Http { url, within } => {
                if let Err(why) = parse_url(url) {
                    let why = format!(
                        "ready.http = {:?} can't be asked, because {why}: write it as \
                         \"http://127.0.0.1:8080/health\".",
                        shown(url)
                    );
                    say(Wrong::new(["ready", "http"], why));
                }
                ("within", *within)
            }
        };
        if within > READY_WITHIN_MAX {
            let why = "ready waits longer than an hour: write a shorter span.";
            say(Wrong::new(["ready", key], why));
        }
    }
}

/// What runs.
pub(in crate::driver) fn check_run(run: &[String], tell: &mut impl FnMut(Wrong)) {
    let mut say = |why: String| tell(Wrong::new(["run"], why));
    let Some(program) = run.first().filter(|program| !program.is_empty()) else {
        say("run names no program: write it and its words, as [\"bin/api\", \"--port\", \
             \"8080\"]."
            .to_owned());
        return;
    };
    if run.len() > WORDS_MAX {
        say(format!("run has {} words, and may have {WORDS_MAX}: use a file.", run.len()));
    }
    if run.iter().map(String::len).sum::<usize>() > WORDS_BYTES_MAX {
        say("run is longer than 32 KiB: put what is long into a file.".to_owned());
    }
    if run.iter().any(|word| word.contains('\0')) {
        say("run holds a NUL byte, which no program can be given: take it out.".to_owned());
    }
    let why = match program.as_str() {
        "." | ".." => Some("it is a directory"),
        path if path.starts_with('/') => Some("it is absolute"),
        path if path.contains('/') => below(path).err(),
        _ => None,
    };
    if let Some(why) = why {
        let why = format!(
            "run starts with {:?}, which is no program of the application's tree, because \
             {why}: write a path relative to the tree, as \"bin/api\", or the bare name of \
             a program in PATH.",
            shown(program)
        );
        tell(Wrong::new(["run", program.as_str()], why));
    }
}

/// Where it runs.
pub(in crate::driver) fn check_directory(directory: &str, say: &mut impl FnMut(Wrong)) {
    if let Err(why) = below(directory) {
        let why = format!(
            "directory = {:?} does not stay in the application's tree, because {why}: \
             write a path relative to it, or \".\".",
            shown(directory)
        );
        say(Wrong::new(["directory"], why));
    }
}

/// The secrets that it is given.
pub(in crate::driver) fn check_secrets(
    names: &BTreeSet<SecretName>,
    env: &BTreeMap<String, String>,
    say: &mut impl FnMut(Wrong),
) {
    for secret in names {
        let variable = secrets::env_name(secret);
        if let Err(why) = secrets::check_name(secret) {
            let why = format!("can't be given this secret: {why}");
            say(Wrong::new(["secrets", secret.as_str()], why));
        } else if env.contains_key(&variable) {
            let why = format!(
                "env sets {variable}, which the secret {secret} is given as: take one of \
                 the two out."
            );
            say(Wrong::new(["secrets", secret.as_str()], why));
        }
    }
}

/// What it may use.
pub(in crate::driver) fn check_limits(limits: Limits, tell: &mut impl FnMut(Wrong)) {
    let mut say = |key: &str, why: String| tell(Wrong::new(["limits", key], why));
    let outside = |value: Option<u64>, least, most| {
        value.is_some_and(|value| !(least..=most).contains(&value))
    };
    if outside(limits.files, FILES_MIN, FILES_MAX) {
        say("files", format!("limits.files has to be a number from {FILES_MIN} to {FILES_MAX}."));
    }
    if outside(limits.memory, MEMORY_MIN, u64::MAX) {
        let why = "limits.memory is less than 4MiB, and nothing could start: allow more.";
        say("memory", why.to_owned());
    }
    if outside(limits.processes, 1, PROCESSES_MAX) {
        let why = format!("limits.processes has to be a number from 1 to {PROCESSES_MAX}.");
        say("processes", why);
    }
}

/// Its variables.
pub(in crate::driver) fn check_env(env: &BTreeMap<String, String>, tell: &mut impl FnMut(Wrong)) {
    if env.len() > ENV_MAX {
        let why = format!("env has {} variables, and may have {ENV_MAX}: use a file.", env.len());
        tell(Wrong::new(["env"], why));
    }
    if env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > ENV_BYTES_MAX {
        let why = "env is larger than 64 KiB: put what is large into a file.";
        tell(Wrong::new(["env"], why));
    }
    for (name, value) in env.iter().take(ENV_MAX) {
        let mut say = |why: String| tell(Wrong::key(["env", name.as_str()], why));
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        if !name.starts_with(first) || !name.chars().all(letter) {
            say(format!(
                "env has a variable {:?}, which is no name: use letters, digits and _.",
                shown(name)
            ));
        } else if name.starts_with("ALTHING_") {
            say(format!(
                "env sets {}, and names that begin with ALTHING_ are set by the member: \
                 choose another.",
                shown(name)
            ));
        } else if value.contains('\0') {
            let why = format!("env.{} holds a NUL byte, which can't be: take it out.", shown(name));
            tell(Wrong::new(["env", name.as_str()], why));
        }
    }
}

/// What a person wrote, cut short for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A path below the tree, without `.` components; none for the tree itself.
pub(super) fn below(text: &str) -> Result<Option<RelPath>, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.starts_with('/') {
        return Err("it is absolute");
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "." | "")).collect();
    if parts.is_empty() {
        return Ok(None);
    }
    RelPath::parse(parts.join("/").as_bytes()).map(Some)
}

/// An address as a socket takes it. No name is looked up: a resolver that
/// hangs would look like a service that is not ready.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, &'static str> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    let address: SocketAddr =
        numeric.parse().map_err(|_| "it is no IP address with a port, and names are not asked")?;
    if address.port() == 0 { Err("nothing listens on port 0") } else { Ok(address) }
}

/// What to ask of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub address: SocketAddr,
    /// The `Host` of the request.
    pub host: String,
    pub path: String,
}

/// The parts of `http://ADDRESS[:PORT][/PATH]`.
pub(super) fn parse_url(text: &str) -> Result<Target, &'static str> {
    if text.len() > ADDRESS_MAX {
        return Err("it is longer than 2,048 bytes");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("it holds blanks or other characters that a URL can't have");
    }
    let rest = text.strip_prefix("http://").ok_or("it does not begin with http://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let path = path.split('#').next().unwrap_or("");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let address =
        parse_address(host).or_else(|why| parse_address(&format!("{host}:80")).map_err(|_| why))?;
    Ok(Target { address, host: host.to_owned(), path })
}
