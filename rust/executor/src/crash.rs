//! A crash that a test has asked for: the engine stops before or after one of its commits, as if its process had died
//! there. Nothing is committed from then on, and nothing is closed.

use std::sync::atomic::{AtomicU64, Ordering};

use bide_store::StoreError;

/// When an engine crashes, if it is to.
#[derive(Default)]
pub(crate) struct Crash {
    /// The commits that have begun.
    begun: AtomicU64,
    /// Twice the number of the commit, and one more for a crash after it; 0: it does not crash.
    at: AtomicU64,
}

impl Crash {
    /// Crashes the engine before or after this commit, counted from 1.
    pub(crate) fn plan(&self, commit: u64, is_after: bool) {
        self.at.store(2 * commit + u64::from(is_after), Ordering::SeqCst);
    }

    /// How many commits have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// A commit begins.
    ///
    /// # Errors
    /// If the engine crashes before it.
    pub(crate) fn before_commit(&self) -> Result<(), StoreError> {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.reached(2 * number)
    }

    /// The commit was made. (Commits are made one after the other.)
    ///
    /// # Errors
    /// If the engine crashes after it.
    pub(crate) fn after_commit(&self) -> Result<(), StoreError> {
        self.reached(2 * self.begun() + 1)
    }

    fn reached(&self, place: u64) -> Result<(), StoreError> {
        if self.at.load(Ordering::SeqCst) == place {
            return Err(StoreError::Unavailable("the runner has crashed here, as a test has asked for".to_owned()));
        }
        Ok(())
    }

    /// Whether it was asked to crash: what it reports from then on is no news.
    pub(crate) fn is_planned(&self) -> bool {
        self.at.load(Ordering::SeqCst) > 0
    }
}
