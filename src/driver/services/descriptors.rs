//! Open files: a member that serves needs many, and the limit that it is started with is
//! often 1,024. It raises its own as far as it may. What it starts gets back what it had
//! itself, because programs that use select(2) break with more.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process was started with.
static INHERITED: OnceLock<Rlimit> = OnceLock::new();

/// Raises this process's limit on open files as far as it may; to be called once, before
/// anything is started. Where that fails, it goes on with what it has.
pub fn raise() {
    let inherited = *INHERITED.get_or_init(|| getrlimit(Resource::Nofile));
    let raised = Rlimit { current: inherited.maximum, maximum: inherited.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}

/// What programs are given that ask for nothing else; none where nothing was raised.
pub(super) fn inherited() -> Option<Rlimit> {
    INHERITED.get().copied()
}
