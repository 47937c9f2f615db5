//! What keeps a store small.

use bide_core::Time;
use bide_core::record::RunRowId;

use crate::StoreError;

/// What one step of a purge has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// How many runs were deleted.
    pub runs: usize,
    /// The row number to continue from; `None`: that was the last step.
    pub next: Option<RunRowId>,
}

/// Keeping a store small, and warnings about its surroundings: for background threads.
pub trait Maintenance {
    /// One step of a purge: looks at the next runs in the order of their row numbers, at most `limit` of them, and
    /// deletes those that ended before `before`, in one short commit. Several may purge at once. A child goes with its
    /// parent, which stays until all runs below it have ended; one with many children takes several steps.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`.
    fn purge(&self, before: Time, from: RunRowId, limit: usize) -> Result<Purged, StoreError>;

    /// Returns some of the pages that deletion has freed to the file system, if there are many. True if there are more.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`.
    fn shrink(&self) -> Result<bool, StoreError>;

    /// Something about the store's surroundings that its user should change and that stops nothing yet: returned once
    /// each time it begins. Cheap: asked every 50 ms.
    fn warning(&self) -> Option<String> {
        None
    }
}
