//! A member that has a new key starts again with it, in the same process: the
//! loop and the network are made anew, because all connections are those of the
//! old id. What serves people stays: the gateway with what it serves, the
//! socket for commands, the status page.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Ended, Options, keys,
    run::{self, Standing},
    start::{self, Kept},
};
use crate::base::{MemberId, Refusal};

/// How long a restart is tried: the port may not be free at once, the disk full.
const WITHIN: Duration = Duration::from_secs(60);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs the member, under one id after the other.
pub(super) async fn run_on(
    options: Options,
    kept: Kept,
    first: run::Begun,
    mut standing: Standing,
) -> Ended {
    let mut begun = first;
    loop {
        let ended = begun.run(&mut standing).await;
        let Ended::Rotated(to) = ended else {
            standing.end().await;
            return ended;
        };
        begun = match again(&options, &kept, to, &mut standing).await {
            Ok(begun) => begun,
            Err(refusal) => {
                standing.end().await;
                return Ended::Failed(Box::new(refusal));
            }
        };
    }
}

async fn again(
    options: &Options,
    kept: &Kept,
    to: MemberId,
    standing: &mut Standing,
) -> Result<run::Begun, Refusal> {
    let give_up = Instant::now() + WITHIN;
    loop {
        let refusal = match once(options, kept, to, standing).await {
            Ok(begun) => return Ok(begun),
            Err(refusal) => refusal,
        };
        if Instant::now() >= give_up {
            return Err(refusal);
        }
        tracing::warn!("this member could not take up its new key yet: {refusal}");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn once(
    options: &Options,
    kept: &Kept,
    to: MemberId,
    standing: &mut Standing,
) -> Result<run::Begun, Refusal> {
    let data = kept.data.clone();
    start::blocking(move || {
        let me = data.load_or_create_key(rand::random::<[u8; 32]>);
        let me = me.map_err(|e| start::of_store(&e))?.member();
        let next = keys::NextKeys::load(&data, me)?;
        keys::take_up(&data, &next, to).map_err(|e| start::of_store(&e))
    })
    .await?;
    let (parts, _) = start::prepare(options, kept).await?;
    run::begin(parts, standing)
}
