//! What of a running member can be set anew, beside what its gateway is given: how fast
//! content goes out and comes in, and how it is scrubbed. It outlives the loop, so that a
//! member which goes on with another key goes on with what was said last.

use tokio::sync::watch;

use super::{Scrub, rate::Rate};

/// What is shared by those who set it and those who keep to it. All clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Tuning {
    /// How fast content is sent.
    pub sending: Rate,
    /// How fast it is received.
    pub receiving: Rate,
    /// How every byte is read again from time to time; never if there is none.
    pub scrub: watch::Sender<Option<Scrub>>,
}

impl Tuning {
    /// Rates in bytes a second; no bound if none is given.
    pub fn new(scrub: Option<Scrub>, send_rate: Option<u64>, receive_rate: Option<u64>) -> Self {
        Self {
            sending: Rate::new(send_rate),
            receiving: Rate::new(receive_rate),
            scrub: watch::Sender::new(scrub),
        }
    }

    /// Sets all of it anew; what is as before goes on undisturbed.
    pub fn set(&self, scrub: Option<Scrub>, send_rate: Option<u64>, receive_rate: Option<u64>) {
        self.sending.set(send_rate);
        self.receiving.set(receive_rate);
        self.scrub.send_if_modified(|before| {
            let differs = *before != scrub;
            *before = scrub;
            differs
        });
    }
}
