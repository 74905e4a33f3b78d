//! An action of one's own: a rule of an application says when, and this program, which the member
//! is embedded in, does something about it that Althing knows nothing of. Here it sheds load while
//! its queue is too long.
//!
//! `cargo run --example action`

use std::{collections::BTreeSet, error::Error, path::Path, time::Duration};

use althing::{
    base::{AppName, MemberName},
    member::event::EventKind,
    node::{Handle, Options, Publish, start},
};
use tokio::{
    net::UnixDatagram,
    sync::{broadcast::error::RecvError, mpsc},
    time::{interval, timeout},
};

/// How long anything here may take.
const WITHIN: Duration = Duration::from_secs(30);
/// How often is looked even if no event says so.
const LOOK: Duration = Duration::from_secs(1);

const MANIFEST: &str = r#"
[application]
name = "shop"

[rules]
crowded = "warning when custom.queue > 10 then log"
"#;

/// What the action did.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    /// It began to shed load, in this episode.
    Shed(String),
    /// It takes everything again; the same episode is over.
    Took(String),
}

/// The action. It goes by what acts *now*, so it does nothing twice, misses no end, and takes up
/// where it was when the program is started again; events only say that it is time to look.
async fn act(member: Handle, app: AppName, did: mpsc::UnboundedSender<Did>) {
    let (mut events, mut look) = (member.events(), interval(LOOK));
    let mut shedding: BTreeSet<String> = BTreeSet::new();
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) if event.kind == EventKind::Rule => println!("event: {}", event.text),
                Ok(_) => continue,
                // Some were missed: all the more reason to look.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = look.tick() => {}
        }
        // The member stops, or can't say at the moment.
        let Ok(acting) = member.acting().await else { continue };
        // What is silenced does nothing, and neither does this.
        let ours = acting.into_iter().filter(|open| {
            open.key.app == app && open.key.rule.as_str() == "crowded" && !open.put_off
        });
        let now: BTreeSet<String> = ours.map(|open| open.episode).collect();
        let begun = now.difference(&shedding).map(|episode| Did::Shed(episode.clone()));
        let over = shedding.difference(&now).map(|episode| Did::Took(episode.clone()));
        for what in begun.chain(over) {
            if did.send(what).is_err() {
                return;
            }
        }
        shedding = now;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let data = scratch.path().join("member");
    let mut options = Options::new(&data, MemberName::parse("only")?);
    options.bind = "127.0.0.5:0".parse()?;
    options.listen = None; // nothing is served here
    let member = start(options).await?;

    let app = AppName::parse("shop")?;
    let (send, mut did) = mpsc::unbounded_channel();
    let action = tokio::spawn(act(member.handle().clone(), app, send));

    let site = scratch.path().join("site");
    std::fs::create_dir(&site)?;
    std::fs::write(site.join("index.html"), "<h1>The shop</h1>\n")?;
    std::fs::write(site.join("althing.toml"), MANIFEST)?;
    println!("published: {:?}", member.handle().publish(Publish::new(&site)).await?);

    let Did::Shed(episode) = measure(&data, 42, &mut did).await? else {
        return Err("a beginning was expected".into());
    };
    println!("the queue is too long: load is shed ({episode})");
    let ended = measure(&data, 3, &mut did).await?;
    if ended != Did::Took(episode) {
        return Err(format!("the end of that was expected, and not {ended:?}").into());
    }
    println!("the queue is short again: everything is taken");

    action.abort();
    member.handle().stop().await;
    println!("ended: {:?}", member.wait().await);
    Ok(())
}

/// Tells the member, as any program on its machine can, how long the queue is; until the action
/// has done something about it.
async fn measure(
    data: &Path,
    queue: u32,
    did: &mut mpsc::UnboundedReceiver<Did>,
) -> Result<Did, Box<dyn Error>> {
    let socket = UnixDatagram::unbound()?;
    let waiting = async {
        let mut tell = interval(LOOK);
        loop {
            tokio::select! {
                what = did.recv() => return what.ok_or("the action ended".into()),
                _ = tell.tick() => {
                    let line = format!("queue:{queue}|g");
                    socket.send_to(line.as_bytes(), data.join("metrics")).await?;
                }
            }
        }
    };
    timeout(WITHIN, waiting).await?
}
