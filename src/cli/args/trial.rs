//! What needs no cluster of one's own: the demo, and the simulation.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, ValueEnum};

use crate::{base::quantity, sim};

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  althing demo                     tell the story, then stay up until Ctrl-C
  althing demo --exit --json       end after it; one object for each step
  althing demo --site ./public     with a site of your own, which is only read

Everything happens on loopback addresses and in a temporary directory.
Ends with 1 if any step did not happen.")]
pub(in crate::cli) struct Demo {
    /// End after the story.
    #[arg(long)]
    pub exit: bool,
    /// Publish this directory instead of the built-in site.
    #[arg(long, value_name = "DIR")]
    pub site: Option<PathBuf>,
    /// How many members.
    #[arg(long, default_value_t = 5, value_name = "N",
          value_parser = clap::value_parser!(u8).range(3..=50))]
    pub members: u8,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  althing sim                                        five members, a tour of what can happen
  althing sim --members 20 --loss 5% --crash 30s,10s  how long do failures stay unnoticed?
  althing sim --members 10,100,1000 --plot sizes.svg  how does it grow?
  althing sim --members 200 --pause 5s,8s --time 10m  is anybody healthy taken for dead?
  althing sim --script monday.txt --story             what would happen if ...

A script has a line for each action, with its virtual time. # begins a comment.
  at 2s   publish web 10MB on m2      at 30s  pause m4          (resume m4)
  at 10s  kill m3       (silence m3)  at 35s  slow m1,m2        (fast m1,m2)
  at 12s  restart m3                  at 40s  join 2
  at 20s  partition m1,m2 | m3..m5    at 50s  leave m6
  at 22s  cut m1 > m2                 at 55s  remove m7
  at 25s  heal                        at 60s  rollback web
  at 26s  drift m2 web                at 65s  loss 5%
  at 27s  wipe m3 web                 at 70s  latency 1ms..20ms
  at 28s  rot m1 web                          (all, rest: more words for members)

Up to 50 members are run whole, as in production: catalog, votes, content, and every
invariant is checked at every step. More than that, up to 10,000: membership alone
(failures, gossip, traffic). The same seed gives the same run. It uses no network and
needs no member. Ends with 1 if an invariant was broken.")]
pub(in crate::cli) struct Sim {
    /// How many members; several sizes to compare them.
    #[arg(long, value_name = "N[,N...]", default_value = "5", value_delimiter = ',',
          value_parser = members)]
    pub members: Vec<usize>,
    /// Every choice by chance follows from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// For how long, in virtual time: 90s, 10m, 2h.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub time: VirtualTime,
    /// What happens at which time; without it and without a rate, a short tour.
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// The network: a local one, or sites far from each other; `up --profile` is the same.
    #[arg(long, default_value = "lan")]
    pub profile: WeatherWord,
    /// Packets that are lost [default: by profile].
    #[arg(long, value_name = "SHARE")]
    pub loss: Option<Loss>,
    /// What a packet takes: 1ms..20ms [default: by profile].
    #[arg(long, value_name = "FROM..TO")]
    pub latency: Option<Latency>,
    /// A process dies every so often, somewhere, and starts again after so long.
    #[arg(long, value_name = "EVERY[,FOR]")]
    pub crash: Option<Rate>,
    /// A process stands still every so often, for so long.
    #[arg(long, value_name = "EVERY[,FOR]")]
    pub pause: Option<Rate>,
    /// A minority is cut off every so often, for so long.
    #[arg(long, value_name = "EVERY[,FOR]")]
    pub partition: Option<Rate>,
    /// Live content is changed by hand every so often, on one member.
    #[arg(long, value_name = "EVERY")]
    pub drift: Option<Rate>,
    /// A version is published every so often.
    #[arg(long, value_name = "EVERY")]
    pub publish: Option<Rate>,
    /// So many members are starved: everything reaches them 20 to 300 ms late.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub slow: usize,
    /// Disks are slow, hang for a second now and then, and work on them fails.
    #[arg(long)]
    pub bad_disks: bool,
    /// Wall clocks are wrong by up to half an hour.
    #[arg(long)]
    pub clock_skew: bool,
    /// Run membership alone, also where whole members could be.
    #[arg(long)]
    pub membership: bool,
    /// Tell what happened, line by line.
    #[arg(long)]
    pub story: bool,
    /// Draw who knew of each failure when, as an SVG.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

fn members(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (2..=sim::MEMBERS_MAX).contains(&count) => Ok(count),
        _ => Err(format!("give a number from 2 to {}", sim::MEMBERS_MAX)),
    }
}

/// A span of virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct VirtualTime(pub Duration);

impl std::str::FromStr for VirtualTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match quantity::span(text)? {
            span if span < Duration::from_secs(1) => Err("give a second at least".to_owned()),
            span => Ok(Self(span)),
        }
    }
}

/// See [`quantity::share`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Loss(pub u32);

impl std::str::FromStr for Loss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        quantity::share(text).map(Self)
    }
}

/// See [`quantity::latency`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Latency(pub (Duration, Duration));

impl std::str::FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        quantity::latency(text).map(Self)
    }
}

/// `30s`, or `30s,5s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Rate(pub sim::Rate);

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (every, lasts) = text.split_once(',').unwrap_or((text, "5s"));
        let (every, lasts) = (quantity::span(every)?, quantity::span(lasts)?);
        if every < Duration::from_millis(1) {
            return Err("give a millisecond at least from one to the next".to_owned());
        }
        Ok(Self(sim::Rate { every, lasts }))
    }
}

/// See [`sim::Weather`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum WeatherWord {
    /// 0.1 to 2 ms, nothing lost.
    Lan,
    /// 10 to 80 ms, 0.5 % lost.
    Wan,
}
