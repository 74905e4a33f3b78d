//! Servers that hold the content already: each signs what stands at a path, and their
//! copies are counted as votes are. Nothing is changed by that; what a majority holds is
//! then published like anything else.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{content::Content, manifest::Manifest, services::Told};
use crate::base::{Reason, Refusal};

/// How often whoever waits hears that it goes on.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What stands at a path on one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The signature of it, as that of a version.
    pub root: String,
    /// Regular files.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// The patterns that the manifest in `path` has of what belongs to nobody's vote.
pub fn ignored(path: &std::path::Path) -> Result<Vec<String>, Refusal> {
    Ok(Manifest::load(path)?.application.ignore)
}

/// Signs what stands at `path` without what `ignore` matches, and says so now and then
/// while it reads.
pub(super) async fn sign(
    content: Content,
    path: PathBuf,
    ignore: Vec<String>,
    to: &mpsc::Sender<Told>,
) -> Told {
    let refuse = |why: String| {
        Told::Refused(Refusal::new(
            Reason::Invalid,
            "This copy was not signed.",
            why,
            "See to it that the directory is there and can be read, and try again.",
        ))
    };
    if !path.is_absolute() {
        return refuse(format!("{} is not an absolute path.", path.display()));
    }
    let mut signing = spawn_blocking(move || content.sign(&path, &ignore));
    loop {
        tokio::select! {
            done = &mut signing => {
                return match done {
                    Ok(Ok(staged)) => Told::Signed(Signed {
                        root: staged.root.to_string(),
                        files: staged.files,
                        bytes: staged.bytes,
                    }),
                    Ok(Err(error)) => refuse(format!("{error}.")),
                    Err(_) => refuse("This member stops.".to_owned()),
                };
            }
            () = tokio::time::sleep(TELL_EVERY) => {
                // Nobody may listen any more; then this ends with whoever answers.
                let _gone = to.send(Told::Signing).await;
            }
        }
    }
}
