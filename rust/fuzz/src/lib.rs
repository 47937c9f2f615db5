//! Fuzz targets: each takes any bytes as input and panics only if bide does, or if bide breaks the property that the
//! target checks.
//!
//! `tests/any_bytes.rs` feeds them at random on stable, in `make test`; `scripts/fuzz` has them guided by coverage, in
//! `make soak`. Python's half of the codec is fuzzed by `tests/test_codec_fuzz.py`.

#![forbid(unsafe_code)]

mod asked;
mod formats;
mod mangle;
mod play;
mod seed;

pub use asked::{control, text};
pub use formats::{events, failure, message, operation, pack, run_id, value};
pub use mangle::{Column, Mangled, rows};

/// A target and its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 10] = [
    ("value", value),
    ("pack", pack),
    ("failure", failure),
    ("run_id", run_id),
    ("events", events),
    ("operation", operation),
    ("message", message),
    ("control", control),
    ("text", text),
    ("rows", rows),
];
