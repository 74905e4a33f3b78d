//! Settings as a file that a program reads. Each format either carries every
//! value so that it is read back as what it was, or refuses it by name: no
//! program may find a value that is almost the one that was set.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{Settings, Value};

/// What a file of settings looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Objects in objects.
    Json,
    /// Tables in tables.
    Toml,
    /// Mappings in mappings, all text in quotes.
    Yaml,
    /// `KEY="value"`, one a line, as a shell and systemd read it.
    Env,
    /// `key = value` in `[sections]`, all values bare.
    Ini,
}

impl Format {
    /// By the ending of a file's name: `.json`, `.toml`, `.yaml` and `.yml`,
    /// `.env`, `.ini`, `.cfg` and `.conf`. A file that is named `.env` and
    /// nothing else is one too. Other endings say nothing.
    pub fn of_path(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let (_, ending) = name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "json" => Some(Self::Json),
            "toml" => Some(Self::Toml),
            "yaml" | "yml" => Some(Self::Yaml),
            "env" => Some(Self::Env),
            "ini" | "cfg" | "conf" => Some(Self::Ini),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    /// As a manifest has it: `json`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Json => "json",
            Self::Toml => "toml",
            Self::Yaml => "yaml",
            Self::Env => "env",
            Self::Ini => "ini",
        })
    }
}

impl Settings {
    /// The text of a file in `format`, the same bytes for equal settings. The
    /// error is a sentence with the key that can't be in such a file.
    pub fn render(&self, format: Format) -> Result<String, String> {
        match format {
            Format::Json => self.json(),
            Format::Toml => self.toml(),
            Format::Yaml => self.yaml(),
            Format::Env => Ok(self.env_file()),
            Format::Ini => self.ini(),
        }
    }

    fn json(&self) -> Result<String, String> {
        let mut text = serde_json::to_string_pretty(&self.tables()?)
            .map_err(|error| format!("The settings can't be written as JSON: {error}."))?;
        text.push('\n');
        Ok(text)
    }

    fn toml(&self) -> Result<String, String> {
        toml::to_string(&self.tables()?)
            .map_err(|error| format!("The settings can't be written as TOML: {error}."))
    }

    fn yaml(&self) -> Result<String, String> {
        // Quotes around all text: what is bare, one reader takes for text and
        // another for a truth (no), a number (1e3, 0x10) or a time (12:30).
        let options = serde_saphyr::ser_options! { quote_all: true };
        serde_saphyr::to_string_with_options(&self.tables()?, options)
            .map_err(|error| format!("The settings can't be written as YAML: {error}."))
    }

    fn env_file(&self) -> String {
        let line = |(name, value): (String, String)| format!("{name}=\"{}\"\n", escaped(&value));
        self.env().into_iter().map(line).collect()
    }

    /// Keys without a dot come first, above all sections.
    fn ini(&self) -> Result<String, String> {
        let mut sections: BTreeMap<&str, Vec<(&str, String)>> = BTreeMap::new();
        for (key, value) in &self.0 {
            let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
            sections.entry(section).or_default().push((name, bare(key, value)?));
        }
        let mut text = String::new();
        for (section, lines) in sections {
            if !section.is_empty() {
                let gap = if text.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{gap}[{section}]\n"));
            }
            for (name, value) in lines {
                text.push_str(format!("{name} = {value}").trim_end());
                text.push('\n');
            }
        }
        Ok(text)
    }
}

/// For between double quotes, where POSIX shells and systemd take a backslash
/// before these four for the character itself and everything else as it is.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// A value for an INI file. There is no standard and no quoting that all
/// readers take off, so what any common reader would change is refused.
fn bare(key: &str, value: &Value) -> Result<String, String> {
    let text = value.to_string();
    let why = if text.contains(|c: char| c.is_control() && c != '\t') {
        "has more than one line, or control characters"
    } else if text.trim() != text {
        "begins or ends with blanks"
    } else if text.starts_with(['"', '\'', ';', '#']) {
        "begins with a quote or with the sign of a comment"
    } else if has_comment(&text) {
        "holds a ; or # after a blank, where readers see a comment"
    } else if text.ends_with('\\') {
        "ends with a backslash, where readers go on with the next line"
    } else {
        return Ok(text);
    };
    Err(format!(
        "{key} can't be in an INI file, because its value {why}: use JSON, TOML, YAML or env, \
         or change it."
    ))
}

fn has_comment(text: &str) -> bool {
    let mut pairs = text.chars().zip(text.chars().skip(1));
    pairs.any(|(a, b)| a.is_whitespace() && matches!(b, ';' | '#'))
}
