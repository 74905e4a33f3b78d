//! What is exported, before it has a format: which application is held by which members,
//! under which address, and whether they are to be given requests. Pure.
//!
//! A view is text, and what stands in a catalog may come from a member that is not honest. So
//! everything here is parsed into types that no quote, space or line break fits into; what does
//! not parse is left out, and said ([`Plan::left_out`]). Order is by name, so that what did not
//! change is written in the same bytes, whichever member is asked.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;

use super::options::At;
use crate::{
    base::{AppName, MemberName},
    member::view::{ApplicationView, MemberView, PositionView, View},
};

/// The tag in which a member says where its sites are reached, where that is not its address
/// in the cluster with the usual port: `8080`, `10.1.0.1` or `10.1.0.1:8080`.
pub(super) const TAG: &str = "http";

/// Everything that a balancer is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Plan {
    /// Where the balancer listens.
    pub listen: At,
    /// By name, the one for all other host names last.
    pub applications: Vec<Application>,
    /// What could not be exported, and why: a sentence each.
    pub left_out: Vec<String>,
}

/// One application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Application {
    pub name: AppName,
    /// Whether it answers for all other host names.
    pub default: bool,
    /// By name. Each belongs to one application alone.
    pub hosts: Vec<Host>,
    /// By name: those that it is placed on.
    pub members: Vec<Server>,
    /// No member is in service, so all are given requests, and the balancer's own checks decide.
    pub last_resort: bool,
}

/// One member that an application is placed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Server {
    pub name: MemberName,
    /// Where its sites are reached.
    pub address: SocketAddr,
    pub state: State,
    /// Whether it is given requests.
    pub active: bool,
    /// What it is given of them beside others, from 1 to [`WEIGHT_MAX`].
    pub weight: u16,
}

/// The largest weight that HAProxy takes.
const WEIGHT_MAX: u16 = 256;

/// How a member stands to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    InService,
    /// It does not hold it yet.
    Receiving,
    Standby,
    Down,
    Left,
}

impl State {
    /// For a comment.
    pub fn words(self) -> &'static str {
        match self {
            Self::InService => "in service",
            Self::Receiving => "receives it still",
            Self::Standby => "on standby",
            Self::Down => "down",
            Self::Left => "has left",
        }
    }
}

/// A host name: letters, digits, hyphens, underscores and single dots, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub(super) struct Host(String);

impl Host {
    /// As manifests are read; a catalog may hold whatever its author put there.
    pub fn parse(text: &str) -> Option<Self> {
        let fine = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(fine);
        let is_host = text.len() <= 253 && text.split('.').all(label);
        is_host.then(|| Self(text.to_ascii_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Plan {
    /// What is to be exported of a view. `port` is where members serve sites that say nothing
    /// else.
    pub fn of(view: &View, listen: At, port: u16) -> Self {
        let mut left_out = Vec::new();
        let mut sorted: Vec<&ApplicationView> = view.applications.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        // As the gateway of a member chooses: the first that wants to, or the only one.
        let default = match sorted.as_slice() {
            [only] => Some(&only.name),
            all => all.iter().find(|a| a.default).map(|a| &a.name),
        };
        let mut claimed = BTreeSet::new();
        let mut applications = Vec::new();
        for app in &sorted {
            let Ok(name) = AppName::parse(&app.name) else {
                left_out.push(format!("The application {:?}: its name is none.", app.name));
                continue;
            };
            let hosts = hosts_of(app, &mut claimed, &mut left_out);
            let members = servers_of(view, app, port, &mut left_out);
            let is_default = Some(&app.name) == default;
            applications.push(in_order(name, is_default, hosts, members));
        }
        applications.sort_by(|a, b| (a.default, &a.name).cmp(&(b.default, &b.name)));
        left_out.sort();
        left_out.dedup();
        Self { listen, applications, left_out }
    }

    /// Those that a request can get to: by a host name, or because no other has it.
    pub fn reachable(&self) -> impl Iterator<Item = &Application> {
        self.applications.iter().filter(|a| a.default || !a.hosts.is_empty())
    }

    /// The one for all other host names.
    pub fn default(&self) -> Option<&Application> {
        self.applications.last().filter(|a| a.default)
    }
}

fn in_order(
    name: AppName,
    default: bool,
    mut hosts: Vec<Host>,
    mut members: Vec<Server>,
) -> Application {
    hosts.sort();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let last_resort = !members.is_empty() && members.iter().all(|m| !m.active);
    if last_resort {
        // To send nobody anywhere would be worse than to let the balancer try: whoever is asked
        // here may itself be the one that is cut off.
        members.iter_mut().for_each(|m| m.active = true);
    }
    let most = members.iter().map(|m| m.weight).max().unwrap_or(1);
    if members.iter().all(|m| m.weight == most) {
        members.iter_mut().for_each(|m| m.weight = 1);
    } else if most > WEIGHT_MAX {
        let scaled = |weight: u16| u32::from(weight) * u32::from(WEIGHT_MAX) / u32::from(most);
        // At most WEIGHT_MAX.
        members.iter_mut().for_each(|m| m.weight = scaled(m.weight).max(1) as u16);
    }
    Application { name, default, hosts, members, last_resort }
}

/// A host name belongs to the first application that claims it, as in the gateway of a member.
fn hosts_of(
    app: &ApplicationView,
    claimed: &mut BTreeSet<Host>,
    left_out: &mut Vec<String>,
) -> Vec<Host> {
    let mut hosts = Vec::new();
    for text in &app.hosts {
        let Some(host) = Host::parse(text) else {
            left_out.push(format!("The host name {text:?} of {}: it is none.", app.name));
            continue;
        };
        if claimed.insert(host.clone()) {
            hosts.push(host);
        } else if !hosts.contains(&host) {
            left_out.push(format!("The host name {host} of {}: another has it.", app.name));
        }
    }
    hosts
}

fn servers_of(
    view: &View,
    app: &ApplicationView,
    port: u16,
    left_out: &mut Vec<String>,
) -> Vec<Server> {
    let mut servers = Vec::new();
    for member in &view.members {
        let position = app.positions.iter().find(|p| p.member == member.name);
        let Some(state) = state_of(member, position) else { continue };
        let Ok(name) = MemberName::parse(&member.name) else {
            left_out.push(format!("The member {:?}: its name is none.", member.name));
            continue;
        };
        match address_of(member, port) {
            Ok(address) => {
                let active = state == State::InService;
                // A member of an older release says nothing of it.
                let weight = member.capacity.max(1);
                servers.push(Server { name, address, state, active, weight });
            }
            Err(why) => left_out.push(format!("The member {name}: {why}.")),
        }
    }
    servers
}

/// How a balancer's file says what a member is given, where that is not the usual.
pub(super) fn weight(server: &Server) -> String {
    match server.weight {
        1 => String::new(),
        weight => format!(" weight {weight}"),
    }
}

/// Nothing for a member that it is not placed on.
fn state_of(member: &MemberView, position: Option<&PositionView>) -> Option<State> {
    let position = position?;
    // After every change of the catalog each member is silent for a moment: then the last that
    // is known of it holds.
    let receiving = match position.position.as_str() {
        "elsewhere" | "leaving" => return None,
        "silent" => member.service == "receiving",
        "nothing" => true,
        // An older version is served until the newer one is there.
        _ => position.version == Some(0),
    };
    Some(match member.state.as_str() {
        "down" => State::Down,
        "left" => State::Left,
        _ if member.standby => State::Standby,
        _ if receiving => State::Receiving,
        _ => State::InService,
    })
}

/// Where a member serves sites: as its tag says, or at its address in the cluster.
fn address_of(member: &MemberView, port: u16) -> Result<SocketAddr, String> {
    let known = member.address.parse::<SocketAddr>().map_err(|_| "its address is none")?;
    // Without the scope of a link: no balancer's format has one.
    let usual = SocketAddr::new(known.ip(), port);
    let address = match member.tags.get(TAG) {
        None => usual,
        Some(tag) => said(tag, usual).ok_or_else(|| {
            format!("its tag {TAG} is {tag:?}, and should be PORT, ADDRESS or ADDRESS:PORT")
        })?,
    };
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(format!("{address} is nowhere"));
    }
    Ok(address)
}

fn said(tag: &str, usual: SocketAddr) -> Option<SocketAddr> {
    if let Ok(port) = tag.parse() {
        return Some(SocketAddr::new(usual.ip(), port));
    }
    if let Ok(ip) = tag.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, usual.port()));
    }
    let address: SocketAddr = tag.parse().ok()?;
    Some(SocketAddr::new(address.ip(), address.port()))
}

#[cfg(test)]
pub(super) mod tests;
