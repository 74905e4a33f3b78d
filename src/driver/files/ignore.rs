//! What belongs to nobody's vote: patterns in gitignore syntax, and the
//! manifest at the top of a tree. Ignored things are not published, not
//! compared, not repaired, and carried over from one version to the next.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::{base::RelPath, driver::DriverError};

/// The manifest: at the top of a tree it describes the content and is none.
pub const MANIFEST: &[u8] = b"althing.toml";

/// The patterns of one application.
#[derive(Clone, Debug)]
pub struct IgnoreRules {
    patterns: Vec<String>,
    matcher: Gitignore,
}

impl IgnoreRules {
    /// Reads `patterns`, one line of gitignore each.
    pub fn new(patterns: &[String]) -> Result<Self, DriverError> {
        let mut builder = GitignoreBuilder::new("");
        let wrong = |pattern: &str, why: ignore::Error| DriverError::Pattern {
            pattern: pattern.to_owned(),
            why: why.to_string(),
        };
        for pattern in patterns {
            builder.add_line(None, pattern).map_err(|why| wrong(pattern, why))?;
        }
        let matcher = builder.build().map_err(|why| wrong(&patterns.join(" "), why))?;
        Ok(Self { patterns: patterns.to_vec(), matcher })
    }

    /// Only the manifest is ignored.
    pub fn none() -> Self {
        Self { patterns: Vec::new(), matcher: Gitignore::empty() }
    }

    /// The patterns as they were given.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether `path` itself is matched; the caller does not descend into
    /// what is ignored, as git does not. No pattern matches the definitions: an
    /// innocent `.*` would take the services of an application away.
    pub fn matches(&self, path: &RelPath, is_directory: bool) -> bool {
        path.as_bytes() == MANIFEST
            || !self.patterns.is_empty()
                && !path.is_definition()
                && self.matcher.matched(path.as_path(), is_directory).is_ignore()
    }

    /// Whether `path` or anything above it is matched.
    pub fn ignores(&self, path: &RelPath, is_directory: bool) -> bool {
        if self.matches(path, is_directory) {
            return true;
        }
        let mut above = path.parent();
        while let Some(directory) = above {
            if self.matches(&directory, true) {
                return true;
            }
            above = directory.parent();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    fn rules(patterns: &[&str]) -> IgnoreRules {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        IgnoreRules::new(&patterns).unwrap()
    }

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let rules = rules(&["# no pattern", "", "*.log", "!keep.log", "/uploads/", "cache/**/tmp"]);
        assert!(rules.ignores(&path("a/b.log"), false));
        assert!(!rules.ignores(&path("keep.log"), false));
        assert!(rules.ignores(&path("uploads"), true));
        assert!(!rules.ignores(&path("uploads"), false), "a file of that name is content");
        assert!(rules.ignores(&path("uploads/x/keep.log"), false), "nothing is kept in there");
        assert!(!rules.ignores(&path("a/uploads"), true));
        assert!(rules.ignores(&path("cache/a/b/tmp"), false));
    }

    #[test]
    fn the_manifest_is_no_content_at_the_top_only() {
        let rules = IgnoreRules::none();
        assert!(rules.ignores(&path("althing.toml"), false));
        assert!(!rules.ignores(&path("a/althing.toml"), false));
        assert!(!rules.ignores(&path("index.html"), false));
    }

    #[test]
    fn no_pattern_matches_the_definitions() {
        let rules = rules(&[".*", "*.toml"]);
        assert!(!rules.ignores(&path(".althing"), true));
        assert!(!rules.ignores(&path(".althing/services.toml"), false));
        assert!(rules.ignores(&path(".althing-web"), true), "this is another name");
        assert!(rules.ignores(&path("a/.althing"), true), "and this another place");
    }

    #[test]
    fn a_name_that_is_not_utf8_is_matched_by_its_bytes() {
        let rules = rules(&["*.tmp"]);
        let odd = RelPath::parse(b"\xff\xfe.tmp").unwrap();
        assert!(rules.ignores(&odd, false));
        assert!(!rules.ignores(&RelPath::parse(b"\xff\xfe.txt").unwrap(), false));
    }

    #[test]
    fn what_is_no_pattern_is_refused_by_name() {
        let error = IgnoreRules::new(&["a".into(), "[z-a]".into()]).unwrap_err();
        assert!(matches!(&error, DriverError::Pattern { pattern, .. } if pattern == "[z-a]"));
    }
}
