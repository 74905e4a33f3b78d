//! A member is reached at another address: it came back on another server, or in another network.
//!
//! The address stands in the member's entry of the roster, so this is a change of the roster, as a
//! tag is. The register makes one of whatever alters the roster; nothing here decides that. It
//! would be enough to keep addresses beside the roster, because who is a voter stays the same. But
//! then the digest that accepts are signed over would leave something of an entry out, and the
//! argument in `proto/catalog/register.rs` would need a second kind of entry. So: both rosters have
//! the same voters, and a majority of the one is a majority of the other; no majority is harder to
//! find than before, and none is left behind. The link in the lineage holds the whole new entry, by
//! which a newcomer and a member that was away check it as they check any other.
//!
//! Only the member itself proposes this, so its own word is all that there is to say where it runs.
//! Nobody is trusted because of an address: transports ask for the key. A wrong one costs others
//! the way to this member until it says another one, and gossip knows the right one meanwhile.

use std::net::SocketAddr;

use super::not_enrolled;
use crate::base::{
    MemberId, Reason, Refusal,
    catalog::{Catalog, Roster},
    planted::{self, Bug},
};

const WHAT: &str = "The address of this member was not changed in the roster.";

/// `member` is reached at `address` and not at `was`. Whoever has that address in the roster and is
/// `gone` from it has `was` instead: two that have changed places would wait for each other for
/// ever.
pub(super) fn readdress(
    next: &mut Catalog,
    member: MemberId,
    (was, address): (SocketAddr, SocketAddr),
    gone: Option<MemberId>,
) -> Result<bool, Refusal> {
    let entry = next.roster.get(member).ok_or_else(|| not_enrolled(WHAT))?;
    if entry.address == address {
        return Ok(false);
    }
    allowed(&next.roster, member, (was, address), gone)?;
    for entry in &mut next.roster.members {
        if entry.id == member {
            entry.address = address;
        } else if entry.address == address && gone == Some(entry.id) {
            entry.address = was;
        }
    }
    Ok(true)
}

/// Whether that can be said in `roster`. The refusal says what stands in the way.
pub(in crate::member) fn allowed(
    roster: &Roster,
    member: MemberId,
    (was, address): (SocketAddr, SocketAddr),
    gone: Option<MemberId>,
) -> Result<(), Refusal> {
    let refuse = |reason, why: String, todo: &str| Err(Refusal::new(reason, WHAT, why, todo));
    let entry = roster.get(member).ok_or_else(|| not_enrolled(WHAT))?;
    if entry.address != was {
        return refuse(
            Reason::Conflict,
            format!("It is {} there by now, and not {was}.", entry.address),
            "Nothing: it is looked at again.",
        );
    }
    let (to, from) = (address.ip().to_canonical(), was.ip().to_canonical());
    let everybody = matches!(to, std::net::IpAddr::V4(ip) if ip.is_broadcast());
    if to.is_unspecified() || to.is_multicast() || everybody || address.port() == 0 {
        return refuse(
            Reason::Invalid,
            format!("No member is reached at {address}."),
            "Start it with --advertise and the address at which others reach it.",
        );
    }
    if to.is_loopback() && !from.is_loopback() {
        return refuse(
            Reason::Invalid,
            format!("{address} leads every other server to itself."),
            "Start it with --advertise and the address at which others reach it.",
        );
    }
    let is_taken = |id| gone != Some(id) && !planted::is(Bug::AddressTaken);
    let mut others = roster.members.iter().filter(|m| m.id != member && m.address == address);
    if let Some(other) = others.find(|m| is_taken(m.id)) {
        return refuse(
            Reason::Conflict,
            format!("{address} is the address of {} there.", other.name),
            "Give each member an address of its own; if that one has another one now, start it \
             there, or remove it if it is gone for good.",
        );
    }
    Ok(())
}
