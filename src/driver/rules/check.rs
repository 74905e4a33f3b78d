//! Whether rules make sense: sentences that are understood, names that are defined, addresses that
//! somebody can be reached at. Pure, so that `publish` says it before a member meets it; a member
//! checks again, because a version comes from others.

use std::net::{IpAddr, Ipv6Addr};

use super::{KIND_MAX, Mail, RULES_MAX, Rules, Script, Security, TO_MAX, WITHIN_MAX, Webhook};
use crate::{
    base::RuleName,
    driver::{
        Part, Wrong,
        services::check::{check_directory, check_env, check_limits, check_run, check_secrets},
    },
    proto::rule::{Action, parse},
};

/// Length of a URL, bytes.
const URL_MAX: usize = 2_048;
/// Length of the part of a mail address before the @, bytes (RFC 5321, section 4.5.3.1.1).
const LOCAL_MAX: usize = 64;
/// Length of a host name, bytes.
const HOST_MAX: usize = 253;
/// Length of a user's name at a mail server, bytes.
const USER_MAX: usize = 256;

pub(super) fn check(rules: &Rules, mut say: impl FnMut(Wrong)) {
    let Rules { rules: sentences, mail, webhook, script } = rules;
    rules.too_many().into_iter().for_each(&mut say);
    for (name, text) in sentences.iter().take(RULES_MAX) {
        check_rule(rules, name, text, &mut say);
    }
    for (name, mail) in mail.iter().take(KIND_MAX) {
        let said = format!("[mail.{name}]");
        mail.check(|wrong| say(wrong.below(&["mail", name.as_str()], &said)));
    }
    for (name, webhook) in webhook.iter().take(KIND_MAX) {
        let said = format!("[webhook.{name}]");
        webhook.check(|wrong| say(wrong.below(&["webhook", name.as_str()], &said)));
    }
    for (name, script) in script.iter().take(KIND_MAX) {
        let said = format!("[script.{name}]");
        script.check(|wrong| say(wrong.below(&["script", name.as_str()], &said)));
    }
}

fn check_rule(rules: &Rules, name: &RuleName, text: &str, say: &mut impl FnMut(Wrong)) {
    let at = ["rules", name.as_str()];
    let rule = match parse(text) {
        Ok(rule) => rule,
        Err(wrong) => {
            // On lines of its own, so that the caret stands where it belongs.
            let why = format!("The rule {name} is not understood:\n{}.", wrong.shown(text));
            say(Wrong { part: Part::Text(wrong.at), ..Wrong::new(at, why) });
            return;
        }
    };
    for why in rules.undefined(&rule.then) {
        say(Wrong::new(at, format!("The rule {name} {why}.")));
    }
}

impl Rules {
    /// What there is too much of: whole sentences.
    pub fn too_many(&self) -> Vec<Wrong> {
        let Self { rules, mail, webhook, script } = self;
        let mut wrong = Vec::new();
        if rules.len() > RULES_MAX {
            let why = format!("More than {RULES_MAX} rules are defined: have fewer.");
            wrong.push(Wrong::new(["rules"], why));
        }
        let counts = [("mail", mail.len()), ("webhook", webhook.len()), ("script", script.len())];
        let over = counts.into_iter().filter(|(_, count)| *count > KIND_MAX);
        wrong.extend(over.map(|(kind, _)| {
            let why = format!("More than {KIND_MAX} times [{kind}.NAME] is defined: have fewer.");
            Wrong::new([kind], why)
        }));
        wrong
    }

    /// What of `then` names something that is not defined: sentences without their subject and
    /// their point.
    pub fn undefined(&self, then: &[Action]) -> Vec<String> {
        let lost = |verb: &str, kind: &str, name: &str| {
            format!("{verb} {name}, which is not defined: add [{kind}.{name}], or correct the name")
        };
        let why = |action: &Action| match action {
            Action::Mail(name) if !self.mail.keys().any(|key| key.as_str() == name) => {
                Some(lost("sends mail to", "mail", name))
            }
            Action::Webhook(name) if !self.webhook.keys().any(|key| key.as_str() == name) => {
                Some(lost("calls webhook", "webhook", name))
            }
            Action::Run(name) if !self.script.keys().any(|key| key.as_str() == name) => {
                Some(lost("runs", "script", name))
            }
            _ => None,
        };
        then.iter().filter_map(why).collect()
    }
}

impl Mail {
    fn check(&self, mut tell: impl FnMut(Wrong)) {
        let Self { to, from, server, security, user, password } = self;
        let mut say = |key: &str, why: String| tell(Wrong::new([key], why));
        if to.is_empty() {
            say("to", "to names nobody: write addresses, as [\"ops@example.org\"].".to_owned());
        }
        if to.len() > TO_MAX {
            say("to", format!("to has more than {TO_MAX} addresses: write that of a list."));
        }
        let addresses = to.iter().take(TO_MAX).map(|address| ("to", address));
        for (key, address) in addresses.chain([("from", from)]) {
            if let Err(why) = address_wrong(address) {
                let why = format!(
                    "{key} has {:?}, which is no address, because {why}: write it as \
                     ops@example.org.",
                    shown(address)
                );
                tell(Wrong::new([key, address], why));
            }
        }
        let mut say = |key: &str, why: String| tell(Wrong::new([key], why));
        let found = server_of(server, *security);
        if found.is_none() {
            let why = format!(
                "server = {:?} is no server: write mail.example.org, or mail.example.org:587.",
                shown(server)
            );
            say("server", why);
        }
        let given = user.is_some() || password.is_some();
        if user.is_some() != password.is_some() {
            let key = if user.is_some() { "user" } else { "password" };
            say(key, "user and password go together: give both, or none.".to_owned());
        }
        let fits = |user: &String| {
            (1..=USER_MAX).contains(&user.len()) && !user.chars().any(char::is_control)
        };
        if user.as_ref().is_some_and(|user| !fits(user)) {
            say("user", format!("user has to be a name of 1 to {USER_MAX} bytes on one line."));
        }
        if let Some((host, _)) = found
            && given
            && *security == Security::None
            && !is_loopback(&host)
        {
            let why = format!(
                "security = \"none\" would show the password to everybody on the way to {host}: \
                 write \"starttls\" or \"tls\", or leave out user and password."
            );
            say("security", why);
        }
    }
}

impl Webhook {
    fn check(&self, mut say: impl FnMut(Wrong)) {
        if let Err(why) = url_wrong(&self.url) {
            let why = format!(
                "url = {:?} can't be asked, because {why}: write it as \
                 https://pager.example.org/hook.",
                shown(&self.url)
            );
            say(Wrong::new(["url"], why));
        }
    }
}

impl Script {
    fn check(&self, mut say: impl FnMut(Wrong)) {
        check_run(&self.run, &mut say);
        check_directory(&self.directory, &mut say);
        check_env(&self.env, &mut say);
        check_secrets(&self.secrets, &self.env, &mut say);
        if self.within.is_zero() || self.within > WITHIN_MAX {
            let why = "within has to be more than nothing and at most an hour.";
            say(Wrong::new(["within"], why));
        }
        check_limits(self.limits, &mut say);
    }
}

/// Host and port of a mail server: `mail.example.org`, `mail.example.org:25`, `192.0.2.1`,
/// `[2001:db8::1]:25`. The host without its brackets.
pub fn server_of(text: &str, security: Security) -> Option<(String, u16)> {
    let port = |text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u16>().ok()).flatten().filter(|port| *port != 0)
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        let port = match rest {
            "" => security.port(),
            rest => port(rest.strip_prefix(':')?)?,
        };
        return Some((host.to_owned(), port));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, rest)) => (host, port(rest)?),
        None => (text, security.port()),
    };
    is_host(host).then(|| (host.to_ascii_lowercase(), port))
}

fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= HOST_MAX && host.split('.').all(label)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Why a text is no plain address for mail: what follows `because`. Quoted names, comments and
/// letters beyond ASCII are none here: few servers take them, and each has led to messages that
/// went elsewhere.
pub fn address_wrong(text: &str) -> Result<(), &'static str> {
    let Some((local, domain)) = text.rsplit_once('@') else { return Err("it has no @") };
    if !text.is_ascii() {
        return Err("it has letters beyond ASCII");
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b);
    let dots = local.starts_with('.') || local.ends_with('.') || local.contains("..");
    if local.is_empty() || local.len() > LOCAL_MAX || !local.bytes().all(fits) || dots {
        return Err("what stands before the @ is no name");
    }
    // What a library of mails takes for an address as well: the same has to be sent later.
    let known = text.parse::<lettre::Address>().is_ok();
    if !known || !is_host(domain) {
        return Err("what stands behind the @ is no host");
    }
    Ok(())
}

/// Why a text is no URL of a webhook: what follows `because`.
pub fn url_wrong(text: &str) -> Result<(), &'static str> {
    if text.len() > URL_MAX {
        return Err("it is longer than 2 KiB");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("it has spaces, or letters beyond ASCII");
    }
    if text.contains('#') {
        return Err("what stands behind # is never sent");
    }
    let url: http::Uri = text.parse().map_err(|_| "it is no URL")?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err("it begins neither with https:// nor with http://");
    }
    let Some(authority) = url.authority() else { return Err("it names no host") };
    if authority.as_str().contains('@') {
        return Err("a name and password in it would be no secret");
    }
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_v6 = bare.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
    let port = authority.as_str().strip_prefix(host).unwrap_or_default();
    if !is_v6 && !is_host(host) {
        return Err("it names no host");
    }
    if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("its port is none");
    }
    Ok(())
}

/// The beginning of a text that somebody else wrote, for a message.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}
