//! Shared by the integration tests: every test runs on every store.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bide_executor::Runner;
use bide_executor::core::RunId;
use bide_executor::core::record::TaskRow;
use bide_executor::store::{Durability, MemoryStore, SqliteStore, Store};
use bide_testkit::{DistantStore, Losses};

/// Nothing here takes this long unless it hangs.
pub(crate) const HANG: Duration = Duration::from_secs(20);

/// A short interval, for conditions that a test makes true.
pub(crate) const SOON: Duration = Duration::from_millis(2);

/// A store that can be opened repeatedly and keeps its content.
pub(crate) struct Place {
    memory: Option<Arc<MemoryStore>>,
    /// Whether it is behind a network that loses connections.
    is_distant: bool,
    directory: tempfile::TempDir,
}

impl Place {
    /// A memory store.
    pub(crate) fn memory() -> Self {
        Self { memory: Some(MemoryStore::new()), is_distant: false, directory: tempfile::tempdir().unwrap() }
    }

    /// An SQLite file.
    pub(crate) fn sqlite() -> Self {
        Self { memory: None, is_distant: false, directory: tempfile::tempdir().unwrap() }
    }

    /// A server with every seventh connection lost.
    fn distant() -> Self {
        Self { is_distant: true, ..Self::memory() }
    }

    /// Opens the store for a test to read, never over the network.
    pub(crate) fn open(&self) -> Arc<dyn Store> {
        match &self.memory {
            Some(memory) => Arc::clone(memory) as Arc<dyn Store>,
            None => SqliteStore::open(&Path::new(self.directory.path()).join("bide.db"), Durability::Normal).unwrap(),
        }
    }

    /// Opens the store for a runner.
    pub(crate) fn open_for_runner(&self) -> Arc<dyn Store> {
        if self.is_distant { DistantStore::new(self.open(), Losses::Every(7)) } else { self.open() }
    }

    /// A runner on it.
    pub(crate) fn runner(&self, slots: u32) -> Runner {
        Runner::open(self.open_for_runner()).slots(slots).start().unwrap()
    }
}

/// Runs a test on a memory store, on an SQLite file and on a store behind a network, each on a runtime of two threads;
/// fails if it hangs.
pub(crate) fn on_every_store<T: Future<Output = ()>>(test: impl Fn(Place) -> T) {
    for (name, place) in [("memory", Place::memory()), ("a file", Place::sqlite()), ("a server", Place::distant())] {
        run(name, Box::pin(test(place)));
    }
}

/// One function for all tests, which is compiled once.
fn run(store: &str, test: Pin<Box<dyn Future<Output = ()> + '_>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(async { tokio::time::timeout(HANG, test).await });
    assert!(done.is_ok(), "hangs on {store}");
}

/// A task's row in the store.
pub(crate) fn row(store: &Arc<dyn Store>, run: RunId, task: &str) -> TaskRow {
    let stored = store.load(run).unwrap().unwrap();
    let id = stored.tasks.iter().find(|recorded| &*recorded.name == task).unwrap().id;
    stored.rows.into_iter().find(|row| row.task == id).unwrap()
}
