//! Chaos: clusters of real processes, each member in a network namespace of
//! its own, while links lose, are cut one way or both, crawl; while members are
//! killed, stopped for longer than the suspicion lasts, restarted, upgraded,
//! left without disk space. Clients read from every member and publish all the
//! while, and what they and the members say is checked against the same
//! invariants as the simulator's (`src/sim/check.rs`), from outside.
//!
//! It needs root, iproute2 and iptables, and fails where it can't make its
//! namespaces: a test that is skipped in silence is no test. Nothing that it
//! makes is seen outside: every scenario runs in a process, a network and a
//! mount namespace of its own (`scenario.rs`), and ends with it.
//!
//!     cargo test --test chaos
//!     ALTHING_CHAOS_SEED=7 cargo test --test chaos kills -- --nocapture
//!
//! Each scenario prints its seed when it starts. The schedule of faults follows
//! from the seed; how the processes fall in with it is the system's choice, so
//! a seed that failed is likely, and not certain, to fail again.

#![expect(clippy::disallowed_methods, reason = "these tests look at other processes in real time")]

mod account;
mod cluster;
#[expect(dead_code, reason = "tests/refusals.rs needs more of it")]
#[path = "../common/mod.rs"]
mod common;
mod network;
mod publisher;
mod scenario;
mod storms;
mod upgrade;
mod watch;
mod whole;
