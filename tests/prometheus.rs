//! What Prometheus makes of `/metrics`: its own checker finds nothing to complain of, and a
//! real server that scrapes a member of a real cluster comes to count what was asked.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use common::{Lab, Member, tcp, until};
use serde_json::Value;

const MISSING: &str = "prometheus and promtool are needed: install the package prometheus";

/// A server of Prometheus. Killed when dropped.
struct Prometheus {
    child: Child,
    at: SocketAddr,
}

impl Prometheus {
    /// One that scrapes `members` every second. The service that the package brings is not
    /// touched: ours has a port, a configuration and a place of its own.
    fn new(place: &Path, members: &[&Member]) -> Self {
        // Free a moment ago; nobody else uses this address.
        let at = TcpListener::bind(("127.79.1.200", 0)).unwrap().local_addr().unwrap();
        fs::create_dir_all(place).unwrap();
        let targets: Vec<String> = members.iter().map(|m| m.status().to_string()).collect();
        let config = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n  \
             - job_name: althing\n    static_configs:\n      - targets: {targets:?}\n"
        );
        fs::write(place.join("prometheus.yml"), config).unwrap();
        let log = fs::File::create(place.join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", place.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", place.join("data").display()))
            .arg(format!("--web.listen-address={at}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect(MISSING);
        Self { child, at }
    }

    /// The values that an expression has now, with their labels.
    fn ask(&self, expression: &str) -> Result<Vec<(Value, f64)>, String> {
        let encoded: String = expression.bytes().map(|b| format!("%{b:02x}")).collect();
        let head = format!(
            "GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: l\r\nConnection: close\r\n\r\n"
        );
        let answer = tcp(self.at, head.as_bytes())?;
        let said: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
        let all = said["data"]["result"].as_array().ok_or_else(|| said.to_string())?;
        let number = |sample: &Value| sample["value"][1].as_str()?.parse().ok();
        let read = all.iter().map(|s| Some((s["metric"].clone(), number(s)?)));
        read.collect::<Option<_>>().ok_or_else(|| said.to_string())
    }

    /// The one value that it has.
    fn number(&self, expression: &str) -> Result<f64, String> {
        match &*self.ask(expression)? {
            [(_, number)] => Ok(*number),
            other => Err(format!("{expression}: {other:?}")),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The page, after its checker has found nothing wrong with it.
fn checked(member: &Member) -> String {
    let head = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = tcp(member.status(), head).unwrap();
    assert_eq!(answer.status, 200);
    let page = String::from_utf8(answer.body).unwrap();
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(MISSING);
    tool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let said = tool.wait_with_output().unwrap();
    let words = [&said.stdout[..], &said.stderr].concat();
    let words = String::from_utf8_lossy(&words);
    assert!(said.status.success() && words.trim().is_empty(), "{words}\n{page}");
    page
}

/// A real server counts what was asked of a site on two members, and only once what one of
/// them passed on to the other.
#[test]
fn prometheus_counts_what_was_asked() {
    let lab = Lab::new((79, 1));
    let [one, two] = lab.cluster(["one", "two"]);
    let files = [("index.html", "hello"), ("large", &"x".repeat(200_000))];
    let site = lab.site("shop", &files);
    one.publish(&site, &["--app", "shop"]).unwrap();
    common::all_serve(&[&one, &two], "shop/1", "hello");
    let total = |page: &str, name: &str| -> u64 {
        let line = format!("{name}{{app=\"shop\"}} ");
        page.lines().find_map(|l| l.strip_prefix(&line)?.parse().ok()).unwrap_or_default()
    };
    let before = [&one, &two].map(|member| {
        let page = checked(member);
        let of = |name: &str| total(&page, name);
        let names = ["requests", "refused", "sent_bytes", "forwarded"];
        names.map(|name| of(&format!("althing_application_{name}_total")))
    });

    // One goes on standby, so it has the other answer.
    one.run(&["drain", "two"]).unwrap();
    until("the other passes on", || {
        let page = checked(&two);
        let passed = total(&page, "althing_application_forwarded_total");
        let answer = two.get("/index.html")?;
        if passed > 0 && answer.status == 200 { Ok(()) } else { Err(passed.to_string()) }
    });
    let first = checked(&two);
    for _ in 0..20 {
        assert_eq!(one.get("/").unwrap().status, 200);
        assert_eq!(two.get("/").unwrap().body, b"hello");
    }
    for _ in 0..3 {
        assert_eq!(one.get("/none").unwrap().status, 404);
        assert_eq!(one.get("/large").unwrap().body.len(), 200_000);
    }

    let prometheus = Prometheus::new(&lab.path("prometheus"), &[&one, &two]);
    let of = |name: &str, member: &Member| {
        let at = member.status();
        prometheus.number(&format!("althing_application_{name}{{app=\"shop\",instance=\"{at}\"}}"))
    };
    let equals = |name: &str, member: &Member, wanted: u64| {
        let what = format!("{name} of {} is {wanted}", member.name());
        until(&what, || match of(name, member)? {
            number if number == wanted as f64 => Ok(()),
            number => Err(number.to_string()),
        });
    };
    let [requests, refused, bytes, forwarded] = before[0];
    equals("requests_total", &one, requests + 26);
    equals("refused_total", &one, refused + 3);
    equals("errors_total", &one, 0);
    equals("forwarded_total", &one, forwarded);
    let page_of_404 = one.get("/none").unwrap().body.len() as u64;
    equals("requests_total", &one, requests + 27);
    equals("sent_bytes_total", &one, bytes + 20 * 5 + 3 * 200_000 + 4 * page_of_404);
    // What was passed on is counted where it was asked.
    let told = |name: &str| total(&first, &format!("althing_application_{name}_total"));
    equals("requests_total", &two, told("requests") + 20);
    equals("forwarded_total", &two, told("forwarded") + 20);

    // The histogram is one to the server.
    let histogram = "althing_application_request_duration_seconds";
    equals("request_duration_seconds_count", &one, requests + 27);
    let all = format!("sum({histogram}_bucket{{le=\"+Inf\"}})");
    let counted = format!("sum({histogram}_count)");
    assert_eq!(prometheus.number(&all), prometheus.number(&counted));
    let half = format!("histogram_quantile(0.5, sum by (le) ({histogram}_bucket))");
    let half = prometheus.number(&half).unwrap();
    assert!(half > 0.0 && half < 2.0, "{half}");
    assert_eq!(prometheus.number("sum(up)"), Ok(2.0));

    // Every expression of the dashboard is one, and so is every alert of the page about it.
    let board: Value = serde_json::from_str(include_str!("../docs/grafana.json")).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    for target in targets {
        let text = target["expr"].as_str().unwrap();
        let text =
            ["$instance", "$app", "$job"].iter().fold(text.to_owned(), |t, v| t.replace(v, ".*"));
        let text = text.replace("$__rate_interval", "10s");
        prometheus.ask(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    let words = include_str!("../docs/prometheus.md");
    let (_, alerts) = words.split_once("## Alerts\n").unwrap();
    let rules: String = alerts.lines().map(|l| format!("{}\n", l.get(4..).unwrap_or(""))).collect();
    let file = lab.path("rules.yml");
    fs::write(&file, rules).unwrap();
    let said = Command::new("promtool").args(["check", "rules"]).arg(&file).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}
