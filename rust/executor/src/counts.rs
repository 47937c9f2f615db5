//! How often this process has done what costs most. Tests assert these numbers, for they are the same on every
//! machine where times are not. A count is one relaxed addition beside work of a thousand times its cost.

use std::sync::atomic::{AtomicU64, Ordering};

static COMMITS: AtomicU64 = AtomicU64::new(0);
static WAKES: AtomicU64 = AtomicU64::new(0);

/// What was counted so far, over all engines of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Batches given to a store, and creations of runs.
    pub commits: u64,
    /// Threads that were told to go on: workers, the committer, callers.
    pub wakes: u64,
}

/// What was counted so far.
#[must_use]
pub fn counts() -> Counts {
    Counts { commits: COMMITS.load(Ordering::Relaxed), wakes: WAKES.load(Ordering::Relaxed) }
}

pub(crate) fn commits() {
    COMMITS.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn wakes() {
    WAKES.fetch_add(1, Ordering::Relaxed);
}
