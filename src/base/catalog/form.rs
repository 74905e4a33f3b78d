//! How versions, specifications and windows are written: as they were before there was more to
//! say of them, and what came later only where it is used, as in `conduct.rs`. So members of the
//! version before read what is theirs, and digests stay.
//!
//! **Invariant:** the order of the variants and fields here is the encoding: what is new goes to
//! the end of an enum.

use serde::{Deserialize, Serialize};

use super::{AppSpec, Failover, Origin, Publication, Version, Window, WindowMode};
use crate::base::{
    AppName, Digest, MemberId, Placement, Rollout, WallTime, limits, operator::AskedBy,
    placement::PlacementError, wire,
};

/// How a version is written: who asked for it only where a token was shown, as in `conduct.rs`.
#[derive(Serialize, Deserialize)]
pub(super) struct VersionForm {
    number: u64,
    root: Digest,
    files: u64,
    bytes: u64,
    spec: SpecForm,
    publisher: MemberId,
    published_at: WallTime,
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::TEXT_MAX }>")]
    message: String,
    origin: OriginForm,
}

/// The first four are written as the [`Origin`] that was there before there was anybody to name.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OriginForm {
    Published,
    Rollback(u64),
    Majority,
    Edited,
    Asked(Origin, AskedBy),
}

impl From<Version> for VersionForm {
    fn from(version: Version) -> Self {
        let Version { number, root, files, bytes, spec, .. } = version;
        let Version { publisher, published_at, message, origin, asked, .. } = version;
        let origin = match (asked, origin) {
            (Some(asked), origin) => OriginForm::Asked(origin, asked),
            (None, Origin::Published) => OriginForm::Published,
            (None, Origin::Rollback(to)) => OriginForm::Rollback(to),
            (None, Origin::Majority) => OriginForm::Majority,
            (None, Origin::Edited) => OriginForm::Edited,
        };
        let spec = spec.into();
        Self { number, root, files, bytes, spec, publisher, published_at, message, origin }
    }
}

impl TryFrom<VersionForm> for Version {
    type Error = PlacementError;

    fn try_from(form: VersionForm) -> Result<Self, PlacementError> {
        let VersionForm { number, root, files, bytes, spec, .. } = form;
        let VersionForm { publisher, published_at, message, origin, .. } = form;
        let (origin, asked) = match origin {
            OriginForm::Published => (Origin::Published, None),
            OriginForm::Rollback(to) => (Origin::Rollback(to), None),
            OriginForm::Majority => (Origin::Majority, None),
            OriginForm::Edited => (Origin::Edited, None),
            OriginForm::Asked(origin, asked) => (origin, Some(asked)),
        };
        let spec = AppSpec::try_from(spec)?;
        Ok(Self {
            number,
            root,
            files,
            bytes,
            spec,
            publisher,
            published_at,
            message,
            origin,
            asked,
        })
    }
}

/// How a specification is written: what came later only where it is used, as in `conduct.rs`.
#[derive(Serialize, Deserialize)]
pub(super) struct SpecForm {
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::HOSTS_MAX }>")]
    hosts: Vec<String>,
    default: bool,
    path: Option<String>,
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::PATTERNS_MAX }>")]
    ignore: Vec<String>,
    index: Option<String>,
    rest: RestForm,
}

/// The first two are written as the `None` and the `Some` that the file for what is not
/// there was before there was anything behind it.
#[derive(Serialize, Deserialize)]
enum RestForm {
    Nothing,
    NotFound(String),
    Placed(Option<String>, String),
    Rolled(Option<String>, Option<String>, Rollout),
}

impl From<AppSpec> for SpecForm {
    fn from(spec: AppSpec) -> Self {
        let AppSpec { hosts, default, path, ignore, index, not_found, placement, rollout } = spec;
        let rest = match (not_found, placement) {
            (not_found, placement) if rollout != Rollout::default() => {
                RestForm::Rolled(not_found, placement.map(String::from), rollout)
            }
            (None, None) => RestForm::Nothing,
            (Some(file), None) => RestForm::NotFound(file),
            (not_found, Some(placement)) => RestForm::Placed(not_found, placement.into()),
        };
        Self { hosts, default, path, ignore, index, rest }
    }
}

impl TryFrom<SpecForm> for AppSpec {
    type Error = PlacementError;

    fn try_from(form: SpecForm) -> Result<Self, PlacementError> {
        let SpecForm { hosts, default, path, ignore, index, rest } = form;
        let (not_found, placement, rollout) = match rest {
            RestForm::Nothing => (None, None, Rollout::default()),
            RestForm::NotFound(file) => (Some(file), None, Rollout::default()),
            RestForm::Placed(not_found, text) => (not_found, Some(text), Rollout::default()),
            RestForm::Rolled(not_found, placement, rollout) => (not_found, placement, rollout),
        };
        let placement = placement.map(|text| Placement::parse(&text)).transpose()?;
        Ok(Self { hosts, default, path, ignore, index, not_found, placement, rollout })
    }
}

/// How a window is written: who asked for it only where a token was shown, as in `conduct.rs`.
#[derive(Serialize, Deserialize)]
pub(super) struct WindowForm {
    id: u64,
    coordinator: MemberId,
    takeovers: u32,
    opened_by: MemberId,
    opened_at: WallTime,
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::APPLICATIONS_MAX }>")]
    scope: Vec<AppName>,
    failover: Failover,
    mode: ModeForm,
    publication: Option<Publication>,
}

/// The first three are written as the [`WindowMode`] that was there before there was anybody to
/// name.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ModeForm {
    Single,
    Held,
    Automatic,
    Asked(WindowMode, AskedBy),
}

impl From<Window> for WindowForm {
    fn from(window: Window) -> Self {
        let Window { id, coordinator, takeovers, opened_by, opened_at, .. } = window;
        let Window { scope, failover, mode, publication, asked, .. } = window;
        let mode = match (asked, mode) {
            (Some(asked), mode) => ModeForm::Asked(mode, asked),
            (None, WindowMode::Single) => ModeForm::Single,
            (None, WindowMode::Held) => ModeForm::Held,
            (None, WindowMode::Automatic) => ModeForm::Automatic,
        };
        Self {
            id,
            coordinator,
            takeovers,
            opened_by,
            opened_at,
            scope,
            failover,
            mode,
            publication,
        }
    }
}

impl From<WindowForm> for Window {
    fn from(form: WindowForm) -> Self {
        let WindowForm { id, coordinator, takeovers, opened_by, opened_at, .. } = form;
        let WindowForm { scope, failover, mode, publication, .. } = form;
        let (mode, asked) = match mode {
            ModeForm::Single => (WindowMode::Single, None),
            ModeForm::Held => (WindowMode::Held, None),
            ModeForm::Automatic => (WindowMode::Automatic, None),
            ModeForm::Asked(mode, asked) => (mode, Some(asked)),
        };
        Self {
            id,
            coordinator,
            takeovers,
            opened_by,
            opened_at,
            scope,
            failover,
            mode,
            publication,
            asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{MemberName, OperatorName, SecretKey, wire::Kind};

    #[test]
    fn a_specification_without_news_is_written_as_before() {
        for not_found in [None, Some("404.html".to_owned())] {
            let plain = AppSpec {
                hosts: vec!["www.example.org".to_owned()],
                path: Some("/srv/www".to_owned()),
                not_found,
                ..AppSpec::default()
            };
            let AppSpec { hosts, default, path, ignore, index, not_found, .. } = &plain;
            let before = (hosts, default, path, ignore, index, not_found);
            assert_eq!(wire::encode(Kind::Record, &plain), wire::encode(Kind::Record, &before));
            let placement = Placement::parse("role == web").ok();
            let rollout = Rollout { at_once: Some(2), ..Rollout::default() };
            let placed = AppSpec { placement, ..plain.clone() };
            let rolled = AppSpec { rollout, ..placed.clone() };
            for spec in [plain.clone(), placed, AppSpec { rollout, ..plain }, rolled] {
                let bytes = wire::encode(Kind::Record, &spec);
                assert_eq!(wire::decode::<AppSpec>(Kind::Record, &bytes), Ok(spec));
            }
        }
        let broken = wire::encode(
            Kind::Record,
            &SpecForm {
                rest: RestForm::Placed(None, "role = web".to_owned()),
                ..AppSpec::default().into()
            },
        );
        assert!(wire::decode::<AppSpec>(Kind::Record, &broken).is_err());
    }

    #[test]
    fn who_asked_is_written_only_where_a_token_was_shown() {
        let asked = AskedBy {
            operator: OperatorName::parse("alice").unwrap(),
            at: MemberName::parse("web1").unwrap(),
        };
        let id = MemberId::of(&SecretKey::from_seed([1; 32]).public());
        for origin in [Origin::Published, Origin::Rollback(7), Origin::Majority, Origin::Edited] {
            let plain = Version {
                number: 8,
                root: Digest::of_bytes(b"site"),
                files: 1,
                bytes: 4,
                spec: AppSpec::default(),
                publisher: id,
                published_at: WallTime(5),
                message: "the summer".to_owned(),
                origin,
                asked: None,
            };
            let Version { number, root, files, bytes, spec, publisher, published_at, .. } = &plain;
            let before = (
                (number, root, files, bytes, spec),
                (publisher, published_at, "the summer", origin),
            );
            assert_eq!(wire::encode(Kind::Record, &plain), wire::encode(Kind::Record, &before));
            for version in [plain.clone(), Version { asked: Some(asked.clone()), ..plain }] {
                let bytes = wire::encode(Kind::Record, &version);
                assert_eq!(wire::decode::<Version>(Kind::Record, &bytes), Ok(version));
            }
        }
        for mode in [WindowMode::Single, WindowMode::Held, WindowMode::Automatic] {
            let plain = Window {
                id: 3,
                coordinator: id,
                takeovers: 1,
                opened_by: id,
                opened_at: WallTime(4),
                scope: vec![AppName::parse("web").unwrap()],
                failover: Failover::Manual,
                mode,
                publication: None,
                asked: None,
            };
            let Window { id, coordinator, takeovers, opened_by, opened_at, scope, .. } = &plain;
            let before = (
                (id, coordinator, takeovers, opened_by, opened_at, scope),
                (plain.failover, mode, None::<u8>),
            );
            assert_eq!(wire::encode(Kind::Record, &plain), wire::encode(Kind::Record, &before));
            for window in [plain.clone(), Window { asked: Some(asked.clone()), ..plain }] {
                let bytes = wire::encode(Kind::Record, &window);
                assert_eq!(wire::decode::<Window>(Kind::Record, &bytes), Ok(window));
            }
        }
    }

    #[test]
    fn a_name_that_is_none_is_not_decoded() {
        let good = (Origin::Published, ("alice", "web1"));
        let asked = |form: &(Origin, (&str, &str))| {
            // The fifth kind of origin, as it is written.
            let bytes = wire::encode(Kind::Record, &(4_u8, form));
            wire::decode::<OriginForm>(Kind::Record, &bytes).is_ok()
        };
        assert!(asked(&good));
        let long = "a".repeat(41);
        for bad in ["", "<b>", "a b", "alice\n", long.as_str()] {
            assert!(!asked(&(Origin::Published, (bad, "web1"))), "{bad:?}");
        }
        assert!(!asked(&(Origin::Published, ("alice", "web 1"))));
    }

    #[test]
    fn the_modes_of_windows_are_written_as_before() {
        for (mode, before) in [(WindowMode::Single, false), (WindowMode::Held, true)] {
            assert_eq!(wire::encode(Kind::Record, &mode), wire::encode(Kind::Record, &before));
        }
    }
}
