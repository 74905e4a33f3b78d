//! Virtual addresses, from what live versions define to what the shell puts on its interfaces.
//! Who holds which is for `proto/balance/lease` to find out; here is who may.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Member,
    event::{EventKind, Severity},
    io::Effect,
    message::Message,
};
use crate::{
    base::{AppName, MemberId, Time, VirtualAddress, catalog::Catalog, limits},
    proto::balance::lease::{self, Around, GivenUp, Leases, Taken},
};

/// For how long a member that said that it is about to stop holds no address: by then it has.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// One virtual address, for the view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressView {
    /// It, with the length of its prefix.
    pub address: String,
    /// The applications that have it.
    pub apps: Vec<String>,
    /// Who holds it, as far as the member that tells knows.
    pub holder: Option<String>,
}

/// What this member knows of addresses.
pub(super) struct Addresses {
    leases: Leases,
    /// What the live versions here define.
    defined: BTreeMap<AppName, BTreeSet<VirtualAddress>>,
    /// Why this member can hold none.
    unable: Option<String>,
    /// It hands over what it holds until then, and takes nothing.
    stopping: Option<Time>,
    /// What the shell was told last.
    told: BTreeMap<VirtualAddress, Time>,
}

impl Addresses {
    pub fn new(leases: Leases) -> Self {
        let (defined, told) = (BTreeMap::new(), BTreeMap::new());
        Self { leases, defined, unable: None, stopping: None, told }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.leases.deadline()
    }

    /// Each address once, whatever prefixes it is given.
    fn all(&self) -> BTreeMap<IpAddr, VirtualAddress> {
        let all = self.defined.values().flatten();
        all.map(|address| (address.ip(), *address)).take(limits::LEASES_MAX).collect()
    }

    fn of(&self, address: IpAddr) -> impl Iterator<Item = &AppName> {
        let has = move |(_, all): &(_, &BTreeSet<VirtualAddress>)| {
            all.iter().any(|other| other.ip() == address)
        };
        self.defined.iter().filter(has).map(|(app, _)| app)
    }
}

impl Member {
    /// Whether this member holds an address.
    pub fn holds_addresses(&self) -> bool {
        self.addresses.leases.held().next().is_some()
    }

    /// What the live versions here define, and why none can be held here.
    pub(super) fn on_addresses(
        &mut self,
        now: Time,
        defined: BTreeMap<AppName, BTreeSet<VirtualAddress>>,
        unable: Option<String>,
        effects: &mut Vec<Effect>,
    ) {
        let is_news = unable.is_some() && unable != self.addresses.unable;
        if let (true, Some(why)) = (is_news, &unable) {
            let text = format!(
                "this member can't hold virtual addresses: {why}; other members hold them, and \
                 everything else works"
            );
            self.tell(effects, Severity::Warning, EventKind::Address, None, text);
        }
        (self.addresses.defined, self.addresses.unable) = (defined, unable);
        self.addresses.leases.look(now);
    }

    /// This member stops in a moment: others take what it holds.
    pub(super) fn on_hand_over(&mut self, now: Time) {
        self.addresses.stopping = Some(now + STOPS_WITHIN);
        self.addresses.leases.look(now);
    }

    pub(super) fn on_address_message(
        &mut self,
        now: Time,
        from: MemberId,
        message: lease::Message,
        effects: &mut Vec<Effect>,
    ) {
        let mut wants = Vec::new();
        self.addresses.leases.handle(now, from, message, &mut wants);
        self.heed_leases(wants, effects);
    }

    /// Who the voters are may have changed.
    pub(super) fn addresses_committed(&mut self, now: Time, catalog: &Catalog) {
        let voters = catalog.roster.voters().map(|voter| voter.id).collect();
        self.addresses.leases.set_voters(now, voters);
    }

    pub(super) fn drive_addresses(
        &mut self,
        now: Time,
        catalog: &Catalog,
        effects: &mut Vec<Effect>,
    ) {
        if self.addresses.deadline().is_none_or(|due| now < due) {
            return;
        }
        self.addresses.stopping = self.addresses.stopping.filter(|until| *until > now);
        let around = Around {
            wanted: self.who_may_hold(now, catalog),
            able: self.addresses.unable.is_none(),
            leaving: self.leaving || self.addresses.stopping.is_some(),
        };
        let mut wants = Vec::new();
        self.addresses.leases.tick(now, &around, &mut wants);
        self.heed_leases(wants, effects);
    }

    /// Live members that hold one of the applications of an address and are in service.
    fn who_may_hold(&self, now: Time, catalog: &Catalog) -> lease::Candidates {
        let holders = |app: &AppName| -> BTreeSet<MemberId> {
            let placed = catalog.placed(app).into_iter().flat_map(|placed| placed.members());
            let fit = placed.filter(|m| {
                let reached = m.id == self.me || self.membership.is_reached(m.id);
                let has = |b: &crate::proto::vote::Ballot| {
                    !b.differing.iter().any(|d| &d.app == app && d.activated == 0)
                };
                reached && !m.standby && self.votes.fresh(now, m.id).is_some_and(has)
            });
            fit.map(|m| m.id).collect()
        };
        let mut wanted = lease::Candidates::new();
        for (app, addresses) in &self.addresses.defined {
            let holders = holders(app);
            for address in addresses {
                wanted.entry(address.ip()).or_default().extend(&holders);
            }
        }
        while wanted.len() > limits::LEASES_MAX {
            wanted.pop_last();
        }
        wanted
    }

    fn heed_leases(&mut self, wants: Vec<lease::Effect>, effects: &mut Vec<Effect>) {
        if wants.is_empty() {
            return;
        }
        let before = self.addresses.told.clone();
        let mut last = Vec::new();
        for want in wants {
            match want {
                // Who is down hears nothing, and is not to be dialled ten times a second.
                lease::Effect::Send { to, message } if self.membership.is_live(to) => {
                    last.push((to, message));
                }
                lease::Effect::Send { .. } | lease::Effect::Renew { .. } => {}
                lease::Effect::Take { address, why, .. } => self.tell_taken(address, why, effects),
                lease::Effect::Drop { address, why } => self.tell_given_up(address, why, effects),
            }
        }
        let all = self.addresses.all();
        let known = |(ip, until): (IpAddr, Time)| {
            let before = before.keys().find(|address| address.ip() == ip);
            all.get(&ip).or(before).map(|address| (*address, until))
        };
        self.addresses.told = self.addresses.leases.held().filter_map(known).collect();
        if self.addresses.told != before {
            effects.push(Effect::Addresses { held: self.addresses.told.clone() });
        }
        // After that: who hears that it is taken may count on it.
        for (to, message) in last {
            self.send(to, &Message::Address(message), effects);
        }
    }

    fn tell_taken(&mut self, address: IpAddr, why: Taken, effects: &mut Vec<Effect>) {
        let why = match why {
            Taken::Free => "nobody held it".to_owned(),
            Taken::Lapsed(from) => format!("{} was not heard of in time", self.name_of(from)),
            Taken::HandedOver(from) => format!("{} handed it over", self.name_of(from)),
        };
        let text = format!("address {address} taken: {why}");
        let app = self.addresses.of(address).next().cloned();
        self.tell(effects, Severity::Info, EventKind::Address, app, text);
    }

    fn tell_given_up(&mut self, address: IpAddr, why: GivenUp, effects: &mut Vec<Effect>) {
        let (severity, why) = match why {
            GivenUp::NoMajority => (
                Severity::Warning,
                "no majority of the voters answered in time, so another may take it".to_owned(),
            ),
            GivenUp::HandedOver(to) => (Severity::Info, format!("{} has it now", self.name_of(to))),
            GivenUp::Undefined => (Severity::Info, "no application here has it".to_owned()),
            GivenUp::Unfit => (Severity::Info, "this member may not hold it any more".to_owned()),
        };
        let text = format!("address {address} given up: {why}");
        let app = self.addresses.of(address).next().cloned();
        self.tell(effects, severity, EventKind::Address, app, text);
    }

    /// Each address that the live versions here define.
    pub(super) fn address_views(&self, now: Time) -> Vec<AddressView> {
        let view = |(ip, address): (IpAddr, VirtualAddress)| AddressView {
            address: address.to_string(),
            apps: self.addresses.of(ip).map(ToString::to_string).collect(),
            holder: self.addresses.leases.holder(now, ip).map(|holder| self.name_of(holder)),
        };
        self.addresses.all().into_iter().map(view).collect()
    }

    /// Why this member can hold no address although it should be able to.
    pub(super) fn unable_to_hold(&self) -> Option<&str> {
        let wanted = !self.addresses.defined.is_empty();
        self.addresses.unable.as_deref().filter(|_| wanted)
    }
}
