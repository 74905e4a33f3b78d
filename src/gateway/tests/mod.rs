//! Tests of the whole gateway: decisions in a table, then real sockets on
//! loopback and members that are pipes in memory.

mod access;
mod answers;
mod balancing;
mod counting;
pub(super) mod fake;
mod forwarding;
mod front;
mod http2;
mod ports;
mod proxying;
mod sizes;
mod sockets;
mod tls;
