//! Watches: what a store keeps of one, and when its source is called again. A watch has a source of items, each of which
//! starts one run. Calling the source is not done here.

use std::sync::Arc;
use std::time::Duration;

use crate::{RunId, Time, Value};

/// How many items a source may return at once: they are one commit.
pub const MOST_ITEMS: usize = 100_000;

/// A source that fails again and again is called this often at least, unless it is always called less often.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// A watch as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Its name.
    pub name: Arc<str>,
    /// The workflow of which it starts runs.
    pub workflow: Arc<str>,
    /// The number of the workflow.
    pub number: i64,
    /// Microseconds from one call of the source to the next.
    pub every: i64,
    /// What the source has returned to be called with next.
    pub cursor: Value,
    /// When it was defined.
    pub created_at: Time,
    /// Since when it is paused.
    pub paused_at: Option<Time>,
    /// The runner that calls the source.
    pub runner: Option<i64>,
    /// How many runs it has started.
    pub started: i64,
    /// When it has started the last one, and which.
    pub last: Option<(Time, RunId)>,
    /// Since when the source fails, and the message of its last failure.
    pub error: Option<(Time, Arc<str>)>,
}

impl Watch {
    /// One that was defined just now.
    #[must_use]
    pub fn new(name: Arc<str>, (workflow, number): (Arc<str>, i64), every: i64, now: Time) -> Self {
        Self {
            name,
            workflow,
            number,
            every,
            cursor: Value::NONE,
            created_at: now,
            paused_at: None,
            runner: None,
            started: 0,
            last: None,
            error: None,
        }
    }

    /// The span from one call of the source to the next.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.every).unwrap_or(0).max(1))
    }
}

/// The key of the run that an item starts.
#[must_use]
pub fn run_key(watch: &str, item: &str) -> Arc<str> {
    format!("{watch}@{item}").into()
}

/// How long after a failure the source is called again, if it has failed this often in a row.
#[must_use]
pub fn after_failure(every: Duration, failures: u32) -> Duration {
    let factor = 1 << failures.saturating_sub(1).min(20);
    every.saturating_mul(factor).min(LONGEST_BACKOFF.max(every))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_fails_is_called_less_and_less_often() {
        let spans = |every: u64, failures: &[u32]| -> Vec<u64> {
            failures.iter().map(|failures| after_failure(Duration::from_secs(every), *failures).as_secs()).collect()
        };
        assert_eq!(spans(5, &[1, 2, 3, 6, 7, 8, u32::MAX]), [5, 10, 20, 160, 300, 300, 300]);
        assert_eq!(spans(3600, &[1, 2, 9]), [3600, 3600, 3600]);
    }
}
