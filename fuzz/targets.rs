//! Every decoder of what comes from the network or from a disk, as a function
//! of bytes that must not panic, hang, or take memory for a mere claim, and
//! whose result must survive being written and read again. What is decoded is
//! also used, as far as that is possible without a cluster.
//!
//! Here is the list; the targets themselves are in files by whom the bytes come from, each beside its
//! seeds.
//!
//! Read by `tests/fuzz_corpus.rs`, which replays the corpus in every test run,
//! and by the fuzzer in this folder.

use std::fmt::Debug;

use althing::base::wire::{self, Kind};
use serde::{Serialize, de::DeserializeOwned};

// With their paths, for whoever includes this file by its own.
#[path = "targets/agreed.rs"]
mod agreed;
#[path = "targets/clients.rs"]
mod clients;
#[path = "targets/content.rs"]
mod content;
#[path = "targets/definitions.rs"]
mod definitions;
#[path = "targets/disk.rs"]
mod disk;
#[path = "targets/measurements.rs"]
mod measurements;
#[path = "targets/members.rs"]
mod members;
#[path = "targets/operators.rs"]
mod operators;
#[path = "targets/sample.rs"]
mod sample;

/// One decoder.
pub struct Target {
    /// Its name, and the name of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Feeds it; panics where a rule is broken.
    pub run: fn(&[u8]),
    /// Real input to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 37] = [
    Target { name: "message", run: members::message, seeds: members::message_seeds },
    Target { name: "register", run: agreed::register, seeds: agreed::register_seeds },
    Target { name: "record", run: agreed::member_record, seeds: agreed::member_record_seeds },
    Target { name: "catalog", run: agreed::catalog, seeds: agreed::catalog_seeds },
    Target { name: "change", run: agreed::change, seeds: agreed::change_seeds },
    Target { name: "ballot", run: agreed::ballot, seeds: agreed::ballot_seeds },
    Target { name: "token", run: members::token, seeds: members::token_seeds },
    Target { name: "knock", run: members::knock, seeds: members::knock_seeds },
    Target { name: "welcome", run: members::welcome, seeds: members::welcome_seeds },
    Target { name: "packet", run: members::packet, seeds: members::packet_seeds },
    Target { name: "aside", run: members::aside, seeds: members::aside_seeds },
    Target { name: "exchange", run: members::exchange, seeds: members::exchange_seeds },
    Target { name: "rumor", run: members::rumors, seeds: members::rumor_seeds },
    Target { name: "lists", run: content::lists, seeds: content::lists_seeds },
    Target { name: "changes", run: content::tree_changes, seeds: content::tree_changes_seeds },
    Target { name: "uploads", run: content::uploads, seeds: content::uploads_seeds },
    Target { name: "tree", run: content::listing, seeds: content::listing_seeds },
    Target { name: "path", run: content::path, seeds: content::path_seeds },
    Target { name: "request", run: clients::http_request, seeds: clients::request_seeds },
    Target { name: "forwarded", run: clients::forwarded, seeds: clients::forwarded_seeds },
    Target { name: "manifest", run: definitions::manifest, seeds: definitions::manifest_seeds },
    Target { name: "addresses", run: definitions::addresses, seeds: definitions::addresses_seeds },
    Target { name: "hooks", run: definitions::hooks, seeds: definitions::hooks_seeds },
    Target { name: "routes", run: definitions::routes, seeds: definitions::routes_seeds },
    Target { name: "listeners", run: definitions::listeners, seeds: definitions::listeners_seeds },
    Target { name: "proxy_header", run: clients::proxy_header, seeds: clients::proxy_header_seeds },
    Target { name: "tunnel", run: clients::tunnel, seeds: clients::tunnel_seeds },
    Target { name: "rule", run: definitions::rule, seeds: definitions::rule_seeds },
    Target { name: "ask", run: measurements::ask, seeds: measurements::ask_seeds },
    Target { name: "answer", run: measurements::measured, seeds: measurements::measured_seeds },
    Target { name: "statsd", run: measurements::lines, seeds: measurements::lines_seeds },
    Target { name: "settings", run: definitions::settings, seeds: definitions::settings_seeds },
    Target { name: "secrets", run: definitions::secrets, seeds: definitions::secrets_seeds },
    Target { name: "json", run: operators::json, seeds: operators::json_seeds },
    Target { name: "edits", run: operators::edits, seeds: operators::edits_seeds },
    Target { name: "stat_cache", run: disk::stat_cache, seeds: disk::stat_cache_seeds },
    Target { name: "disk", run: disk::disk, seeds: disk::disk_seeds },
];

/// Decodes; what is decoded must come back the same when it is written again.
fn there_and_back<T>(kind: Kind, bytes: &[u8]) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let value: T = wire::decode(kind, bytes).ok()?;
    let again = wire::try_encode(kind, &value).expect("what was read can be written");
    assert!(again.len() <= bytes.len(), "the shortest encoding is the one that is written");
    assert_eq!(wire::decode::<T>(kind, &again).as_ref(), Ok(&value));
    Some(value)
}

fn encoded<T: Serialize>(kind: Kind, values: &[T]) -> Vec<Vec<u8>> {
    values.iter().map(|value| wire::encode(kind, value)).collect()
}
