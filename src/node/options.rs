//! What a member is started with.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::Scrub;
use crate::{base::MemberName, gateway::Front};

/// The options of `althing up`. [`Options::new`] has its defaults; every field may be changed
/// then. A later version may have more of them.
#[derive(Clone, Debug)]
#[non_exhaustive]
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
    /// Whether operators may bring content from their machines.
    pub uploads: bool,
    /// How wide the network is, 1 (local) to 8: the failure detector takes that much more
    /// time for everything. The same on all members.
    pub pace: u32,
    /// Whether a guard of virtual addresses is started: only where this program is `althing`.
    pub guard: bool,
}

impl Options {
    /// A member called `name` that keeps everything in `data`, with the defaults of
    /// `althing up`: the cluster's traffic on UDP port 7700 and sites on TCP port 8080 of all
    /// addresses, every byte read again once a day at 8 MB/s. It founds a cluster, or goes on
    /// with what it finds in `data`.
    ///
    /// Two things are not started here: the status page, which is
    /// [`serve_status`](crate::admin::serve_status), and the guard of virtual addresses, which
    /// starts this very program anew, and so has to be `althing` itself.
    pub fn new(data: impl Into<PathBuf>, name: MemberName) -> Self {
        let everywhere = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Self {
            data: data.into(),
            name,
            bind: everywhere(7700),
            advertise: None,
            listen: Some(everywhere(8080)),
            listen_tls: None,
            front: Front::default(),
            statsd: None,
            join: Vec::new(),
            token: None,
            tags: BTreeMap::new(),
            standby: false,
            scrub: Some(Scrub { every: Duration::from_secs(86_400), rate: 8_000_000 }),
            send_rate: None,
            receive_rate: None,
            uploads: false,
            pace: 1,
            guard: false,
        }
    }
}
