//! Replication: the three lists that members exchange, and the plan of a pull.
//!
//! The holder says what it has ([`IHaveList`]), the requester what it wants of
//! that ([`ActionList`]), and the answer is what changes, each item with its
//! content or with where the content lies ([`UpdateList`]). [`Pull`] decides
//! what to ask for and judges what comes; it holds no bytes and touches
//! neither wire nor disk.

mod lists;
mod pull;

pub use lists::{ActionList, Content, IHaveList, Update, UpdateList};
pub use pull::{Fault, Progress, Pull};
