//! Watches in a store: rows that are changed only as they were read, together with the runs that new items start.

use std::sync::Arc;

use bide_core::record::NewRun;
use bide_core::watches::Watch;

use crate::StoreError;

/// A watch as it was read.
#[derive(Clone, Debug)]
pub struct StoredWatch {
    /// Its name.
    pub name: Arc<str>,
    /// Raised by each change of the watch.
    pub revision: i64,
    /// The watch. `None`: it was removed. An error: it does not read back.
    pub watch: Result<Option<Watch>, StoreError>,
}

/// An item, and the run that it starts if it is new.
#[derive(Clone, Debug)]
pub struct WatchItem {
    /// Its key: what makes it the same item.
    pub key: Arc<str>,
    /// Its run.
    pub run: NewRun,
}

/// A change of a watch, made if nobody else has changed it meanwhile.
#[derive(Clone, Debug)]
pub struct WatchChange {
    /// The name of the watch.
    pub name: Arc<str>,
    /// The revision that the change is based on. `None`: there is no such watch.
    pub expected: Option<i64>,
    /// What the watch is to be. `None`: it is removed; its keys stay.
    pub watch: Option<Watch>,
    /// Items. One whose key the watch has had starts no run, nor one whose run's key names a run. The other runs are
    /// created with the change, and belong to nobody.
    pub items: Vec<WatchItem>,
}

/// What became of a change.
#[derive(Clone, Debug)]
pub enum WatchChanged {
    /// It is committed.
    Done {
        /// The new revision.
        revision: i64,
        /// The watch as it is stored: it has counted the runs.
        watch: Option<Box<Watch>>,
        /// How many runs were created.
        started: usize,
    },
    /// The watch is not what the change is based on. Nothing was written.
    Moved,
    /// Another run has the row number of one of the runs: to be tried again under new ids. Nothing was written.
    NumberTaken,
}

impl WatchChange {
    /// The watch, with what it has started by the change.
    pub(crate) fn settled(&self, started: &[&NewRun]) -> Option<Watch> {
        let mut watch = self.watch.clone()?;
        watch.started = watch.started.saturating_add(i64::try_from(started.len()).unwrap_or(i64::MAX));
        if let Some(last) = started.last() {
            watch.last = Some((last.created_at, last.id));
        }
        Some(watch)
    }
}

/// The watches of a store, and the keys of their items. Retention never purges them.
pub trait Watches {
    /// All watches, by name; not those that were removed.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    fn watches(&self) -> Result<Vec<StoredWatch>, StoreError>;

    /// A watch by its name. `None`: there never was one.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    fn watch(&self, name: &str) -> Result<Option<StoredWatch>, StoreError>;

    /// Makes a change of a watch in one commit. One that is made again after its outcome was lost is `Moved`.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`; except for `Unknown` nothing was written.
    fn change_watch(&self, change: &WatchChange) -> Result<WatchChanged, StoreError>;
}
