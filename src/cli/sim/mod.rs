//! `althing sim`: a cluster that does not exist, run in virtual time before it
//! is built. Reads the options and the script, shows progress, prints what
//! came of it; what happens is `crate::sim`'s, and it touches no network.

mod plot;
mod report;

use std::{
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{args, output::Output};
use crate::{
    base::{Reason, Refusal},
    sim::{self, Engine, Measured, Progress, Rates, Scenario, WHOLE_MAX, Weather},
};

/// The longest script, bytes.
const SCRIPT_MAX: u64 = 1 << 20;
/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);

pub(super) fn run(options: &args::Sim, output: &Output) -> Result<ExitCode, Refusal> {
    let scenarios = scenarios(options)?;
    let mut runs: Vec<(Measured, Duration)> = Vec::new();
    for scenario in &scenarios {
        let begun = Instant::now();
        let mut meter = Meter { output, begun, shown: begun, members: scenario.members };
        let measured =
            sim::simulate_on(scenario, &on_all_cores, &mut |progress| meter.show(progress));
        meter.clear();
        runs.push((measured.map_err(wrong)?, begun.elapsed()));
    }
    if let Some(path) = &options.plot {
        let svg = plot::draw(&runs.iter().map(|(run, _)| run).collect::<Vec<_>>());
        std::fs::write(path, svg).map_err(|error| {
            Refusal::new(
                Reason::Failed,
                "The plot was not written.",
                format!("{} can't be written: {error}.", path.display()),
                "Give a file in a directory that is there and can be written to.",
            )
        })?;
    }
    if output.json {
        let documents: Vec<serde_json::Value> = runs
            .iter()
            .map(|(run, real)| {
                let mut document = serde_json::to_value(run).unwrap_or_default();
                document["real_ms"] = json!(real.as_secs_f64() * 1e3);
                document
            })
            .collect();
        output.document(&json!({ "runs": documents }));
    } else {
        report::print(&runs, &scenarios, options.story, output);
        if let Some(path) = &options.plot {
            output.line(&format!("\nThe plot is in {}.", path.display()));
        }
    }
    let broken = runs.iter().any(|(run, _)| run.violation.is_some());
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn wrong(why: impl Into<String>) -> Refusal {
    let mut why: String = why.into();
    if !why.ends_with('.') {
        why.push('.');
    }
    Refusal::new(
        Reason::Invalid,
        "Nothing was simulated.",
        why,
        "See `althing sim --help` for the options and for what a script may say.",
    )
}

/// One for each size.
fn scenarios(options: &args::Sim) -> Result<Vec<Scenario>, Refusal> {
    let script = options.script.as_deref().map(read).transpose()?;
    let large = options.members.iter().any(|members| *members > WHOLE_MAX);
    let membership = options.membership || large;
    let mut scenarios = Vec::new();
    for &members in &options.members {
        let mut scenario = Scenario::calm(members, options.seed);
        scenario.engine = if membership { Engine::Membership } else { Engine::Whole };
        scenario.span = options.time.0;
        scenario.weather = weather(options);
        scenario.pace = match options.profile {
            args::WeatherWord::Lan => args::ProfileWord::Lan.pace(),
            args::WeatherWord::Wan => args::ProfileWord::Wan.pace(),
        };
        scenario.rates = Rates {
            crash: options.crash.map(|rate| rate.0),
            pause: options.pause.map(|rate| rate.0),
            partition: options.partition.map(|rate| rate.0),
            drift: options.drift.map(|rate| rate.0),
            publish: options.publish.map(|rate| rate.0),
        };
        scenario.slow = options.slow;
        scenario.bad_disks = options.bad_disks;
        scenario.skewed_clocks = options.clock_skew;
        let text = match &script {
            Some(text) => text.clone(),
            None if scenario.rates == Rates::default() => tour(&scenario),
            None => String::new(),
        };
        scenario.steps =
            sim::parse_script(&text, members).map_err(|error| match &options.script {
                Some(path) => wrong(format!("{}, {error}", path.display())),
                None => wrong(error.to_string()),
            })?;
        scenario.check().map_err(wrong)?;
        scenarios.push(scenario);
    }
    Ok(scenarios)
}

fn weather(options: &args::Sim) -> Weather {
    let mut weather = match options.profile {
        args::WeatherWord::Lan => Weather::LAN,
        args::WeatherWord::Wan => Weather::WAN,
    };
    if let Some(loss) = options.loss {
        weather.loss = loss.0;
    }
    if let Some(latency) = options.latency {
        (weather.delay_min, weather.delay_max) = latency.0;
    }
    weather
}

fn read(path: &Path) -> Result<String, Refusal> {
    let unread = |why: String| wrong(format!("{} can't be read: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| unread(error.to_string()))?.len();
    if size > SCRIPT_MAX {
        return Err(unread("it is larger than a script can be".to_owned()));
    }
    std::fs::read_to_string(path).map_err(|error| unread(error.to_string()))
}

/// See [`sim::Workers`].
fn on_all_cores(count: usize, work: &(dyn Fn(usize) + Sync)) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

/// What happens where nobody says anything: enough to see what the figures mean.
fn tour(scenario: &Scenario) -> String {
    let at = |share: u64| format!("at {}ms", scenario.span.as_millis() as u64 * share / 60);
    let last = scenario.members;
    let death = format!("{} silence m{last}\n{} restart m{last}\n", at(20), at(40));
    match scenario.engine {
        Engine::Membership => death,
        Engine::Whole => format!(
            "{} publish web 10MB\n{} drift m1\n{death}{} publish web 10MB\n",
            at(4),
            at(12),
            at(30)
        ),
    }
}

/// A line on the terminal that is written over.
struct Meter<'a> {
    output: &'a Output,
    begun: Instant,
    shown: Instant,
    members: usize,
}

impl Meter<'_> {
    fn show(&mut self, progress: Progress) {
        let now = Instant::now();
        if !self.output.is_watched() || now.duration_since(self.shown) < SHOW_EVERY {
            return;
        }
        self.shown = now;
        let real = now.duration_since(self.begun).as_secs();
        let text = match progress {
            Progress::Preparing { ready, members } => {
                format!("{ready} of {members} members are ready")
            }
            Progress::Running { done_us, total_us } => {
                let (done, total) = (done_us as f64 / 1e6, total_us as f64 / 1e6);
                format!("{} members: {done:.1} of {total:.1} s", self.members)
            }
        };
        eprint!("\r\x1b[K{text}, {real} s so far");
    }

    fn clear(&self) {
        if self.output.is_watched() && self.shown != self.begun {
            eprint!("\r\x1b[K");
        }
    }
}
