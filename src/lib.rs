//! Althing: many ordinary servers that behave as one machine, with no fixed
//! controller.
//!
//! A member runs in any tokio program. [`node::start`] takes [`node::Options`] and returns when the
//! member has founded or joined its cluster, or is back in it; its [`node::Handle`] is the way in.
//! docs/library.md says which parts of this crate are stable, and `examples/` has whole programs.
//!
//! ```
//! use althing::{
//!     base::MemberName,
//!     node::{Ended, Options, start},
//!     proto::rule,
//! };
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A cluster of one, which others can be invited to.
//! let scratch = tempfile::tempdir()?;
//! let mut options = Options::new(scratch.path().join("a"), MemberName::parse("a")?);
//! options.bind = "127.0.0.6:0".parse()?;
//! options.listen = None;
//! let member = start(options).await?;
//! assert!(member.ready.founded);
//! let view = member.handle().view().await?;
//! assert_eq!((view.me.as_str(), view.voters, view.majority), ("a", 1, 1));
//! member.handle().stop().await;
//! assert_eq!(member.wait().await, Ended::Stopped);
//!
//! // What is pure needs no member: a rule is read, or it is said where it is none.
//! let text = "critical when cpu > 90 for 2m then mail ops";
//! let wrong = rule::parse(text).unwrap_err();
//! assert!(text[wrong.at..].starts_with("90 for") && wrong.why.contains("90%"));
//! let rule = rule::parse("critical when cpu > 90% for 2m then mail ops")?;
//! assert_eq!(rule.to_string(), "critical when cpu > 90% for 2m then mail ops");
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

pub mod admin;
pub mod base;
pub mod cli;
pub mod driver;
pub mod gateway;
pub mod member;
pub mod net;
pub mod node;
pub mod proto;
pub mod sim;
pub mod store;

/// The guide for those who embed members: its example compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
pub struct Guide;
