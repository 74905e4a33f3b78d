//! The plan as a configuration for HAProxy (2.2 and newer). Pure.
//!
//! It is complete by itself, and can be given to HAProxy after a file of one's own as well
//! (`-f mine.cfg -f althing.cfg`): it has no section `global`, and its `defaults` has a name.
//! Everything that varies is of a type that can't hold what this format has a meaning for
//! (see [`super::plan`]), so nothing is quoted.

use super::plan::{self, Application, Host, Plan};

/// Asked in checks of the default application if it has no host name. No application can have
/// it: RFC 6761 keeps it for names that are none.
const NOBODY: &str = "althing.invalid";

const DEFAULTS: &str = "
defaults althing
    mode http
    balance leastconn
    option http-keep-alive
    http-reuse safe
    option forwardfor
    option redispatch 1
    retries 2
    retry-on conn-failure empty-response 502 503 504
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout queue 10s
    timeout check 2s
    timeout tunnel 1h
    default-server inter 2s fastinter 500ms downinter 1s fall 2 rise 2
";

pub(super) fn render(plan: &Plan) -> String {
    let mut text = super::header("haproxy", plan);
    text.push_str(DEFAULTS);
    text.push_str(&format!("\nfrontend althing\n    bind {}\n", plan.listen));
    text.push_str("    http-request set-header X-Forwarded-Proto https if { ssl_fc }\n");
    text.push_str("    http-request set-header X-Forwarded-Proto http unless { ssl_fc }\n");
    text.push_str("    http-request set-header X-Forwarded-Host %[req.hdr(host)]\n");
    text.push_str("    http-request set-header X-Forwarded-Port %[dst_port]\n");
    for app in plan.reachable() {
        for host in &app.hosts {
            // A line for each, since lines are bounded; those of one name are alternatives. A
            // name may end with a dot, and then means the same.
            text.push_str(&format!(
                "    acl is-{} req.hdr(host),host_only -m str -i {host} {host}.\n",
                app.name
            ));
        }
    }
    for app in plan.applications.iter().filter(|a| !a.hosts.is_empty()) {
        text.push_str(&format!("    use_backend althing-{0} if is-{0}\n", app.name));
    }
    match plan.default() {
        Some(app) => text.push_str(&format!("    default_backend althing-{}\n", app.name)),
        None => text.push_str("    default_backend althing.none\n"),
    }
    for app in plan.reachable() {
        backend(app, &mut text);
    }
    if plan.default().is_none() {
        text.push_str(
            "\n# For host names that no application has.\nbackend althing.none\n    \
             http-request deny deny_status 404\n",
        );
    }
    text
}

fn backend(app: &Application, text: &mut String) {
    text.push_str(&format!("\nbackend althing-{}\n", app.name));
    // What may have been done already is not done again.
    text.push_str("    http-request disable-l7-retry unless METH_GET\n");
    let host = app.hosts.first().map_or(NOBODY, Host::as_str);
    text.push_str("    option httpchk\n");
    text.push_str(&format!("    http-check send meth HEAD uri / ver HTTP/1.1 hdr Host {host}\n"));
    // A site may have no page there, and a program may fail at it: the member serves all the
    // same. 502 to 504 say that it does not.
    text.push_str("    http-check expect status 200-501\n");
    if let Some(why) = super::remark(app) {
        text.push_str(&format!("    # {why}\n"));
    }
    for server in &app.members {
        let (name, address, weight) = (&server.name, server.address, plan::weight(server));
        let disabled = match server.active {
            true => String::new(),
            false => format!(" disabled # {}", server.state.words()),
        };
        text.push_str(&format!("    server {name} {address} check{weight}{disabled}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::plan::tests::sample, *};

    #[test]
    fn the_text_is_as_it_always_was() {
        super::super::tests::golden("sample.haproxy.cfg", &render(&sample()));
    }

    #[test]
    fn without_applications_it_is_a_whole_configuration_all_the_same() {
        let plan = Plan { applications: Vec::new(), ..sample() };
        let text = render(&plan);
        assert!(text.contains("default_backend althing.none\n"), "{text}");
        assert!(text.contains("deny_status 404"), "{text}");
    }
}
