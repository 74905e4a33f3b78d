//! Which ports this member opens: those that the live versions of what it holds define.
//! Where two applications want the same one the first by name has it, and the other one's
//! trouble is told.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    content::{Content, Site},
    run::sentence as capital,
    sites::SiteTable,
};
use crate::{
    base::{AppName, Digest, Reason, Refusal},
    driver::listeners::{Listener, Listeners, Protocol, ProxyVersion},
    gateway::{
        ports::{Kind, Port, PortEvent, Ports, Wanted, What},
        tcp::header::Version,
    },
    member::{command::Command, event::Severity},
};

/// The ports of this member.
pub(super) struct OwnPorts {
    ports: Ports,
    /// Where they listen if nothing is said.
    ip: IpAddr,
    lost: Mutex<Lost>,
}

/// By application and port: who has it.
type Lost = BTreeMap<(AppName, u16), AppName>;

impl OwnPorts {
    /// They listen at `ip` if nothing is said.
    pub fn new(ports: Ports, ip: IpAddr) -> Self {
        Self { ports, ip, lost: Mutex::default() }
    }

    /// Those are wanted from now on that what `sites` holds defines. What can't be had
    /// since is told: of which application, in a sentence without its point.
    pub fn refresh(&self, sites: &SiteTable) -> Vec<(AppName, String)> {
        let held = sites.held();
        let all = held.iter().map(|site| (site.app(), site.listeners()));
        let Plan { wanted, lost } = Plan::of(all, self.ip);
        self.ports.want(wanted);
        let before = std::mem::replace(&mut *self.lost(), lost.clone());
        let news = lost.into_iter().filter(|(port, by)| before.get(port) != Some(by));
        news.map(|((app, port), by)| (app.clone(), told(&app, port, &by))).collect()
    }

    /// What is not open that should be, for the member's health.
    pub fn complaints(&self) -> Vec<String> {
        let mut texts = self.ports.complaints();
        texts.extend(self.lost().iter().map(|((app, port), by)| told(app, *port, by)));
        texts.iter().map(|text| format!("{}.", capital(text))).collect()
    }

    fn lost(&self) -> MutexGuard<'_, Lost> {
        // It is replaced in one step.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much what happened to a port matters.
pub(super) fn severity(event: &PortEvent) -> Severity {
    match event.what {
        What::Open | What::Closed => Severity::Info,
        What::Failed(_) => Severity::Warning,
    }
}

/// What is wanted on this member, and what can't be had.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub wanted: Wanted,
    pub lost: Lost,
}

impl Plan {
    /// Of the applications in the order of their names. Where nothing is said of the
    /// address it is `default`.
    pub fn of<'a>(
        all: impl Iterator<Item = (&'a AppName, &'a Listeners)>,
        default: IpAddr,
    ) -> Self {
        let mut plan = Self::default();
        let mut had: Vec<(&AppName, Listener)> = Vec::new();
        for (app, listener) in all.flat_map(|(app, of)| of.0.iter().map(move |l| (app, l))) {
            let ip = listener.address.unwrap_or(default);
            let own = Listener { address: Some(ip), ..listener.clone() };
            if let Some((other, _)) = had.iter().find(|(_, other)| own.is_in_the_way_of(other)) {
                plan.lost.insert((app.clone(), own.port), (*other).clone());
                continue;
            }
            let kind = match own.protocol() {
                Protocol::Tcp => Kind::Tcp,
                Protocol::Http => Kind::Http,
            };
            let port = Port {
                app: app.clone(),
                kind,
                accept_proxy: own.accept_proxy.clone(),
                connections: own.connections.map(|n| n as usize),
            };
            plan.wanted.insert(SocketAddr::new(ip, own.port), port);
            had.push((app, own));
        }
        plan
    }
}

/// That `by` has the port that `app` wants: a sentence without its point.
fn told(app: &AppName, port: u16, by: &AppName) -> String {
    format!(
        "this member does not listen on port {port} for {app}, because {by} has it: publish one \
         of the two with another port"
    )
}

/// Refuses a publication that wants a port which another application has, as far as this
/// member knows. Blocks.
pub(super) fn free(content: &Content, command: &Command) -> Result<(), Refusal> {
    let Command::Publish { app, staged, .. } = command else { return Ok(()) };
    let others = content.applications().into_iter().filter(|active| active.app != *app);
    let sites: Vec<_> = others.filter_map(|other| content.site(&other.app)).collect();
    let mut theirs = sites.iter().filter(|site| !site.listeners().0.is_empty()).peekable();
    if theirs.peek().is_none() {
        return Ok(());
    }
    // What can't be read is refused elsewhere, and says why.
    let Some(own) = listeners_of(content, &staged.root) else { return Ok(()) };
    let clash = |site: &Arc<Site>| {
        own.clash(site.listeners()).map(|listener| (listener.clone(), site.app().clone()))
    };
    match theirs.find_map(clash) {
        None => Ok(()),
        Some((listener, by)) => Err(Refusal::new(
            Reason::Conflict,
            format!("{app} was not published; its version stays as it was."),
            format!("It wants to listen at {listener}, and {by} does already."),
            "Choose another port in althing.toml, or publish the other application without it.",
        )),
    }
}

fn listeners_of(content: &Content, root: &Digest) -> Option<Listeners> {
    Some(content.defined_by(root).ok()?.ok()?.listeners)
}

/// The gateway's word for it.
pub(super) fn version(proxy: ProxyVersion) -> Version {
    match proxy {
        ProxyVersion::V1 => Version::V1,
        ProxyVersion::V2 => Version::V2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Definition;

    fn listeners(text: &str) -> Listeners {
        Listeners::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_first_by_name_has_a_port_and_the_other_is_told() {
        let names = ["a", "b", "c"].map(|name| AppName::parse(name).unwrap());
        let all = [
            listeners("[[listeners]]\nport = 1\nservice = \"x\"\nconnections = 3\n"),
            listeners(
                "[[listeners]]\nport = 1\nservice = \"x\"\naddress = \"10.0.0.1\"\n\
                 [[listeners]]\nport = 2\nprotocol = \"http\"\n",
            ),
            listeners("[[listeners]]\nport = 1\nservice = \"x\"\naddress = \"10.0.0.2\"\n"),
        ];
        let plan = |default: &str| Plan::of(names.iter().zip(&all), default.parse().unwrap());
        let found = plan("0.0.0.0");
        let places: Vec<String> = found.wanted.keys().map(SocketAddr::to_string).collect();
        assert_eq!(places, ["0.0.0.0:1", "0.0.0.0:2"]);
        assert_eq!(found.lost.len(), 2);
        let ((app, port), by) = found.lost.first_key_value().unwrap();
        let said = told(app, *port, by);
        assert!(said.contains("port 1 for b, because a has it"), "{said}");
        // With an address of its own for each there is room for all.
        let found = plan("10.0.0.3");
        assert_eq!((found.wanted.len(), found.lost.len()), (4, 0));
        let port = &found.wanted[&"10.0.0.3:1".parse().unwrap()];
        assert_eq!((port.kind, port.connections), (Kind::Tcp, Some(3)));
        assert_eq!(found.wanted[&"10.0.0.3:2".parse().unwrap()].kind, Kind::Http);
    }
}
