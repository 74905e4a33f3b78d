//! What the story looks for, each as one look that says what it saw instead.
//! Nothing here waits except [`until`].

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    APP,
    fleet::{Fleet, Member},
    http,
    report::Failure,
    site::Version,
};
use crate::{
    base::Digest,
    member::view::{ApplicationView, View},
};

/// How long a condition may take to come true. Slow machines are slow; what is
/// broken never comes true.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks again and again until it is so, or patience ends; then the failure
/// tells what was seen last.
pub(super) async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, Failure> {
    let start = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(seen) if start.elapsed() >= PATIENCE => {
                let seconds = PATIENCE.as_secs();
                return Err(Failure(format!("For {seconds} s it was not so that {what}: {seen}.")));
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// The view of one member.
pub(super) async fn view(member: &Member) -> Result<View, String> {
    member.client().view().await.map_err(|e| format!("{} says: {} {}", member.name, e.what, e.why))
}

/// The demonstration's application in a view.
pub(super) fn application(view: &View) -> Result<&ApplicationView, String> {
    let found = view.applications.iter().find(|a| a.name == APP);
    found.ok_or_else(|| format!("{} knows of no application {APP}", view.me))
}

/// Every member sees every member alive and with a vote.
pub(super) async fn all_alive(fleet: &Fleet) -> Result<(), String> {
    for member in &fleet.members {
        let view = view(member).await?;
        let (name, known) = (&view.me, view.members.len());
        if known != fleet.members.len() {
            return Err(format!("{name} knows {known} members"));
        }
        for other in &view.members {
            if other.state != "alive" {
                return Err(format!("{name} sees {} {}", other.name, other.state));
            }
            if !other.voter {
                return Err(format!("{name} sees {} without a vote", other.name));
            }
        }
    }
    Ok(())
}

/// Every live member counts every vote for this version.
pub(super) async fn unanimous(fleet: &Fleet, version: u64) -> Result<(), String> {
    for index in fleet.live() {
        let view = view(&fleet.members[index]).await?;
        let app = application(&view)?;
        if app.version != version || app.vote != "unanimous" {
            return Err(format!("{} sees version {}, {}", view.me, app.version, app.vote));
        }
    }
    Ok(())
}

/// Asks one member for one file and compares header and bytes.
pub(super) async fn serves_file(
    member: &Member,
    path: &str,
    number: u64,
    expected: Digest,
) -> Result<u64, String> {
    let response = http::get(member.site, &format!("/{path}")).await?;
    let name = &member.name;
    let wanted = format!("{APP}/{number}");
    if response.status != 200 || response.version != wanted {
        let (status, version) = (response.status, response.version);
        return Err(format!("{name} answers /{path} with {status}, Althing-Version {version:?}"));
    }
    if Digest::of_bytes(&response.body) != expected {
        let length = response.body.len();
        return Err(format!(
            "{name} answers /{path} with {length} other bytes than were published"
        ));
    }
    Ok(response.body.len() as u64)
}

/// Every live member serves this version, byte for byte. Bytes compared.
pub(super) async fn all_serve(fleet: &Fleet, number: u64, site: &Version) -> Result<u64, String> {
    let sample = site.sample();
    let mut compared = 0;
    for index in fleet.live() {
        for path in &sample {
            compared += serves_file(&fleet.members[index], path, number, site.files[path]).await?;
        }
    }
    Ok(compared)
}

/// What every live member sees, in short: for the report of a failure.
pub(super) async fn excerpts(fleet: &Fleet) -> Value {
    let mut list = Vec::new();
    for index in fleet.live() {
        let member = &fleet.members[index];
        let log = member.log_tail();
        list.push(match view(member).await {
            Err(error) => json!({ "member": member.name, "error": error, "log": log }),
            Ok(view) => json!({
                "member": view.me,
                "sequence": view.sequence,
                "health": view.health,
                "reasons": view.reasons,
                "members": view.members.iter().map(|m| format!(
                    "{} {}{}", m.name, m.state, if m.voter { "" } else { ", no vote" }
                )).collect::<Vec<_>>(),
                "window": view.window,
                "outcomes": view.outcomes.iter().take(3).collect::<Vec<_>>(),
                "app": application(&view).ok().map(|a| json!({
                    "version": a.version, "vote": a.vote, "positions": a.positions,
                    "work": a.work, "error": a.error,
                })),
                "log": log,
            }),
        });
    }
    Value::Array(list)
}
