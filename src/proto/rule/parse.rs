//! Rules as people write them, read with `winnow`. What is not understood is refused with the
//! place where it begins to be: bytes from the start of the text.
//!
//! ```text
//! rule      = [ "warning" | "critical" ] "when" held [ "until" held ] "then" action *( "," action ) *option
//! held      = condition [ "for" SPAN ]
//! condition = all *( "or" all )          all = one *( "and" one )
//! one       = "not" one | "(" condition ")" | time | compare
//! compare   = [ measured ] ( "<" | "<=" | ">" | ">=" ) NUMBER      without: that of "when"
//! measured  = [ "cluster" | "any" | "every" ] ( SERIES | fold "(" of [ "," SPAN ] ")" )
//! of        = SERIES | "events" KIND [ APP ] | "requests" "from" ORIGIN *( "|" ORIGIN )
//! time      = "time" HH:MM-HH:MM [ DAYS ] [ ZONE ]
//! ```

use std::time::Duration;

use winnow::{
    LocatingSlice,
    combinator::{alt, opt, separated},
    error::ParserError,
    prelude::*,
    stream::Location,
    token::take_while,
};

use super::{
    ACTIONS_MAX, Action, Compare, Condition, DEPTH_MAX, During, Fold, Held, Measured, Op, Options,
    PARTS_MAX, Rule, Scope, Severity, TEXT_MAX, What,
    during::is_zone,
    read::{
        Complaint, Input, Read, checked, must, named, number_of, of_run, run, shown, sign, space,
        span, word,
    },
    unit::Number,
    words::{ActionWord, ContinentWord, DayWord, FoldWord, OptionWord, PerWord, Sign, Word},
};
use crate::base::{
    AppName, Network, ServiceName,
    limits::BEGINNINGS_MAX,
    metric::{Kind, Series, SeriesError},
};

/// Why a text is no rule, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Wrong {
    /// Bytes from the start of the text, at a character.
    pub at: usize,
    /// A sentence without its point.
    pub why: String,
}

impl Wrong {
    /// The text with a caret under the place, in two lines; and a third that says why.
    pub fn shown(&self, text: &str) -> String {
        let line_start = text[..self.at].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let before = text[line_start..self.at].chars().count();
        let plain: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!("{plain}\n{:before$}^\n{}", "", self.why)
    }
}

/// Reads one rule.
///
/// # Errors
/// Where it is none, and why.
pub fn parse(text: &str) -> Result<Rule, Wrong> {
    if text.len() > TEXT_MAX {
        let at = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let why = format!("a rule has at most {TEXT_MAX} bytes: make two of it");
        return Err(Wrong { at, why });
    }
    let mut input = LocatingSlice::new(text);
    rule(&mut input).map_err(|complaint| complaint.wrong())
}

fn rule(input: &mut Input<'_>) -> Read<Rule> {
    let severity = alt((
        word(Word::Warning).value(Severity::Warning),
        word(Word::Critical).value(Severity::Critical),
    ));
    let severity = opt(severity).parse_next(input)?;
    let begins = if severity.is_some() { "`when`" } else { "`when`, `warning` or `critical`" };
    named(begins, word(Word::When)).parse_next(input)?;
    let mut parts = 0;
    let when = held(input, &mut parts, None)?;
    let only = when.condition.only();
    let until = match opt(word(Word::Until)).parse_next(input)? {
        Some(()) => Some(held(input, &mut parts, Some(only))?),
        None => None,
    };
    let next = match &until {
        None => "`and`, `or`, `for`, `until` or `then`",
        Some(_) => "`and`, `or`, `for` or `then`",
    };
    named(next, word(Word::Then)).parse_next(input)?;
    space(input)?;
    let at = input.current_token_start();
    let then: Vec<Action> =
        separated(1..=ACTIONS_MAX, must(action), sign(Sign::Comma)).parse_next(input)?;
    let options = options(input)?;
    let rule = Rule { severity, when, until, then, options };
    check(&rule).map_err(|why| Complaint::said(at, why))?;
    space(input)?;
    if !input.is_empty() {
        let end = "`,`, `keep`, `cooldown`, `repeat`, `at-most` or the end";
        return Err(Complaint { expected: vec![end], ..Complaint::from_input(input) });
    }
    Ok(rule)
}

/// What does not go together: a sentence without its point.
fn check(rule: &Rule) -> Result<(), String> {
    let Rule { then, options, .. } = rule;
    let moves = then.iter().any(|action| matches!(action, Action::Out | Action::In(_)));
    if options.keep.is_some() && !then.contains(&Action::Out) {
        return Err("`keep` says how many stay in service, and nobody is taken `out`".to_owned());
    }
    if then.contains(&Action::Out) && then.iter().any(|a| matches!(a, Action::In(_))) {
        return Err("`out` and `in` undo each other: make two rules of it".to_owned());
    }
    if moves && options.repeat.is_some() {
        return Err("`repeat` is for what is said, not for `out` and `in`: leave it out".to_owned());
    }
    if rule.is_wide() { check_wide(rule) } else { Ok(()) }
}

/// What a rule about the cluster can't say: it is about no member, and judged on any.
fn check_wide(rule: &Rule) -> Result<(), String> {
    if let Some(of) = rule.measured().into_iter().find(|of| !of.scope.is_wide()) {
        return Err(format!(
            "this rule is about the cluster, and `{of}` is of a member: write `any {of}`, or how \
             all of it becomes one number, as cluster avg(cpu)"
        ));
    }
    let local = rule
        .then
        .iter()
        .find(|action| matches!(action, Action::Out | Action::Restart { .. } | Action::Sync(_)));
    if let Some(action) = local {
        return Err(format!(
            "`{action}` is done by the member that a rule is about, and this one is about the \
             cluster: make a rule about a member of it"
        ));
    }
    match rule.options.at_most {
        Some((times, _)) if usize::from(times) > BEGINNINGS_MAX => Err(format!(
            "`at-most` counts up to {BEGINNINGS_MAX} times where a rule is about the cluster"
        )),
        _ => Ok(()),
    }
}

/// `only` is the one comparison of what it ends, if it has just one.
fn held(input: &mut Input<'_>, parts: &mut usize, only: Option<Option<&Measured>>) -> Read<Held> {
    let condition = any_of(input, parts, only, 0)?;
    let lasting = match opt(word(Word::For)).parse_next(input)? {
        Some(()) => span(input)?,
        None => Duration::ZERO,
    };
    Ok(Held { condition, lasting })
}

type Only<'a> = Option<Option<&'a Measured>>;

fn any_of(
    input: &mut Input<'_>,
    parts: &mut usize,
    only: Only<'_>,
    depth: usize,
) -> Read<Condition> {
    let mut all = vec![all_of(input, parts, only, depth)?];
    while opt(word(Word::Or)).parse_next(input)?.is_some() {
        all.push(all_of(input, parts, only, depth)?);
    }
    Ok(if all.len() == 1 { all.remove(0) } else { Condition::Any(all) })
}

fn all_of(
    input: &mut Input<'_>,
    parts: &mut usize,
    only: Only<'_>,
    depth: usize,
) -> Read<Condition> {
    let mut all = vec![one(input, parts, only, depth)?];
    while opt(word(Word::And)).parse_next(input)?.is_some() {
        all.push(one(input, parts, only, depth)?);
    }
    Ok(if all.len() == 1 { all.remove(0) } else { Condition::All(all) })
}

fn one(input: &mut Input<'_>, parts: &mut usize, only: Only<'_>, depth: usize) -> Read<Condition> {
    space(input)?;
    let at = input.current_token_start();
    if depth > DEPTH_MAX {
        return Err(Complaint::said(at, "there are too many brackets within each other"));
    }
    if opt(word(Word::Not)).parse_next(input)?.is_some() {
        return Ok(Condition::Not(Box::new(one(input, parts, only, depth + 1)?)));
    }
    if opt(sign(Sign::Opens)).parse_next(input)?.is_some() {
        let inner = any_of(input, parts, only, depth + 1)?;
        must(named("`and`, `or` or `)`", sign(Sign::Closes))).parse_next(input)?;
        return Ok(inner);
    }
    *parts += 1;
    if *parts > PARTS_MAX {
        let why = format!("a rule has at most {PARTS_MAX} comparisons: make two of it");
        return Err(Complaint::said(at, why));
    }
    if opt(word(Word::Time)).parse_next(input)?.is_some() {
        return during(input).map(Condition::During);
    }
    compare(input, only).map(Condition::Compare)
}

fn compare(input: &mut Input<'_>, only: Only<'_>) -> Read<Compare> {
    space(input)?;
    let at = input.current_token_start();
    let of = match only {
        Some(only) if input.starts_with(['<', '>']) => only.cloned().ok_or_else(|| {
            Complaint::said(at, "`when` compares not just one thing: say here which is meant")
        })?,
        _ => measured(input)?,
    };
    let op = alt((
        sign(Sign::AtMost).value(Op::AtMost),
        sign(Sign::Below).value(Op::Below),
        sign(Sign::AtLeast).value(Op::AtLeast),
        sign(Sign::Above).value(Op::Above),
    ));
    let op = must(named("`<`, `<=`, `>` or `>=`", op)).parse_next(input)?;
    let bound = |text| number(text).and_then(|number| number.bound(&of));
    let bound = must(checked("a number with its unit", bound)).parse_next(input)?;
    Ok(Compare { of, op, bound })
}

fn number(text: &str) -> Result<Number<'_>, String> {
    let expected = || format!("`{}` is no number: write 90%, 1.5GB, 250ms or 500/s", shown(text));
    let (rest, per) = match text.find('/') {
        None => (text, None),
        Some(at) => {
            let (rest, per) = text.split_at(at);
            (rest, Some(PerWord::read(per).ok_or_else(expected)?.seconds()))
        }
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (digits, unit) = rest.split_at(end);
    let fine = digits.len() <= 40 && digits.starts_with(|c: char| c.is_ascii_digit());
    let value = digits.parse::<f64>().ok().filter(|_| fine).ok_or_else(expected)?;
    Ok(Number { value, unit, per })
}

fn measured(input: &mut Input<'_>) -> Read<Measured> {
    let scope = alt((
        word(Word::Cluster).value(Scope::Cluster),
        word(Word::Any).value(Scope::Any),
        word(Word::Every).value(Scope::Every),
        word(Word::Member).value(Scope::Member),
    ));
    let scope = opt(scope).parse_next(input)?.unwrap_or(Scope::Member);
    space(input)?;
    let at = input.current_token_start();
    let fold =
        opt((of_run(fold_of), sign(Sign::Opens)).map(|(fold, ())| fold)).parse_next(input)?;
    let (what, window) = match fold {
        None => (What::Series(series(input)?), None),
        Some(fold) => {
            let what = within(input, fold)?;
            let window = match opt(sign(Sign::Comma)).parse_next(input)? {
                Some(()) => Some(span(input)?),
                None => None,
            };
            must(named("`,` and a span of time, or `)`", sign(Sign::Closes))).parse_next(input)?;
            (what, window)
        }
    };
    let measured = Measured { scope, fold, what, window };
    fits(&measured).map_err(|why| Complaint::said(at, why))?;
    Ok(measured)
}

fn fold_of(text: &str) -> Option<Fold> {
    Some(match FoldWord::read(text) {
        Some(FoldWord::Avg) => Fold::Avg,
        Some(FoldWord::Min) => Fold::Min,
        Some(FoldWord::Max) => Fold::Max,
        Some(FoldWord::Sum) => Fold::Sum,
        Some(FoldWord::Rms) => Fold::Rms,
        Some(FoldWord::Rate) => Fold::Rate,
        Some(FoldWord::Count) => Fold::Count,
        Some(FoldWord::Share) => Fold::Share,
        // `pN` stands for all of them.
        Some(FoldWord::Percentile) | None => {
            let of = text.strip_prefix('p').filter(|of| of.bytes().all(|b| b.is_ascii_digit()))?;
            Fold::Percentile(of.parse().ok().filter(|of| (1..=99).contains(of))?)
        }
    })
}

/// What stands in the brackets of a fold.
fn within(input: &mut Input<'_>, fold: Fold) -> Read<What> {
    match fold {
        Fold::Count => {
            must(named("`events`, as in count(events service, 10m)", word(Word::Events)))
                .parse_next(input)?;
            let kind = must(checked("a kind of event", |text| {
                let fine = text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
                if fine {
                    Ok(text.to_owned())
                } else {
                    Err(format!("`{}` is no kind", shown(text)))
                }
            }));
            let (mut kind, app) = (kind, opt(checked("an application", app_name)));
            let kind = kind.parse_next(input)?;
            let mut app = app;
            Ok(What::Events { kind, app: app.parse_next(input)? })
        }
        Fold::Share | Fold::Rate => {
            let from = opt((word(Word::Requests), word(Word::From))).parse_next(input)?;
            match from {
                Some(_) => origins(input).map(What::From),
                None if fold == Fold::Share => {
                    let expected = vec!["`requests from`, as in share(requests from MX|CA, 10m),"];
                    space(input)?;
                    Err(Complaint { expected, cut: true, ..Complaint::from_input(input) })
                }
                None => series(input).map(What::Series),
            }
        }
        _ => series(input).map(What::Series),
    }
}

/// `MX|CA|10.0.0.0/8`: countries and continents by two letters, and networks.
fn origins(input: &mut Input<'_>) -> Read<Vec<String>> {
    let one = |text: &str| {
        let code = text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase());
        let known = code || text.parse::<Network>().is_ok();
        let why = "is no origin: write the two capital letters of a country, as MX, `continent:` \
                   and those of one, as continent:EU, or a network, as 10.0.0.0/8";
        let continent = text.strip_prefix(Word::Continent.word());
        let known = known || continent.is_some_and(|c| ContinentWord::read(c).is_some());
        if known { Ok(text.to_owned()) } else { Err(format!("`{}` {why}", shown(text))) }
    };
    separated(1..=32, must(checked("an origin, as MX,", one)), sign(Sign::Bar)).parse_next(input)
}

/// `NAME`, `NAME LABEL` or `NAME "LABEL WITH SPACES"`.
fn series(input: &mut Input<'_>) -> Read<Series> {
    space(input)?;
    let at = input.current_token_start();
    let name = must(named("what is measured, as cpu,", run)).parse_next(input)?;
    let quoted = |input: &mut Input<'_>| -> Read<String> {
        sign(Sign::Quote).parse_next(input)?;
        let label = take_while(0.., |c: char| c != '"' && !c.is_control()).parse_next(input)?;
        must(named("a closing quote", Sign::Quote.word().void())).parse_next(input)?;
        Ok(label.to_owned())
    };
    space(input)?;
    let behind = input.current_token_start();
    let label = opt(alt((quoted, run.map(str::to_owned)))).parse_next(input)?;
    let text = match label {
        Some(label) => format!("{name} {label}"),
        None => name.to_owned(),
    };
    Series::parse(&text).map_err(|why| match why {
        SeriesError::Label { name, .. } => {
            let next = "`<`, `<=`, `>`, `>=`, `,` or `)`";
            Complaint::said(behind, format!("`{name}` has no label: here {next} is expected"))
        }
        _ => Complaint::said(at, why.to_string()),
    })
}

/// Whether it can be measured so: else a sentence without its point.
fn fits(measured: &Measured) -> Result<(), String> {
    let Measured { scope, fold, what, window } = measured;
    let kind = match what {
        What::Series(series) => Some(series.kind()),
        What::Events { .. } | What::From(_) => None,
    };
    match (fold, kind) {
        (Some(Fold::Percentile(_)), Some(Kind::Gauge | Kind::Counter)) => {
            return Err(
                "percentiles are there of distributions, as p99(latency shop, 5m)".to_owned()
            );
        }
        (Some(Fold::Rate), Some(Kind::Gauge | Kind::Histogram)) => {
            return Err("this is no counter, and has no rate: write avg".to_owned());
        }
        (None, Some(Kind::Histogram)) => {
            return Err("this is a distribution: say which number of it, as p99(latency shop, 5m)"
                .to_owned());
        }
        (Some(Fold::Sum), Some(_)) if !scope.is_wide() => {
            return Err("a sum is one over members: write cluster sum(...)".to_owned());
        }
        (None, _) if *scope == Scope::Cluster => {
            return Err("say how the members' numbers become one, as cluster avg(cpu)".to_owned());
        }
        _ => {}
    }
    let over_time = matches!(fold, Some(Fold::Count | Fold::Share | Fold::Percentile(_)))
        || matches!(what, What::From(_));
    if over_time && window.is_none() {
        return Err("say over how long, as in count(events service, 10m)".to_owned());
    }
    let folds_members = matches!(scope, Scope::Cluster);
    if fold.is_some() && window.is_none() && !folds_members && *fold != Some(Fold::Rate) {
        return Err("say over how long, as in avg(cpu, 5m), or of all: cluster avg(cpu)".to_owned());
    }
    if window.is_some_and(|window| !(WINDOW_MIN..=WINDOW_MAX).contains(&window)) {
        return Err("a window is from 10 s to 7 days long".to_owned());
    }
    Ok(())
}

/// Less is too few samples to say anything.
const WINDOW_MIN: Duration = Duration::from_secs(10);
/// More is asked of the disk each time.
const WINDOW_MAX: Duration = Duration::from_secs(7 * 86_400);

fn during(input: &mut Input<'_>) -> Read<During> {
    let times = must(checked("a time of the day, as 18:00-23:00,", |text| {
        let none = || format!("`{}` is no time of the day: write 18:00-23:00", shown(text));
        let (from, to) = text.split_once('-').ok_or_else(none)?;
        let (from, to) = (minute(from).ok_or_else(none)?, minute(to).ok_or_else(none)?);
        if from == to {
            return Err("it ends when it begins: write 00:00-24:00 for the whole day".to_owned());
        }
        if from == 1_440 {
            return Err("24:00 is where a day ends: write 00:00".to_owned());
        }
        Ok((from, to))
    }));
    let (mut times, mut days) = (times, opt(of_run(days_of)));
    let (from, to) = times.parse_next(input)?;
    let days = days.parse_next(input)?.unwrap_or([true; 7]);
    space(input)?;
    let at = input.current_token_start();
    // Words of the language begin with small letters.
    let mut zone = opt(of_run(|text| {
        text.starts_with(|c: char| c.is_ascii_uppercase()).then(|| text.to_owned())
    }));
    let zone = zone.parse_next(input)?;
    if let Some(unknown) = zone.as_ref().filter(|name| !is_zone(name)) {
        let why = format!("there is no time zone `{}`: write one as Europe/Berlin", shown(unknown));
        return Err(Complaint::said(at, why));
    }
    Ok(During { from, to, days, zone })
}

fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |part: &str| {
        let plain = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours)?, two(minutes).filter(|_| minutes.len() == 2)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= 1_440).then_some(minute)
}

/// `mon-fri`, `sat+sun`, `fri-mon`.
fn days_of(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DayWord::ALL.iter().position(|day| day.word() == name);
    let mut days = [false; 7];
    for part in text.split('+') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let mut at = first;
        loop {
            days[at] = true;
            if at == last {
                break;
            }
            at = (at + 1) % 7;
        }
    }
    Some(days)
}

fn action(input: &mut Input<'_>) -> Read<Action> {
    space(input)?;
    let at = input.current_token_start();
    let expected = "an action: `mail`, `webhook`, `run`, `out`, `in`, `restart`, `sync` or `log`,";
    let verb = named(expected, run).parse_next(input)?;
    let Some(verb) = ActionWord::read(verb) else {
        return Err(Complaint { at, expected: vec![expected], said: None, cut: true });
    };
    Ok(match verb {
        ActionWord::Mail => Action::Mail(name(input, "whom, by a name of the settings,")?),
        ActionWord::Webhook => {
            Action::Webhook(name(input, "where to, by a name of the settings,")?)
        }
        ActionWord::Run => Action::Run(name(input, "which script, by its name,")?),
        ActionWord::Out => Action::Out,
        ActionWord::Log => Action::Log,
        ActionWord::In => {
            let count: u16 = number_of(input, "how many members, as 2,")?;
            if count == 0 {
                return Err(Complaint::said(at, "`in 0` brings in nobody: give at least 1"));
            }
            Action::In(count)
        }
        ActionWord::Restart => {
            let read = |text: &str| {
                let (app, service) = match text.split_once('/') {
                    Some((app, service)) => (app, Some(service)),
                    None => (text, None),
                };
                let app = app_name(app)?;
                let service = service.map(ServiceName::parse);
                let service = service.transpose().map_err(|why| why.to_string())?;
                Ok(Action::Restart { app, service })
            };
            must(checked("an application, or APPLICATION/SERVICE,", read)).parse_next(input)?
        }
        ActionWord::Sync => {
            let app = opt(of_run(|text| {
                let is_option = OptionWord::read(text).is_some();
                AppName::parse(text).ok().filter(|_| !is_option)
            }));
            let mut app = app;
            Action::Sync(app.parse_next(input)?)
        }
    })
}

fn name(input: &mut Input<'_>, expected: &'static str) -> Read<String> {
    let read = |text: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if text.len() <= 64 && text.bytes().all(fine) {
            Ok(text.to_owned())
        } else {
            Err(format!("`{}` is no name: letters, digits, hyphens, dots", shown(text)))
        }
    };
    must(checked(expected, read)).parse_next(input)
}

fn options(input: &mut Input<'_>) -> Read<Options> {
    let mut options = Options::default();
    loop {
        space(input)?;
        let at = input.current_token_start();
        let mut option = opt(of_run(OptionWord::read));
        let Some(option) = option.parse_next(input)? else { return Ok(options) };
        let is_twice = match option {
            OptionWord::Keep => {
                options.keep.replace(number_of(input, "how many, as 2,")?).is_some()
            }
            OptionWord::Cooldown => options.cooldown.replace(span(input)?).is_some(),
            OptionWord::Repeat => {
                let every = span(input)?;
                if every < Duration::from_secs(60) {
                    return Err(Complaint::said(
                        at,
                        "`repeat` is at least 1m: more often nobody reads it",
                    ));
                }
                options.repeat.replace(every).is_some()
            }
            OptionWord::AtMost => {
                let times: u16 = number_of(input, "how often, as 3,")?;
                must(named("`in` and a span of time, as in at-most 3 in 1h,", word(Word::In)))
                    .parse_next(input)?;
                if times == 0 {
                    return Err(Complaint::said(
                        at,
                        "`at-most 0` would never do anything: give at least 1",
                    ));
                }
                options.at_most.replace((times, span(input)?)).is_some()
            }
        };
        if is_twice {
            return Err(Complaint::said(at, format!("`{}` is there twice", option.word())));
        }
    }
}

fn app_name(text: &str) -> Result<AppName, String> {
    AppName::parse(text).map_err(|why| why.to_string())
}

impl Condition {
    /// What it measures, if that is just one thing.
    fn only(&self) -> Option<&Measured> {
        match self {
            Self::Compare(compare) => Some(&compare.of),
            Self::Not(inner) => inner.only(),
            Self::All(_) | Self::Any(_) | Self::During(_) => None,
        }
    }
}
