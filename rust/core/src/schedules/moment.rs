//! Moments as text: in the keys of runs, and as the input that a run gets.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::time::Time;

/// A moment in UTC, as ISO 8601: with microseconds only if there are some.
#[must_use]
pub fn text(moment: Time) -> String {
    let Some(moment) = DateTime::<Utc>::from_timestamp_micros(moment.0) else { return moment.0.to_string() };
    let digits = if moment.timestamp_subsec_micros() == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
    moment.to_rfc3339_opts(digits, true)
}

/// The key of the run of a tick.
#[must_use]
pub fn run_key(schedule: &str, tick: Time) -> Arc<str> {
    format!("{schedule}@{}", text(tick)).into()
}
