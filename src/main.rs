//! The one binary: a member, its command line and the demonstration.

use std::process::ExitCode;

fn main() -> ExitCode {
    althing::cli::run()
}
