//! What a member is started with.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use super::Scrub;
use crate::{base::MemberName, gateway::Front};

/// The options of `althing up`, with their defaults resolved by the caller.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything of this member is kept.
    pub data: PathBuf,
    /// Its name in the roster; only used when it founds or joins.
    pub name: MemberName,
    /// Where the cluster's traffic arrives, UDP.
    pub bind: SocketAddr,
    /// Where others reach that; `bind` if not given.
    pub advertise: Option<SocketAddr>,
    /// Where sites are served, TCP; nowhere if not given.
    pub listen: Option<SocketAddr>,
    /// Where they are served over TLS, TCP; nowhere if not given.
    pub listen_tls: Option<SocketAddr>,
    /// What stands in front of that.
    pub front: Front,
    /// Where programs tell what they measure, UDP, beside the socket for that; nowhere if not
    /// given.
    pub statsd: Option<SocketAddr>,
    /// Members to join by, in this order; where a member that returns looks for the others.
    pub join: Vec<SocketAddr>,
    /// The token to join with.
    pub token: Option<String>,
    /// Its tags; when it founds or joins.
    pub tags: BTreeMap<String, String>,
    /// Whether it only waits to be brought in.
    pub standby: bool,
    /// How every byte is read again from time to time; never if not given.
    pub scrub: Option<Scrub>,
    /// How much content is sent to other members, bytes a second; no bound if not given.
    pub send_rate: Option<u64>,
    /// How much is received from them.
    pub receive_rate: Option<u64>,
    /// How wide the network is, 1 (local) to 8: the failure detector takes that much more
    /// time for everything. The same on all members.
    pub pace: u32,
    /// Whether a guard of virtual addresses is started: only where this program is `althing`.
    pub guard: bool,
}
