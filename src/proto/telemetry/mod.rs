//! Telemetry: what is measured, how samples become one number, and for how long each
//! resolution is kept.
//!
//! Pure, as its floor is: samples are handed in with their time. What is on disk is in
//! `store::series`, what is read from the system in `driver::host`.
//!
//! **Invariant:** what was not measured is *unknown*. It is an `Option` that is empty, or a
//! member that is named as missing, and never a zero. A sample that is no finite number is
//! refused at the door ([`Sample::new`]).

pub mod aggregate;
pub mod answer;
mod packed;
pub mod rollup;
pub mod sketch;
pub mod statsd;
#[cfg(test)]
mod tests;

pub use aggregate::{Aggregate, Bucket, Counter, Distribution, Reading, Sample, Summary, Unfit};
pub use answer::{Answer, Grid, NotTaken, Row};
pub use rollup::{Cell, Level, Plan};
pub use sketch::Sketch;
