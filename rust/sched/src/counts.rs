//! How often this process did the operations that cost most. Tests assert these numbers, because they are the same on
//! every machine and times are not. Counting is one relaxed addition beside work of a thousand times its cost.

use std::sync::atomic::{AtomicU64, Ordering};

static COMMITS: AtomicU64 = AtomicU64::new(0);
static WAKES: AtomicU64 = AtomicU64::new(0);

/// The counts since the process started, over all its engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Batches that were committed, and creations of runs.
    pub commits: u64,
    /// Sleeping threads that were woken: workers, the committer, callers.
    pub wakes: u64,
}

/// The counts so far.
#[must_use]
pub fn counts() -> Counts {
    Counts { commits: COMMITS.load(Ordering::Relaxed), wakes: WAKES.load(Ordering::Relaxed) }
}

/// Counts one commit.
#[inline]
pub fn add_commit() {
    COMMITS.fetch_add(1, Ordering::Relaxed);
}

/// Counts one wake.
#[inline]
pub fn add_wake() {
    WAKES.fetch_add(1, Ordering::Relaxed);
}
