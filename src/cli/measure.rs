//! `althing measure`: a number of a script, told to the member on this machine. The member is not
//! waited for, so that a script never hangs for its measurement.

use std::{
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{args::Measure, output::Output};
use crate::{
    base::{Reason, Refusal, quantity},
    proto::telemetry::statsd::Line,
};

pub(super) fn tell(data: &Path, output: &Output, wish: &Measure) -> Result<ExitCode, Refusal> {
    let text = line(wish).map_err(|why| {
        Refusal::new(
            Reason::Invalid,
            "Nothing was told.",
            format!("{why}."),
            "See `althing measure --help`, and docs/telemetry.md.",
        )
    })?;
    // As programs that a member runs are told, who may not see its data directory.
    let given = std::env::var_os("ALTHING_METRICS").map(PathBuf::from);
    let socket = given.unwrap_or_else(|| data.join("metrics"));
    let sent = UnixDatagram::unbound().and_then(|here| here.send_to(text.0.as_bytes(), &socket));
    sent.map_err(|error| {
        let socket = socket.display();
        let (reason, why) = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                (Reason::NotFound, format!("No member takes measurements at {socket}."))
            }
            ErrorKind::PermissionDenied => {
                (Reason::Forbidden, format!("This user may not write to {socket}."))
            }
            _ => (Reason::Failed, format!("{socket} can't be written to: {error}.")),
        };
        let todo = "Start a member here (`althing up`), or give its --data; nobody but its user may \
                    enter that.";
        Refusal::new(reason, "Nothing was told.", why, todo)
    })?;
    if output.json {
        output.document(&serde_json::json!({ "series": text.1, "told": true }));
    }
    Ok(ExitCode::SUCCESS)
}

/// The line, and of which series it is.
fn line(wish: &Measure) -> Result<(String, String), String> {
    let Measure { name, value, count, took, label } = wish;
    if name.contains([':', '|', '\n']) || label.as_ref().is_some_and(|l| l.contains(['|', '\n'])) {
        return Err("a name and a label have no `|`, no line end, and a name no `:`".to_owned());
    }
    let (value, kind) = match (count, took) {
        (true, _) => (value.clone(), "c"),
        (_, true) => {
            let span = quantity::span(value)?;
            ((span.as_secs_f64() * 1_000.0).to_string(), "ms")
        }
        // A sign would say by how much it has changed.
        _ => match value.parse::<f64>() {
            Ok(number) if number < 0.0 => (format!("0|g\n{name}:{number}"), "g"),
            _ => (value.trim_start_matches('+').to_owned(), "g"),
        },
    };
    let tag = label.as_ref().map(|label| format!("|#{label}")).unwrap_or_default();
    let text = format!("{name}:{}|{kind}{tag}", value.replace("|g\n", &format!("|g{tag}\n")));
    let lines = text.lines().map(Line::parse).collect::<Result<Vec<_>, _>>();
    let lines = lines.map_err(|wrong| wrong.to_string())?;
    Ok((text, lines[0].series.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(name: &str, value: &str) -> Measure {
        let (name, value) = (name.to_owned(), value.to_owned());
        Measure { name, value, count: false, took: false, label: None }
    }

    #[test]
    fn a_wish_becomes_a_line() {
        let told = |wish| line(&wish).map(|(text, series)| format!("{text} = {series}"));
        let labelled = Some("north".to_owned());
        let fine = [
            (wish("queue", "42"), "queue:42|g = custom.queue"),
            (wish("queue", "+4"), "queue:4|g = custom.queue"),
            (Measure { count: true, ..wish("orders", "1") }, "orders:1|c = custom.orders.total"),
            (
                Measure { took: true, label: labelled.clone(), ..wish("backup", "1.5s") },
                "backup:1500|ms|#north = custom.backup.seconds north",
            ),
            (
                Measure { label: labelled, ..wish("frost", "-3") },
                "frost:0|g|#north\nfrost:-3|g|#north = custom.frost north",
            ),
        ];
        for (wish, expected) in fine {
            assert_eq!(told(wish).as_deref(), Ok(expected));
        }
        for wrong in [
            wish("a|b", "1"),
            wish("a:b", "1"),
            wish("queue", "many"),
            wish("queue.total", "1"),
            Measure { took: true, ..wish("job", "soon") },
            Measure { count: true, ..wish("orders", "-1") },
        ] {
            assert!(told(wrong.clone()).is_err(), "{wrong:?}");
        }
    }
}
