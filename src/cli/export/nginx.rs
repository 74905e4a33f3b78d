//! The plan as a configuration for nginx (1.18 and newer). Pure.
//!
//! A whole one, or what stands inside of `http { }`, for a directory that one's own
//! configuration includes. Everything that varies is of a type that can't hold what this format
//! has a meaning for (see [`super::plan`]), so nothing is quoted.

use super::plan::{self, Application, Host, Plan};

/// Longer host names need larger buckets than nginx has by itself (it takes 64 bytes, and some
/// are its own).
const LONG_HOST: usize = 40;
/// More host names need a larger table than nginx has by itself.
const MANY_HOSTS: usize = 256;

const MAPS: &str = "
# A connection is upgraded (WebSocket) if the visitor asks for it, and otherwise kept.
map $http_upgrade $althing_connection {
    default upgrade;
    '' '';
}
# As the visitor named it, with the port.
map $http_host $althing_host {
    default $http_host;
    '' $host;
}
";

const LOCATION: &str = "        proxy_http_version 1.1;
        proxy_set_header Host $althing_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $althing_connection;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Host $althing_host;
        proxy_set_header X-Forwarded-Port $server_port;
        proxy_connect_timeout 2s;
        proxy_send_timeout 300s;
        proxy_read_timeout 300s;
        proxy_next_upstream error timeout http_502 http_503 http_504;
        proxy_next_upstream_tries 3;
        proxy_redirect off;
";

pub(super) fn render(plan: &Plan, fragment: bool) -> String {
    let mut text = super::header("nginx", plan);
    if fragment {
        text.push_str(&inside(plan));
        return text;
    }
    text.push_str("\nworker_processes auto;\nevents {\n    worker_connections 4096;\n}\nhttp {\n");
    text.push_str("    access_log off;\n");
    for line in inside(plan).lines() {
        let indent = if line.is_empty() { "" } else { "    " };
        text.push_str(&format!("{indent}{line}\n"));
    }
    text.push_str("}\n");
    text
}

/// What stands inside of `http { }`.
fn inside(plan: &Plan) -> String {
    let mut text = String::new();
    let hosts: Vec<&Host> = plan.applications.iter().flat_map(|a| &a.hosts).collect();
    if hosts.iter().any(|host| host.as_str().len() > LONG_HOST) {
        text.push_str("server_names_hash_bucket_size 512;\n");
    }
    if hosts.len() > MANY_HOSTS {
        let size = (hosts.len() * 4).next_power_of_two();
        text.push_str(&format!("server_names_hash_max_size {size};\n"));
    }
    text.push_str(MAPS);
    for app in plan.reachable().filter(|a| !a.members.is_empty()) {
        upstream(app, &mut text);
    }
    for app in plan.reachable().filter(|a| !a.default) {
        server(plan, Some(app), &mut text);
    }
    server(plan, plan.default(), &mut text);
    text
}

fn upstream(app: &Application, text: &mut String) {
    // Shared by the workers, so that all of them know who is busy and who failed.
    let zone_kib = 64 + app.members.len();
    text.push_str(&format!(
        "\nupstream althing-{0} {{\n    zone althing-{0} {zone_kib}k;\n    least_conn;\n",
        app.name
    ));
    if let Some(why) = super::remark(app) {
        text.push_str(&format!("    # {why}\n"));
    }
    for server in &app.members {
        let (name, address, weight) = (&server.name, server.address, plan::weight(server));
        let how = match server.active {
            true => format!(" max_fails=2 fail_timeout=5s; # {name}"),
            false => format!(" down; # {name}: {}", server.state.words()),
        };
        text.push_str(&format!("    server {address}{weight}{how}\n"));
    }
    text.push_str("    keepalive 64;\n}\n");
}

/// The server of one application, or the one for host names that none has.
fn server(plan: &Plan, app: Option<&Application>, text: &mut String) {
    let is_last = app.is_none_or(|a| a.default);
    let listen = match plan.listen.ip {
        None => plan.listen.port.to_string(),
        Some(_) => plan.listen.to_string(),
    };
    let by_default = if is_last { " default_server" } else { "" };
    text.push_str(&format!("\nserver {{\n    listen {listen}{by_default};\n"));
    let mut hosts = app.iter().flat_map(|a| &a.hosts).peekable();
    if hosts.peek().is_some() {
        text.push_str("    server_name");
        hosts.for_each(|host| text.push_str(&format!("\n        {host}")));
        text.push_str(";\n");
    }
    text.push_str("    client_max_body_size 0;\n    location / {\n");
    match app {
        Some(app) if !app.members.is_empty() => {
            text.push_str(&format!("        proxy_pass http://althing-{};\n", app.name));
            text.push_str(LOCATION);
        }
        Some(app) => {
            let why = super::remark(app).unwrap_or("Nobody holds it.");
            text.push_str(&format!("        # {why}\n        return 503;\n"));
        }
        None => {
            text.push_str("        # No application has this host name.\n        return 404;\n")
        }
    }
    text.push_str("    }\n}\n");
}

#[cfg(test)]
mod tests {
    use super::{super::plan::tests::sample, *};

    #[test]
    fn the_text_is_as_it_always_was() {
        super::super::tests::golden("sample.nginx.conf", &render(&sample(), false));
    }

    #[test]
    fn a_fragment_is_what_stands_inside() {
        let (whole, part) = (render(&sample(), false), render(&sample(), true));
        assert!(!part.contains("events {") && !part.contains("http {"), "{part}");
        let body = part.split_once("\n\n").unwrap().1;
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&whole).contains(&words(body)));
    }

    #[test]
    fn long_and_many_host_names_get_room() {
        let mut plan = sample();
        let long = format!("{}.example.org", "a".repeat(60));
        plan.applications[0].hosts = vec![Host::parse(&long).unwrap()];
        assert!(render(&plan, true).contains("server_names_hash_bucket_size 512;"));
        let many = (0..300).map(|n| Host::parse(&format!("h{n}.example.org")).unwrap());
        plan.applications[0].hosts = many.collect();
        assert!(render(&plan, true).contains("server_names_hash_max_size 2048;"));
    }
}
