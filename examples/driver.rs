//! A driver of one's own: applications bring reminders, which are content like any other. Two
//! members, embedded in this program, hold them; what a version says is in force on both as soon
//! as it is live there. docs/drivers.md explains the first half of it.
//!
//! `cargo run --example driver`

use std::{collections::BTreeMap, error::Error, path::Path, time::Duration};

use althing::{
    base::{AppName, MemberName},
    driver::Definition,
    member::command::{Command, Outcome},
    node::{Handle, Live, Options, Publish, Running, start},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::timeout};

/// How long anything here may take.
const WITHIN: Duration = Duration::from_secs(30);
/// How often a driver looks even if nobody told it to.
const LOOK: Duration = Duration::from_secs(1);

/// The reminders of one application: what to say at which time of the day.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reminders {
    reminders: BTreeMap<String, String>,
}

impl Definition for Reminders {
    // From `x-` on, a name is never one of Althing's own.
    const NAME: &'static str = "x-reminders.toml";

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    // Equal reminders have to give equal bytes: a sorted map does.
    fn text(&self) -> Option<String> {
        let text = toml::to_string(self).expect("maps of text are always TOML");
        (!self.reminders.is_empty()).then_some(text)
    }

    // A version comes from others: whatever can be wrong with it is found here, and what it may
    // cost is bounded.
    fn check(&self) -> Result<(), Vec<String>> {
        let is_time = |text: &str| {
            let parts = text.split_once(':');
            let parts = parts.and_then(|(h, m)| Some((h.parse().ok()?, m.parse().ok()?)));
            parts.is_some_and(|(hour, minute): (u8, u8)| hour < 24 && minute < 60)
        };
        if self.reminders.len() > 100 {
            return Err(vec!["there are more than 100 reminders: have fewer".to_owned()]);
        }
        let wrong = self.reminders.keys().filter(|time| !is_time(time));
        let wrong: Vec<String> = wrong
            .map(|time| format!("{time:?} is no time of the day: write it as \"08:30\""))
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// What makes it so on one member. What can't be used changes nothing, what is in force already
/// is not done again, and it ends when it is told to.
async fn keep(member: Handle, app: AppName, in_force: mpsc::UnboundedSender<Live<Reminders>>) {
    let mut views = member.watch();
    let mut before = None;
    loop {
        // Something may have changed, or it is time to look anyway.
        let _either = timeout(LOOK, views.changed()).await;
        let Ok(live) = member.defined::<Reminders>(&app).await else { continue };
        if before.as_ref() != Some(&live) {
            // A real one would set its timers here.
            if in_force.send(live.clone()).is_err() {
                return;
            }
            before = Some(live);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let options = |name: &str, ip: &str| -> Result<Options, Box<dyn Error>> {
        let mut options = Options::new(scratch.path().join(name), MemberName::parse(name)?);
        options.bind = format!("{ip}:0").parse()?;
        options.listen = None; // nothing is served here
        Ok(options)
    };
    let first = start(options("first", "127.0.0.3")?).await?;
    let second = join(&first, options("second", "127.0.0.4")?).await?;

    // The driver runs on every member.
    let app = AppName::parse("office")?;
    let mut in_force = Vec::new();
    for member in [&first, &second] {
        let (send, receive) = mpsc::unbounded_channel();
        let driver = tokio::spawn(keep(member.handle().clone(), app.clone(), send));
        in_force.push((member.ready.name.clone(), driver, receive));
    }

    let site = scratch.path().join("site");
    std::fs::create_dir(&site)?;
    std::fs::write(site.join("index.html"), "<h1>The office</h1>\n")?;
    for (time, text) in [("08:30", "water the plants"), ("17:00", "close the windows")] {
        let version = publish(&first, &app, &site, time, text).await?;
        println!("version {version} is published");
        for (name, _, receive) in &mut in_force {
            let live = until(receive, version).await?;
            println!("{name}: version {version} is live, in force is {:?}", live.definition);
        }
    }
    // What is wrong never becomes a version.
    match publish(&first, &app, &site, "8 o'clock", "wake up").await {
        Ok(version) => return Err(format!("version {version} has a broken time").into()),
        Err(why) => println!("refused: {why}"),
    }

    for (_, driver, _) in &in_force {
        driver.abort();
    }
    first.handle().stop().await;
    second.handle().stop().await;
    println!("ended: {:?}, {:?}", first.wait().await, second.wait().await);
    Ok(())
}

/// Publishes `site` with one reminder, and says as which version.
async fn publish(
    member: &Running,
    app: &AppName,
    site: &Path,
    time: &str,
    text: &str,
) -> Result<u64, Box<dyn Error>> {
    let reminders = Reminders { reminders: [(time.to_owned(), text.to_owned())].into() };
    let publish = Publish { app: Some(app.clone()), ..Publish::new(site) };
    let publish = publish.define(&reminders).map_err(|wrong| wrong.join("; "))?;
    match member.handle().publish(publish).await? {
        Outcome::Published { version, .. } => Ok(version),
        other => Err(format!("a version was expected, and not {other:?}").into()),
    }
}

/// What is in force once `version` is live.
async fn until(
    in_force: &mut mpsc::UnboundedReceiver<Live<Reminders>>,
    version: u64,
) -> Result<Live<Reminders>, Box<dyn Error>> {
    let waiting = async {
        while let Some(live) = in_force.recv().await {
            if live.version == version {
                return Ok(live);
            }
        }
        Err("the driver ended".into())
    };
    timeout(WITHIN, waiting).await?
}

/// Starts a second member, which joins the cluster of `first`; returns when it has its vote.
async fn join(first: &Running, mut options: Options) -> Result<Running, Box<dyn Error>> {
    let seed = rand::random::<[u8; 32]>();
    let invite = Command::Invite { seed, uses: 1, valid_s: 3_600 };
    let Outcome::Invited { token, .. } = first.handle().command(invite).await? else {
        return Err("an invitation was expected".into());
    };
    options.join = vec![first.ready.cluster_address];
    options.token = Some(token);
    let second = start(options).await?;
    let mut views = second.handle().watch();
    let all_vote = views
        .wait_for(|view| view.members.len() == 2 && view.members.iter().all(|member| member.voter));
    timeout(WITHIN, all_vote).await??;
    Ok(second)
}
