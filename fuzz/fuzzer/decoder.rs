//! The fuzzer: gives the decoder that `ALTHING_FUZZ_TARGET` names what libFuzzer makes up, which is
//! guided by the code that each input reaches. `fuzz/run` starts it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[expect(dead_code, reason = "what they start from is in `corpus`, where a test writes it")]
#[path = "../targets.rs"]
mod targets;

use targets::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("ALTHING_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("ALTHING_FUZZ_TARGET is {name:?}, which is no target"))
});

fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
