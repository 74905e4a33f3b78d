//! F3, virtual addresses on this server's interfaces: puts them there and takes them off.
//!
//! Which are held, and until when, is told to the [`Keeper`]; it decides nothing. Three things
//! see to it that an address goes when its time is over, each where the one before fails:
//! the keeper takes it off; a *guard*, a tiny process of its own, takes it off where the member
//! was killed or stands still; and the kernel does by itself, after some seconds, where
//! the guard was killed as well.
//!
//! It needs the capabilities CAP_NET_ADMIN (to change addresses) and CAP_NET_RAW (to tell the
//! neighbours), and nothing else.

mod announce;
mod guard;
mod keeper;
mod netlink;

pub use guard::run as run_guard;
pub use keeper::{Config, Keeper};
