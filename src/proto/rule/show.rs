//! Rules written out again, each in one way: what is read from that is the same rule.

use std::{fmt, time::Duration};

use super::{
    Action, Compare, Condition, During, Fold, Held, Measured, Op, Rule, Scope, Severity, What,
    judge::{Number, Readings},
    words::DayWord,
};
use crate::base::{
    metric::{Kind, Unit},
    quantity::show_span,
};

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.severity {
            Some(Severity::Warning) => f.write_str("warning ")?,
            Some(Severity::Critical) => f.write_str("critical ")?,
            None => {}
        }
        write!(f, "when {}", self.when)?;
        if let Some(until) = &self.until {
            write!(f, " until {until}")?;
        }
        let actions: Vec<String> = self.then.iter().map(Action::to_string).collect();
        write!(f, " then {}", actions.join(", "))?;
        if let Some(keep) = self.options.keep {
            write!(f, " keep {keep}")?;
        }
        if let Some(cooldown) = self.options.cooldown {
            write!(f, " cooldown {}", show_span(cooldown))?;
        }
        if let Some(repeat) = self.options.repeat {
            write!(f, " repeat {}", show_span(repeat))?;
        }
        if let Some((times, within)) = self.options.at_most {
            write!(f, " at-most {times} in {}", show_span(within))?;
        }
        Ok(())
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.fmt(f)?;
        match self.lasting {
            Duration::ZERO => Ok(()),
            lasting => write!(f, " for {}", show_span(lasting)),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |all: &[Condition], with: &str| {
            let all = all.iter().map(|one| match one {
                Self::All(_) | Self::Any(_) => format!("({one})"),
                _ => one.to_string(),
            });
            all.collect::<Vec<_>>().join(with)
        };
        match self {
            Self::All(all) => f.write_str(&joined(all, " and ")),
            Self::Any(all) => f.write_str(&joined(all, " or ")),
            Self::Not(inner) => match **inner {
                Self::All(_) | Self::Any(_) => write!(f, "not ({inner})"),
                _ => write!(f, "not {inner}"),
            },
            Self::Compare(compare) => compare.fmt(f),
            Self::During(during) => during.fmt(f),
        }
    }
}

impl Compare {
    /// What stands behind its numbers.
    fn unit(&self) -> (&'static str, &'static str) {
        match &self.of.what {
            _ if self.bound.of_total => ("%", ""),
            What::Series(series) => {
                let per = if series.kind() == Kind::Counter { "/s" } else { "" };
                (series.unit().symbol(), per)
            }
            What::Events { .. } => ("", ""),
            What::From(_) if self.of.fold == Some(Fold::Share) => (Unit::Percent.symbol(), ""),
            What::From(_) => ("", "/s"),
        }
    }

    /// With what was measured behind it, for people: `cpu > 90% (95.2%)`.
    fn told(&self, numbers: &[Option<Number>]) -> String {
        let (unit, per) = self.unit();
        let show = |number: &Option<Number>| match number {
            Some(Number { value, total: Some(total) }) if self.bound.of_total => {
                format!("{}%", round(value / total * 100.0))
            }
            Some(Number { value, .. }) if !self.bound.of_total => {
                format!("{}{unit}{per}", round(*value))
            }
            _ => "unknown".to_owned(),
        };
        let mut shown: Vec<String> = numbers.iter().take(TOLD_MAX).map(show).collect();
        if numbers.len() > TOLD_MAX {
            shown.push(format!("{} more", numbers.len() - TOLD_MAX));
        }
        format!("{self} ({})", shown.join(", "))
    }
}

/// Numbers that are told with one comparison: of each member one.
const TOLD_MAX: usize = 10;

/// To four digits, which is more than anybody reads.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    if scale.is_finite() && scale > 0.0 { (value * scale).round() / scale } else { value }
}

impl Held {
    /// Itself, with what was measured behind each comparison, for people who ask why.
    pub fn told(&self, readings: &impl Readings) -> String {
        let mut measured = Vec::new();
        self.condition.measured(readings, &mut measured);
        let told: Vec<String> =
            measured.iter().map(|(compare, numbers)| compare.told(numbers)).collect();
        if told.is_empty() { self.condition.to_string() } else { told.join(", ") }
    }
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            Op::Below => "<",
            Op::AtMost => "<=",
            Op::Above => ">",
            Op::AtLeast => ">=",
        };
        let (unit, per) = self.unit();
        write!(f, "{} {op} {}{unit}{per}", self.of, self.bound.value)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scope {
            Scope::Member => "",
            Scope::Cluster => "cluster ",
            Scope::Any => "any ",
            Scope::Every => "every ",
        })?;
        let what = match &self.what {
            What::Series(series) => match series.label() {
                Some(label) if label.contains([' ', '(', ')', ',', '<', '>', '|']) => {
                    format!("{} \"{label}\"", series.name())
                }
                _ => series.to_string(),
            },
            What::Events { kind, app: Some(app) } => format!("events {kind} {app}"),
            What::Events { kind, app: None } => format!("events {kind}"),
            What::From(origins) => format!("requests from {}", origins.join("|")),
        };
        let fold = match self.fold {
            None => return f.write_str(&what),
            Some(Fold::Avg) => "avg".to_owned(),
            Some(Fold::Min) => "min".to_owned(),
            Some(Fold::Max) => "max".to_owned(),
            Some(Fold::Sum) => "sum".to_owned(),
            Some(Fold::Rms) => "rms".to_owned(),
            Some(Fold::Rate) => "rate".to_owned(),
            Some(Fold::Percentile(of)) => format!("p{of}"),
            Some(Fold::Count) => "count".to_owned(),
            Some(Fold::Share) => "share".to_owned(),
        };
        match self.window {
            Some(window) => write!(f, "{fold}({what}, {})", show_span(window)),
            None => write!(f, "{fold}({what})"),
        }
    }
}

impl fmt::Display for During {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "time {}-{}", time(self.from), time(self.to))?;
        if self.days != [true; 7] {
            let days = DayWord::ALL.iter().zip(self.days).filter(|(_, on)| *on);
            let days = days.map(|(day, _)| day.word());
            write!(f, " {}", days.collect::<Vec<_>>().join("+"))?;
        }
        match &self.zone {
            Some(zone) => write!(f, " {zone}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mail(whom) => write!(f, "mail {whom}"),
            Self::Webhook(to) => write!(f, "webhook {to}"),
            Self::Run(script) => write!(f, "run {script}"),
            Self::Out => f.write_str("out"),
            Self::In(count) => write!(f, "in {count}"),
            Self::Restart { app, service: Some(service) } => write!(f, "restart {app}/{service}"),
            Self::Restart { app, service: None } => write!(f, "restart {app}"),
            Self::Sync(Some(app)) => write!(f, "sync {app}"),
            Self::Sync(None) => f.write_str("sync"),
            Self::Log => f.write_str("log"),
        }
    }
}
