//! The catalog register: one Paxos register that holds the whole catalog,
//! replaced by compare-and-set.
//!
//! A single register without log or leader, after CASPaxos (Rystsov, 2018).
//! Acceptors are the roster's voters; any member may propose. Two things are
//! added to it, and `register` argues why they are safe:
//!
//! * what a proposer reads and does not know to be committed it first commits
//!   unchanged, so every sequence number has a certificate of its own;
//! * a catalog that changes the roster needs a majority of the roster before
//!   it *and* of its own, in both phases.
//!
//! **Invariant:** safety never depends on a clock, on the failure detector or
//! on the failover order. A promise or an accept leaves only after the record
//! that holds it is on disk. It does depend on every proposer using a ballot number for one
//! catalog only: where one does not, `evidence` is told.

mod certificate;
mod evidence;
mod lineage;
mod recovery;
mod register;
#[cfg(test)]
mod tests;

pub use certificate::{BallotNumber, CatchUp, Certificate, CertificateError, Committed};
pub use evidence::{Evidence, EvidenceError, Heard, Proof, Statement, verify_evidence};
pub use lineage::{Anchor, Lineage, Link, RosterChange};
pub use register::{Accepted, Effect, Message, Record, Register, Transition};
