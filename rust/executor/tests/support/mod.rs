//! What the integration tests share: every test runs on every store.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bide_executor::store::{Durability, MemoryStore, SqliteStore, Store};
use bide_executor::{Runner, core::RunId, core::record::TaskRow};

/// Nothing here takes this long unless it hangs.
pub(crate) const HANG: Duration = Duration::from_secs(20);

/// An interval that is short, for conditions that a test makes true.
pub(crate) const SOON: Duration = Duration::from_millis(2);

/// A store to open again and again: what was in it is still there.
pub(crate) struct Place {
    memory: Option<Arc<MemoryStore>>,
    directory: tempfile::TempDir,
}

impl Place {
    /// A memory store.
    pub(crate) fn memory() -> Self {
        Self { memory: Some(MemoryStore::new()), directory: tempfile::tempdir().unwrap() }
    }

    /// An SQLite file.
    fn sqlite() -> Self {
        Self { memory: None, directory: tempfile::tempdir().unwrap() }
    }

    /// Opens the store.
    pub(crate) fn open(&self) -> Arc<dyn Store> {
        match &self.memory {
            Some(memory) => Arc::clone(memory) as Arc<dyn Store>,
            None => SqliteStore::open(&Path::new(self.directory.path()).join("bide.db"), Durability::Normal).unwrap(),
        }
    }

    /// A runner on it.
    pub(crate) fn runner(&self, slots: u32) -> Runner {
        Runner::open(self.open()).slots(slots).start().unwrap()
    }
}

/// Runs a test on a memory store and on an SQLite file, each on a runtime of two threads; fails if it hangs.
pub(crate) fn on_every_store<T: Future<Output = ()>>(test: impl Fn(Place) -> T) {
    for place in [Place::memory(), Place::sqlite()] {
        let name = place.open().name().to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let done = runtime.block_on(async { tokio::time::timeout(HANG, test(place)).await });
        assert!(done.is_ok(), "hangs on {name}");
    }
}

/// A task's row, as the store has it.
pub(crate) fn row(store: &Arc<dyn Store>, run: RunId, task: &str) -> TaskRow {
    let stored = store.load(run).unwrap().unwrap();
    let id = stored.tasks.iter().find(|recorded| &*recorded.name == task).unwrap().id;
    stored.rows.into_iter().find(|row| row.task == id).unwrap()
}
