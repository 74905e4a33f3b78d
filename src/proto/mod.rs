//! F1: one pure machine each, blind to each other. A machine is fed an input
//! and the time and appends what is to be done; `member` wires them together.

pub mod balance;
pub mod catalog;
pub mod election;
pub mod membership;
pub mod replication;
pub mod rollout;
pub mod rule;
pub mod rumor;
pub mod telemetry;
pub mod vote;
pub mod window;
