//! `althing init`: a first manifest, with every key and what it is for.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    path::Path,
    process::ExitCode,
};

use super::output::Output;
use crate::{
    base::{AppName, Reason, Refusal},
    node::manifest::{FILE_NAME, Manifest},
};

pub(super) fn run(
    output: &Output,
    directory: &Path,
    app: Option<AppName>,
    hosts: &[String],
) -> Result<ExitCode, Refusal> {
    let directory = super::absolute(directory)?;
    let app = app.unwrap_or_else(|| name_for(&directory));
    let text = manifest(&app, hosts);
    // What is written is what `publish` will read: the same checks, before anything is written.
    let parsed = Manifest::parse(&text).map_err(|why| refusal(why, "Choose other values."))?;
    parsed.resolve(None, Vec::new(), false)?;
    let path = directory.join(FILE_NAME);
    let made = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            refusal(format!("{} is there already.", path.display()), "Edit it, or remove it first.")
        }
        _ => refusal(
            format!("{} can't be made: {error}.", path.display()),
            "Name a directory that is there and that you may write to.",
        ),
    })?;
    file.write_all(text.as_bytes()).map_err(|error| {
        refusal(format!("{} can't be written: {error}.", path.display()), "Free some space.")
    })?;
    if output.json {
        output.document(&serde_json::json!({ "app": app, "manifest": path }));
    } else {
        output.line(&format!("{} is written.", path.display()));
        output.line(&format!("Look at it, then: althing publish {}", directory.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn refusal(why: String, todo: &str) -> Refusal {
    Refusal::new(Reason::Invalid, "No manifest was written.", why, todo)
}

/// A name after the directory, or `site`.
fn name_for(directory: &Path) -> AppName {
    let name = directory.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let fit = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = name.chars().map(fit).take(40).collect();
    AppName::parse(name.trim_matches('-'))
        .or_else(|_| AppName::parse("site"))
        .expect("`site` is a name")
}

/// Written by hand, because a serializer knows no comments.
fn manifest(app: &AppName, hosts: &[String]) -> String {
    let quoted: Vec<String> =
        hosts.iter().map(|host| toml::Value::from(host.as_str()).to_string()).collect();
    let hosts = if hosts.is_empty() {
        "# hosts = [\"www.example.org\"]".to_owned()
    } else {
        format!("hosts = [{}]", quoted.join(", "))
    };
    format!(
        r#"# What `althing publish` reads beside the content; never part of it.

[application]
name = "{app}"

# Host names that it answers to.
{hosts}

# Whether it answers for host names that no application claims. The first
# application of a cluster does by itself.
# default = true

# Where the live tree stands on every member; inside the data directory if not given.
# path = "/srv/{app}"

# Which members hold it, by their tags (`althing tags`); all of them if not given.
# placement = "role == web and zone != lab"

# What belongs to nobody's vote, as in .gitignore: uploads, caches, logs.
ignore = [".git/", "*~", "*.swp"]

# The file that answers for a directory, and the one for what is not there.
# index = "index.html"
# not_found = "404.html"

# A program that runs on every member: started, watched, restarted, stopped. A word with
# a slash is a path in this directory. Its log: althing logs {app} api
# [services.api]
# run = ["bin/api"]

# Requests that a program answers instead of the files: it listens on 127.0.0.1, on the
# port in its variable PORT.
# [[routes]]
# path = "/api"
# service = "api"

# The secret with its certificate, for members that run with --listen-tls: the chain and
# the private key, as PEM. cat fullchain.pem privkey.pem | althing secret set {app} web-cert
# [tls]
# certificate = "web-cert"
# redirect = true
# hsts = "365d"

# A port of its own on every member: what connects there is led to this service, on the
# port in its variable PORT.
# [[listeners]]
# port = 5432
# service = "api"

# How members switch to a new version: so many at a time, each ready for so long before the
# next ones follow. All at once if not given; one that does not get ready is taken back.
# [rollout]
# at_once = 1
# pause = "10s"

# What runs on every member when it switches to another version: before it, in the next
# tree, where anything but status 0 keeps that member from switching, and after it.
# [hooks.before-switch]
# run = ["sh", "-c", "nginx -t -c $ALTHING_NEXT/nginx.conf"]
# within = "30s"
# [hooks.after-switch]
# run = ["bin/reload"]

# What its programs find as variables (LOG_LEVEL), and in a file. Nothing secret: see
# `althing secret`.
# [settings]
# log-level = "info"
# [[settings-file]]
# path = "config/settings.json"

# What is watched, and who is told then; to see how it is understood:
# althing rules check althing.toml
# [rules]
# hot = "critical when cpu > 90% for 2m until < 75% for 1m then mail ops"
# [mail.ops]
# to = ["ops@example.org"]
# from = "althing@example.org"
# server = "mail.example.org"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::manifest::Resolved;

    #[test]
    fn the_first_manifest_is_read_as_it_was_meant() {
        let hosts = vec!["www.example.org".to_owned()];
        let app = AppName::parse("shop").unwrap();
        let manifest = Manifest::parse(&manifest(&app, &hosts)).unwrap();
        let Resolved { app: name, spec, .. } = manifest.resolve(None, vec![], false).unwrap();
        assert_eq!((name, spec.hosts), (app, hosts));
        assert_eq!(spec.ignore, [".git/", "*~", "*.swp"]);
        assert!(spec.path.is_none() && spec.index.is_none());
    }

    #[test]
    fn every_key_that_is_shown_is_one() {
        let app = AppName::parse("shop").unwrap();
        let text = manifest(&app, &[]);
        let lines = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(key) if key.contains(" = ") || key.starts_with('[') => key,
            _ => line,
        });
        let all = lines.collect::<Vec<_>>().join("\n");
        let Resolved { spec, texts, .. } =
            Manifest::parse(&all).unwrap().resolve(None, vec![], false).unwrap();
        assert_eq!(texts.len(), 8);
        assert_eq!(spec.path.as_deref(), Some("/srv/shop"));
        assert_eq!(spec.not_found.as_deref(), Some("404.html"));
        assert!(spec.default && spec.index.is_some() && spec.hosts.len() == 1);
    }

    #[test]
    fn a_directory_gives_its_name_or_none() {
        for (directory, name) in [
            ("/srv/Public Site", "public-site"),
            ("/srv/www.example.org", "www-example-org"),
            ("/", "site"),
            ("/srv/---", "site"),
            ("/srv/ü", "site"),
        ] {
            assert_eq!(name_for(Path::new(directory)).as_str(), name, "{directory}");
        }
    }
}
