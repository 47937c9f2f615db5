//! The stores that are open in this process: one object per file, however many runners use it.
//!
//! A second object would have a second descriptor of the lock file, and closing either would free the process's lock.
//! So a store is opened and closed under this registry's lock, and a file that is just being closed is waited for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use bide_sync::{Condvar, Mutex};

use super::error::Identity;
use super::surroundings::{FileId, identify};
use super::{Options, SqliteStore, room};
use crate::{Durability, StoreError};

#[derive(Default)]
struct Registry {
    /// The open stores, by file.
    open: Mutex<HashMap<FileId, Entry>>,
    /// Notified when a store was closed.
    closed: Condvar,
}

struct Entry {
    /// The process that opened it; a forked child inherits the entry, but not the locks.
    pid: u32,
    /// Its path, to notice that the file there was replaced.
    path: PathBuf,
    /// The store; gone while it is being closed.
    store: Weak<SqliteStore>,
}

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::default);

/// Long enough for any other opening or closing; passed only if a fork happened in the middle of one.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The store of this file: the one that is open in this process, else what `open` opens.
pub(super) fn get_or_open(
    path: &Path,
    identity: &Identity,
    options: &Options,
    open: impl FnOnce() -> Result<(FileId, Arc<SqliteStore>), StoreError>,
) -> Result<Arc<SqliteStore>, StoreError> {
    let until = Instant::now() + TIMEOUT;
    let stuck = || identity.unavailable("this process was forked while it opened or closed a store; use spawn instead");
    let mut stores = REGISTRY.open.try_lock_until(until).ok_or_else(stuck)?;
    while let Some(entry) = identify(path).and_then(|file| stores.get(&file)) {
        if entry.pid != std::process::id() {
            return Err(identity.unavailable(
                "the process from which this one was forked has it open, and SQLite cannot open it again here; start \
                 processes by spawn, or open the store only after the fork",
            ));
        }
        if let Some(store) = entry.store.upgrade() {
            drop(stores);
            store.files.still_there(&store.identity)?;
            if options.durability == Durability::Full {
                store.strengthen()?;
            }
            return Ok(store);
        }
        // The last reference is gone and its drop is about to close the file.
        if REGISTRY.closed.wait_until(&mut stores, until).timed_out() {
            return Err(stuck());
        }
    }
    if stores.values().any(|entry| entry.path == path) {
        return Err(identity
            .unavailable("the file was deleted or replaced while this process has it open; close what uses it first"));
    }
    let (file, store) = open()?;
    stores.insert(file, Entry { pid: std::process::id(), path: path.into(), store: Arc::downgrade(&store) });
    Ok(store)
}

/// Closes a store's files and forgets it, as one step.
pub(super) fn close(file: FileId, store: *const SqliteStore, close: impl FnOnce()) {
    let mut stores = REGISTRY.open.lock();
    close();
    // A store that failed to open is dropped without an entry, or beside the entry of another.
    if stores.get(&file).is_some_and(|entry| std::ptr::eq(entry.store.as_ptr(), store)) {
        stores.remove(&file);
    }
    REGISTRY.closed.notify_all();
}

impl SqliteStore {
    /// From now on every commit survives power loss.
    fn strengthen(&self) -> Result<(), StoreError> {
        if !self.full.swap(true, Ordering::Relaxed) {
            let writer = self.writer()?;
            let writer = writer.fresh();
            writer.pragma_update(None, "synchronous", "FULL").map_err(|error| self.identity.error(&error))?;
            room::make(writer, self.files.log(), &self.identity)?;
        }
        Ok(())
    }
}
