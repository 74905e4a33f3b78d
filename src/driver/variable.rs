//! How a name becomes a variable of a service's environment: one rule for
//! settings and secrets, so that nobody has to learn two.

/// What the member sets for every service, besides all that begins with
/// `ALTHING_`. A setting that took one of these by accident would be found
/// late: its program would not start, or look for its files elsewhere.
const RESERVED: [&str; 3] = ["HOME", "LANG", "PATH"];

/// The variable for a name of letters, digits, `_`, `-` and `.`: upper case,
/// with `_` for hyphens and dots. `db-password` gives `DB_PASSWORD`.
pub fn variable(name: &str) -> String {
    let letter = |c: char| if matches!(c, '-' | '.') { '_' } else { c.to_ascii_uppercase() };
    name.chars().map(letter).collect()
}

/// Whether a variable belongs to the member, and is not for an application to set.
pub fn is_reserved(variable: &str) -> bool {
    variable.starts_with("ALTHING_") || RESERVED.contains(&variable)
}
