//! F5, admin: how people and programs ask a running member.
//!
//! Two doors to the same reads. The Unix socket in the data directory has full
//! power: whoever may open it administers the member. The status port (TCP)
//! only reads, unless an operator's token is shown: `permit.rs` says what may be
//! done with one, `operator.rs` who is let in, and that each act is told first.
//!
//! ```text
//!                        socket   status port
//! GET  /api/v1/whoami                 token    {"operator", "expires", "member"}
//! POST /api/v1/command     x          token    JSON Command     -> {"ok": Outcome}
//! POST /api/v1/publish     x          token    JSON Publish     -> {"ok": Outcome}
//! POST /api/v1/bring                  token    Offer            -> Reply
//! POST /api/v1/bring/ID/have          token    IHaveList        -> Reply
//! POST /api/v1/bring/ID/update        token    UpdateList       -> Reply
//! POST /api/v1/bring/ID/publish       token                     -> {"ok": Outcome}
//! POST /api/v1/publish-edits x                 JSON Edits       -> {"ok": Outcome}
//! POST /api/v1/secrets     x                   JSON SecretEdits -> {"ok": Outcome}
//! POST /api/v1/inspect     x          token    JSON Question    -> {"ok": Findings}
//! POST /api/v1/services    x          token    JSON {member, ask} -> a line of JSON each
//! POST /api/v1/stop        x                                    -> {"ok": "stopping"}
//! GET  /api/v1/listening   x                                    -> Listening
//! GET  /api/v1/view        x          x        View
//! GET  /api/v1/series      x          x        Measured, ?series=PATTERN&from=MS&...
//! GET  /api/v1/levels      x          x        Levels, ?at=MS&for=MS&app=NAME
//! GET  /api/v1/events      x          x        [Event] of this member, ?after=NUMBER
//! GET  /api/v1/log         x          x        events of all members, newest first, ?since=MS&limit=N&...
//! GET  /api/v1/services    x          x        services of all members
//! GET  /api/v1/acting      x          x        rules that act about single members, of all
//! GET  /api/v1/checkups    x          x        program, clock and disk of all members; at the
//!                                              socket limits and permissions, too
//! GET  /api/v1/metrics     x          x        Metrics
//! GET  /api/v1/stream      x          x        server-sent events: view, event, metrics
//! GET  /metrics            x          x        Prometheus text
//! GET  /                   x          x        the status page
//! ```
//!
//! `token`: over the loopback interface, or over TLS from everywhere (`tls.rs`), with
//! `Authorization: Bearer althing-op-...`, and not everything that the socket takes.
//!
//! What is brought, and what is replied to it, is encoded as members do it among each other
//! (`node/uploads/lists.rs`).
//!
//! Whatever is not answered with what was asked for is `{"error": Refusal}`.
//!
//! **Invariant:** nothing secret is reachable by a read. A view has no keys and
//! no tokens, nor their hashes, events are written without them, and the one answer that holds a
//! token (`Outcome::Invited`) exists on the socket alone.

mod bring;
mod gathered;
mod guard;
mod operator;
mod page;
mod permit;
mod prometheus;
mod routes;
mod serve;
mod source;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod tls;

#[cfg(test)]
pub(crate) use prometheus::families_of;
pub use serve::{bind_socket, serve_socket, serve_status, serve_status_tls};
pub use source::Source;
pub use tls::{StatusCertificate, StatusTls};
