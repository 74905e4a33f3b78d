//! The story, one function for each step. A step is what it says or an error
//! that tells what was seen; nothing is assumed to have happened.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    APP,
    check::{self, application, until, view},
    fleet::Fleet,
    http,
    report::{Failure, Told},
    site::{self, Version},
};
use crate::{
    base::{AppName, Reason, Refusal},
    cli::{client::Client, operate::draw_seed, units},
    member::{
        command::{Command, Outcome},
        event::EventKind,
        view::{PublicationView, View},
    },
    node::Publish,
};

/// How long a publication may take, a coordinator's death included.
const PUBLISH_WITHIN: Duration = Duration::from_secs(120);
/// How large the second version is, MiB; larger each time it was over too soon.
const ARCHIVES_MIB: [usize; 3] = [16, 64, 192];
/// Between two looks whether the publication is under way.
const GLANCE: Duration = Duration::from_millis(2);
/// How long the first bytes are waited for once the publication is under way.
const LINGER: Duration = Duration::from_millis(30);

type Step = Result<Told, Failure>;

/// The cluster, and how far the story has come.
#[derive(Debug)]
pub(super) struct Story {
    pub fleet: Fleet,
    user_site: Option<PathBuf>,
    /// What the cluster should serve, and the archive in it, MiB.
    current: Option<(u64, Version)>,
    archive_mib: usize,
}

impl Story {
    pub fn new(fleet: Fleet, user_site: Option<PathBuf>) -> Self {
        Self { fleet, user_site, current: None, archive_mib: 0 }
    }

    /// How many may be lost while a majority remains.
    fn tolerated(&self) -> usize {
        (self.fleet.members.len() - 1) / 2
    }

    fn client(&self, index: usize) -> Client {
        self.fleet.members[index].client()
    }

    fn name(&self, index: usize) -> &str {
        &self.fleet.members[index].name
    }

    fn current(&self) -> Result<(u64, &Version), Failure> {
        let current = self.current.as_ref().map(|(number, version)| (*number, version));
        current.ok_or_else(|| Failure("nothing was published".to_owned()))
    }

    fn make(&self, number: u64) -> Result<Version, Failure> {
        let directory = self.fleet.directory().join(format!("site-{number}"));
        site::make(self.user_site.as_deref(), directory, number, self.archive_mib)
            .map_err(|e| Failure(format!("Version {number} of the site can't be made: {e}.")))
    }

    /// Where each member serves and shows its status.
    pub fn addresses(&self) -> Value {
        let members = self.fleet.members.iter();
        let list = members.map(|m| {
            json!({
                "name": m.name, "site": format!("http://{}/", m.site),
                "status": format!("http://{}/", m.status), "pid": m.pid(), "data": m.data,
            })
        });
        Value::Array(list.collect())
    }

    // 1.

    pub async fn find_each_other(&mut self) -> Step {
        let start = Instant::now();
        let count = self.fleet.members.len();
        let founder = &mut self.fleet.members[0];
        founder.spawn(None)?;
        founder.ready().await?;
        let founded_ms = millis(start);
        let uses = u32::try_from(count - 1)?;
        let invite = Command::Invite {
            seed: draw_seed("No invitation was issued.").map_err(say)?,
            uses,
            valid_s: 3_600,
        };
        let outcome = founder.client().command(&invite).await.map_err(say)?;
        let Outcome::Invited { token, .. } = outcome else {
            return Err(Failure("The invitation was answered with something else.".to_owned()));
        };
        let door = founder.cluster;
        // One after the other, so that the failover list has their order.
        for member in &mut self.fleet.members[1..] {
            member.spawn(Some((door, &token)))?;
            member.ready().await?;
        }
        let joined_ms = millis(start);
        until("every member sees every other alive and with a vote", async || {
            check::all_alive(&self.fleet).await
        })
        .await?;
        let ms = millis(start);
        let text = format!(
            "{} founded a cluster in {founded_ms} ms. The other {} joined through it with one \
             invitation; after {ms} ms every member knew all {count}, and each has a vote.",
            self.name(0),
            count - 1,
        );
        let details = json!({
            "members": count, "founded_ms": founded_ms, "joined_ms": joined_ms, "all_know_ms": ms,
        });
        Ok(Told { text, details })
    }

    // 2.

    pub async fn publish_first(&mut self) -> Step {
        let version = self.make(1)?;
        let start = Instant::now();
        publish(self.client(1), &version, 1).await?;
        let publish_ms = millis(start);
        let compared = until("every member serves version 1", async || {
            check::all_serve(&self.fleet, 1, &version).await
        })
        .await?;
        let text = format!(
            "Published through {} in {publish_ms} ms: {}. Every member serves version 1 with \
             identical bytes ({} asked for and compared).",
            self.name(1),
            units::count(version.files.len() as u64, "file"),
            units::bytes(compared),
        );
        let details = json!({
            "version": 1, "files": version.files.len(), "publish_ms": publish_ms,
            "bytes_compared": compared, "members": self.addresses(),
        });
        self.current = Some((1, version));
        Ok(Told { text, details })
    }

    // 3.

    pub async fn repair(&mut self) -> Step {
        let (number, version) = self.current()?;
        until("the vote is unanimous", async || check::unanimous(&self.fleet, number).await)
            .await?;
        let victim = &self.fleet.members[2];
        let watcher = &self.fleet.members[0];
        let before = view(victim).await?;
        let live = match &application(&before)?.path {
            Some(path) => PathBuf::from(path),
            None => victim.data.join("live").join(APP),
        };
        let whole = site::read(&live).map_err(|e| {
            Failure(format!("The live tree {} can't be read: {e}.", live.display()))
        })?;
        let after = last_event(&victim.client()).await?;
        let damage = site::damage(&live, &version.sample())
            .map_err(|e| Failure(format!("The live tree can't be changed: {e}.")))?;
        let start = Instant::now();
        let mut answers = 0_u64;
        let mut seen_to_differ = false;
        let asked: Vec<&String> =
            [Some(&damage.changed), damage.deleted.as_ref()].into_iter().flatten().collect();
        let repaired_ms = until("the live tree is as it was", async || {
            for path in &asked {
                let expected = version.files[*path];
                check::serves_file(victim, path, number, expected).await?;
                answers += 1;
            }
            let added = http::get(victim.site, &format!("/{}", damage.added)).await?;
            if added.status == 200 {
                return Err("the file added by hand is served".to_owned());
            }
            answers += 1;
            seen_to_differ |= differs(&view(watcher).await?, &victim.name);
            let now = site::read(&live).map_err(|e| e.to_string())?;
            match now == whole {
                true => Ok(millis(start)),
                false => Err(format!("{} files are not as they were", difference(&now, &whole))),
            }
        })
        .await?;
        let event = until("an event tells of the repair", async || {
            let events = victim.client().events(after).await.map_err(say)?;
            let repair = events.into_iter().find(|e| e.kind == EventKind::Repair);
            repair.map(|e| e.text).ok_or_else(|| "there is none".to_owned())
        })
        .await?;
        until("the vote is unanimous again", async || check::unanimous(&self.fleet, number).await)
            .await?;
        let unanimous_ms = millis(start);
        let deleted = damage.deleted.as_ref().map_or(String::new(), |d| format!(", {d} deleted"));
        let text = format!(
            "On {} {} was changed{deleted} and {} added by hand. After {repaired_ms} ms every byte \
             on its disk was right again, after {unanimous_ms} ms the vote unanimous. Meanwhile it \
             answered {answers} requests, each from version {number}. It says: {event}.",
            victim.name, damage.changed, damage.added,
        );
        let details = json!({
            "member": victim.name, "live_tree": live, "changed": damage.changed,
            "deleted": damage.deleted, "added": damage.added, "repaired_ms": repaired_ms,
            "unanimous_ms": unanimous_ms, "answers_meanwhile": answers,
            "seen_to_differ": seen_to_differ, "event": event,
        });
        Ok(Told { text, details })
    }

    // 4.

    pub async fn lose_the_coordinator(&mut self) -> Step {
        let order = view(&self.fleet.members[0]).await?.members;
        let (first, next) = (order[0].name.clone(), order[1].name.clone());
        let index_of = |name: &str| self.fleet.members.iter().position(|m| m.name == name);
        let unknown = || Failure("the failover list names a stranger".to_owned());
        let coordinator = index_of(&first).ok_or_else(unknown)?;
        let successor = index_of(&next).ok_or_else(unknown)?;
        let open = Command::WindowOpen { scope: Vec::new(), failover: None, automatic: false };
        self.client(coordinator).command(&open).await.map_err(say)?;
        let window = view(&self.fleet.members[coordinator]).await?.window;
        let presides = window.as_ref().map(|w| w.coordinator.as_str());
        if presides != Some(first.as_str()) {
            return Err(Failure(format!("{first} should preside, but {presides:?} does.")));
        }
        let via = (0..order.len()).find(|i| *i != coordinator && *i != successor);
        let via = via.ok_or_else(unknown)?;

        let mut attempts = 0;
        let (number, version, caught, outcome, took_ms) = loop {
            let archive = ARCHIVES_MIB.get(attempts).ok_or_else(|| {
                Failure(format!("{attempts} publications were over before one was caught."))
            })?;
            attempts += 1;
            self.archive_mib = *archive;
            let number = self.current()?.0 + 1;
            let version = self.make(number)?;
            let running = tokio::spawn({
                let (client, version) = (self.client(via), version.directory.clone());
                async move { publish_directory(client, version, number).await }
            });
            let caught = self.catch(coordinator, || running.is_finished()).await;
            let Some(caught) = caught else {
                // Too quick for us: it is in force, and the next one is larger.
                running.await??;
                self.current = Some((number, version));
                continue;
            };
            self.fleet.members[coordinator].kill().await?;
            let killed = Instant::now();
            let outcome = running.await??;
            break (number, version, caught, outcome, millis(killed));
        };
        let Published { takeovers, why } = outcome;
        if takeovers == 0 {
            return Err(Failure(format!("The window was never taken over: {why}.")));
        }
        self.current = Some((number, version));
        self.close_and_serve(successor, number, &next).await?;
        let bytes = units::bytes(caught.bytes);
        let how_far = match arrived(&caught) {
            0 => "while it was being copied".to_owned(),
            most => format!(
                "while it was being copied and at most {} of it had reached any other",
                units::bytes(most)
            ),
        };
        let text = format!(
            "{first} presided over a window; version {number} ({bytes}) was published through {}. \
             {first} was killed {how_far}. {next} took over and completed it {took_ms} ms after \
             the kill: {why}.",
            self.name(via),
        );
        let details = json!({
            "killed": first, "successor": next, "through": self.name(via), "version": number,
            "caught": caught, "takeovers": takeovers, "completed_ms": took_ms, "why": why,
            "attempts": attempts,
        });
        Ok(Told { text, details })
    }

    /// Looks until a publication is well under way and can't be committed yet.
    /// The coordinator is asked: nobody knows sooner how far it is.
    async fn catch(
        &self,
        coordinator: usize,
        is_over: impl Fn() -> bool,
    ) -> Option<PublicationView> {
        let mut since = None;
        while !is_over() {
            // A view that can't be had is looked for again.
            if let Ok(view) = view(&self.fleet.members[coordinator]).await {
                let majority = view.majority;
                let publication = view.window.and_then(|w| w.publication);
                let under_way =
                    |p: &PublicationView| p.phase == "staging" && p.whole.len() < majority;
                if let Some(publication) = publication.filter(under_way) {
                    let since = *since.get_or_insert_with(Instant::now);
                    if arrived(&publication) > 0 || since.elapsed() >= LINGER {
                        return Some(publication);
                    }
                }
            }
            tokio::time::sleep(GLANCE).await;
        }
        None
    }

    async fn close_and_serve(
        &self,
        successor: usize,
        number: u64,
        name: &str,
    ) -> Result<(), Failure> {
        until("the successor presides over the held window", async || {
            let window = view(&self.fleet.members[successor]).await?.window;
            match window {
                Some(w) if w.coordinator == name && w.publication.is_none() => Ok(()),
                other => Err(format!("the window is {other:?}")),
            }
        })
        .await?;
        self.client(successor).command(&Command::WindowClose).await.map_err(say)?;
        self.all_serve(number).await?;
        Ok(())
    }

    async fn all_serve(&self, number: u64) -> Result<u64, Failure> {
        let (_, version) = self.current()?;
        until(&format!("every live member serves version {number}"), async || {
            check::all_serve(&self.fleet, number, version).await
        })
        .await
    }

    // 5.

    pub async fn go_on_with_fewer(&mut self) -> Step {
        let mut killed = Vec::new();
        while self.fleet.dead().len() < self.tolerated() {
            killed.push(self.kill_last().await?);
        }
        let number = self.current()?.0 + 1;
        let version = self.make(number)?;
        let via = self.fleet.live()[0];
        let start = Instant::now();
        publish(self.client(via), &version, number).await?;
        let publish_ms = millis(start);
        self.current = Some((number, version));
        self.all_serve(number).await?;
        let (live, dead) = (self.fleet.live(), self.fleet.dead());
        let as_well = match killed.as_slice() {
            [] => "No more can be spared".to_owned(),
            killed => format!("{} killed as well", self.fleet.names(killed)),
        };
        let text = format!(
            "{as_well}: {} of {} are left, still a majority. Version {number} was published \
             through {} in {publish_ms} ms, and all that live serve it.",
            live.len(),
            live.len() + dead.len(),
            self.name(via),
        );
        let details = json!({
            "killed": self.fleet.names(&killed), "live": live.len(), "dead": dead.len(),
            "version": number, "publish_ms": publish_ms,
        });
        Ok(Told { text, details })
    }

    /// Kills the last live member.
    async fn kill_last(&mut self) -> Result<usize, Failure> {
        let last = self.fleet.live().last().copied();
        let last = last.ok_or_else(|| Failure("nobody is left to be killed".to_owned()))?;
        self.fleet.members[last].kill().await?;
        Ok(last)
    }

    // 6.

    pub async fn refuse_without_majority(&mut self) -> Step {
        let start = Instant::now();
        let killed = self.kill_last().await?;
        let survivor = self.fleet.live()[0];
        until("the survivors see that no majority is left", async || {
            let view = view(&self.fleet.members[survivor]).await?;
            match view.voters_live < view.majority {
                true => Ok(()),
                false => Err(format!("{} voters are live", view.voters_live)),
            }
        })
        .await?;
        let noticed_ms = millis(start);
        let number = self.current()?.0;
        let version = self.make(number + 1)?;
        let asked = Instant::now();
        let refusal = match order(self.client(survivor), &version.directory, number + 1).await? {
            Err(refusal) => refusal,
            Ok(outcome) => {
                return Err(Failure(format!("It was not refused, but ended so: {outcome:?}.")));
            }
        };
        let refused_ms = millis(asked);
        if refusal.reason != Reason::NoMajority {
            return Err(Failure(format!("It was refused for another reason: {refusal}.")));
        }
        self.all_serve(number).await?;
        let (live, dead) = (self.fleet.live().len(), self.fleet.dead().len());
        let Refusal { what, why, todo, .. } = &refusal;
        let text = format!(
            "{} killed too: {live} of {} are left, noticed after {noticed_ms} ms. Publishing is \
             refused within {refused_ms} ms: \"{what} {why} {todo}\" All that live still serve \
             version {number}.",
            self.name(killed),
            live + dead,
        );
        let details = json!({
            "killed": self.name(killed), "live": live, "dead": dead, "noticed_ms": noticed_ms,
            "refused_ms": refused_ms, "refusal": refusal, "version": number,
        });
        Ok(Told { text, details })
    }

    // 7.

    pub async fn all_return(&mut self) -> Step {
        let start = Instant::now();
        let back = self.fleet.dead();
        for index in &back {
            self.fleet.members[*index].spawn(None)?;
        }
        for index in &back {
            self.fleet.members[*index].ready().await?;
        }
        let ready_ms = millis(start);
        until("every member sees every other alive", async || check::all_alive(&self.fleet).await)
            .await?;
        let number = self.current()?.0;
        let what = format!("all agree on version {number}");
        until(&what, async || check::unanimous(&self.fleet, number).await).await?;
        let agreed_ms = millis(start);
        self.all_serve(number).await?;
        let served_ms = millis(start);
        let text = format!(
            "{} came back from their data directories alone. After {agreed_ms} ms all {} members \
             were alive and the vote on version {number} unanimous; all serve it.",
            self.fleet.names(&back),
            self.fleet.members.len(),
        );
        let details = json!({
            "returned": self.fleet.names(&back), "ready_ms": ready_ms, "agreed_ms": agreed_ms,
            "served_ms": served_ms, "version": number, "members": self.addresses(),
        });
        Ok(Told { text, details })
    }
}

/// The most that has arrived on a member that does not hold it whole, bytes.
fn arrived(publication: &PublicationView) -> u64 {
    let others = publication.progress.iter().filter(|(name, _)| !publication.whole.contains(*name));
    others.map(|(_, bytes)| *bytes).max().unwrap_or(0)
}

fn millis(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

fn say(refusal: Refusal) -> String {
    format!("{} {} {}", refusal.what, refusal.why, refusal.todo)
}

/// Whether a view says that this member holds something else.
fn differs(view: &View, member: &str) -> bool {
    let positions = application(view).map(|a| a.positions.as_slice()).unwrap_or_default();
    positions
        .iter()
        .any(|p| p.member == member && matches!(p.position.as_str(), "differs" | "nothing"))
}

fn difference(one: &site::Tree, other: &site::Tree) -> usize {
    let missing = other.iter().filter(|(path, digest)| one.get(*path) != Some(*digest)).count();
    missing + one.keys().filter(|path| !other.contains_key(*path)).count()
}

async fn last_event(client: &Client) -> Result<u64, Failure> {
    let events = client.events(0).await.map_err(say)?;
    Ok(events.last().map_or(0, |e| e.number))
}

/// How a publication ended well.
#[derive(Debug)]
struct Published {
    takeovers: u32,
    why: String,
}

async fn publish(client: Client, site: &Version, number: u64) -> Result<Published, Failure> {
    publish_directory(client, site.directory.clone(), number).await
}

async fn publish_directory(
    client: Client,
    directory: PathBuf,
    number: u64,
) -> Result<Published, Failure> {
    match order(client, &directory, number).await?.map_err(say)? {
        Outcome::Published { version, takeovers, why, .. } if version == number => {
            Ok(Published { takeovers, why })
        }
        other => Err(Failure(format!("Publishing version {number} ended so: {other:?}."))),
    }
}

/// Publishes; the inner result is the cluster's answer.
async fn order(
    client: Client,
    directory: &std::path::Path,
    number: u64,
) -> Result<Result<Outcome, Refusal>, Failure> {
    let publish = Publish {
        app: Some(AppName::parse(APP)?),
        message: format!("the demonstration's version {number}"),
        ..Publish::new(directory)
    };
    tokio::time::timeout(PUBLISH_WITHIN, client.publish(&publish)).await.map_err(|_| {
        let seconds = PUBLISH_WITHIN.as_secs();
        Failure(format!("Publishing version {number} had no end after {seconds} s."))
    })
}
