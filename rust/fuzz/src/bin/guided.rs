//! A target under a fuzzer that is guided by coverage: `BIDE_FUZZ` names it. Built by `scripts/fuzz`, which instruments
//! the crates.
#![no_main]

use std::sync::LazyLock;

use bide_fuzz::TARGETS;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("BIDE_FUZZ").unwrap_or_default();
    let names = || TARGETS.map(|(name, _)| name).join(", ");
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("BIDE_FUZZ names one of: {}", names())).1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
