//! Runs in one SQLite file, which several runners and processes may use at once.
//!
//! There is one [`SqliteStore`] object per file and process, with one connection that writes (behind a lock, in `WAL`
//! mode), one that reads and one for the checkpointer. Nothing here decides about runs: it reads and writes rows.
//!
//! `fork`: a child inherits neither the locks nor a usable connection, so that every method of an inherited store
//! answers with an error, and its drop does nothing.

mod busy;
mod checkpoint;
mod error;
mod fork;
mod lease;
mod lock;
#[cfg(test)]
mod plans;
mod read;
mod registry;
mod schema;
mod surroundings;
mod transaction;
mod workflow;
mod write;

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bide_core::record::{Batch, Committed, NewRun, RunRow, StoredRun};
use bide_core::{RunId, Time};
use bide_sync::{Mutex, MutexGuard};
use rusqlite::{Connection, OpenFlags};

use crate::{Creation, Durability, Lease, RunFilter, Store, StoreError, StoredVersion, StoredWorkflow};
use checkpoint::{Checkpointer, Debt};
use error::{Place, is_busy};
use lock::LockFile;
use surroundings::FileId;

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How safe "committed" is. Of two runners on one file in one process the stronger wins.
    pub durability: Durability,
    /// Whether a network file system is accepted. SQLite's locks do not hold on most of them.
    pub network: bool,
    /// How long a file that another process has locked is tried before [`StoreError::Busy`].
    pub patience: Duration,
    /// The page size of a new file; an old one keeps its own.
    pub page_size: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { durability: Durability::Normal, network: false, patience: Duration::from_secs(10), page_size: PAGE_SIZE }
    }
}

/// Chosen by the store's bench (see `benches/store.rs`).
const PAGE_SIZE: u32 = 1024;

/// Runs in one SQLite file. All runners of a process on one file share one of these.
pub struct SqliteStore {
    place: Place,
    path: PathBuf,
    file: FileId,
    pid: u32,
    full: AtomicBool,
    debt: Arc<Debt>,
    versions: read::Versions,
    news: lease::NewsCount,
    /// What must not be touched after a fork, not even to drop it.
    live: ManuallyDrop<Live>,
}

/// Everything with a descriptor. Dropped in this order: the thread first, the connections, then the lock, since the
/// lock says that all others here are alive.
struct Live {
    _checkpointer: Checkpointer,
    reader: Mutex<Connection>,
    writer: Arc<Mutex<Connection>>,
    lock: LockFile,
    news: Mutex<lease::News>,
}

impl SqliteStore {
    /// Opens a file, creating it if need be. The same file again gives the same store; of two durabilities the
    /// stronger wins.
    ///
    /// # Errors
    /// `Unavailable` with the reason and the remedy; `Busy` if another process keeps the file locked.
    pub fn open(path: &Path, durability: Durability) -> Result<Arc<Self>, StoreError> {
        Self::open_with(path, &Options { durability, ..Options::default() })
    }

    /// As [`SqliteStore::open`], with every option.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_with(path: &Path, options: &Options) -> Result<Arc<Self>, StoreError> {
        fork::install();
        let place = Place { name: path.display().to_string(), patience: options.patience };
        let full = surroundings::resolve(path, &place)?;
        registry::get_or_open(&full, &place, options, || {
            surroundings::check(&full, &place, options.network)?;
            let file = surroundings::create(&full, &place)?;
            let store = Self::open_file(full.clone(), file, place.clone(), options)?;
            Ok((file, Arc::new(store)))
        })
    }

    fn open_file(path: PathBuf, file: FileId, place: Place, options: &Options) -> Result<Self, StoreError> {
        let writer = connect(&path, &place, options.patience)?;
        prepare(&writer, &place, options)?;
        schema::migrate(&writer, &place, schema::MIGRATIONS)?;
        writer.pragma_update(None, "synchronous", level(options.durability)).map_err(|error| place.error(&error))?;
        let reader = connect(&path, &place, options.patience)?;
        let copier = connect(&path, &place, checkpoint::PATIENCE)?;
        copier.pragma_update(None, "synchronous", "NORMAL").map_err(|error| place.error(&error))?;

        let mut lock_path = path.clone().into_os_string();
        lock_path.push("-lock");
        let failed = |what: &str, error: std::io::Error| place.unavailable(&format!("{what} ({error})"));
        let lock = LockFile::open(lock_path.as_ref())
            .map_err(|error| failed(&format!("its lock file {} cannot be locked", lock_path.display()), error))?;
        let writer = Arc::new(Mutex::new(writer));
        let debt = Arc::new(Debt::default());
        let checkpointer = Checkpointer::start(debt.clone(), copier, writer.clone())
            .map_err(|error| failed("the checkpointer's thread cannot start", error))?;
        Ok(Self {
            place,
            path,
            file,
            pid: std::process::id(),
            full: AtomicBool::new(options.durability == Durability::Full),
            debt,
            versions: read::Versions::default(),
            news: lease::NewsCount::default(),
            live: ManuallyDrop::new(Live {
                _checkpointer: checkpointer,
                reader: Mutex::new(reader),
                writer,
                lock,
                news: Mutex::default(),
            }),
        })
    }

    /// From now on every commit survives power loss.
    fn strengthen(&self) -> Result<(), StoreError> {
        if !self.full.swap(true, Ordering::Relaxed) {
            let writer = self.writer()?;
            writer.pragma_update(None, "synchronous", "FULL").map_err(|error| self.place.error(&error))?;
        }
        Ok(())
    }

    /// Everything that holds descriptors, if this is still the process that opened them.
    fn live(&self) -> Result<&Live, StoreError> {
        if self.pid == std::process::id() {
            return Ok(&self.live);
        }
        Err(self.place.unavailable(
            "this store was opened before a fork and cannot be used in the child; start processes by spawn, or open \
             the store only after the fork",
        ))
    }

    fn writer(&self) -> Result<MutexGuard<'_, Connection>, StoreError> {
        Ok(self.live()?.writer.lock())
    }

    fn reader(&self) -> Result<MutexGuard<'_, Connection>, StoreError> {
        Ok(self.live()?.reader.lock())
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return;
        }
        let live = &raw mut self.live;
        registry::close(self.file, &raw const *self, || {
            // SAFETY: `live` is dropped here only, once, in the destructor, and nothing reads it afterwards; the
            // pointer is to a field of `self`, which outlives this call.
            unsafe { ManuallyDrop::drop(&mut *live) }
        });
    }
}

fn level(durability: Durability) -> &'static str {
    match durability {
        Durability::Normal => "NORMAL",
        Durability::Full => "FULL",
    }
}

/// A connection with our manners. The file exists, so that a deleted one is not made anew by accident.
fn connect(path: &Path, place: &Place, patience: Duration) -> Result<Connection, StoreError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        busy::wait_for(&mut connection, patience)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        Ok(connection)
    };
    open().map_err(|error| place.error(&error))
}

/// Sets what is part of the file's format. Only after it is known that the file is ours or empty.
fn prepare(connection: &Connection, place: &Place, options: &Options) -> Result<(), StoreError> {
    let found = schema::inspect(connection, place, schema::MIGRATIONS.len())?;
    let set = || -> rusqlite::Result<String> {
        if found == schema::Found::Empty {
            connection.pragma_update(None, "page_size", options.page_size)?;
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        // The log is kept for reuse, but not at the size that one bad moment gave it.
        connection.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |_| Ok(()))?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
    };
    let since = Instant::now();
    loop {
        match set() {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => {
                return Err(place.unavailable("its file system does not allow a write-ahead log; use a local path"));
            }
            // Changing the mode needs the file alone for a moment, and SQLite does not ask its busy handler then.
            Err(error) if is_busy(&error) && since.elapsed() < options.patience => busy::nap(),
            Err(error) => return Err(place.error(&error)),
        }
    }
}

impl Store for SqliteStore {
    fn name(&self) -> &str {
        &self.place.name
    }

    fn blocks(&self) -> bool {
        true
    }

    fn enroll(&self, now: Time) -> Result<Lease, StoreError> {
        self.insert_runner(now)
    }

    fn renew(&self, lease: Lease, now: Time) -> Result<(), StoreError> {
        self.prolong(lease, now)
    }

    fn leave(&self, lease: Lease) -> Result<(), StoreError> {
        self.delete_runner(lease)
    }

    fn register(
        &self,
        name: &str,
        version: &str,
        tasks: &[(Arc<str>, Vec<Arc<str>>)],
    ) -> Result<StoredWorkflow, StoreError> {
        self.record_version(name, version, tasks)
    }

    fn create(&self, lease: Lease, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        self.insert_runs(lease, runs)
    }

    fn commit(&self, lease: Lease, batch: &mut Batch) -> Result<Committed, StoreError> {
        self.write(lease, batch)
    }

    fn versions(&self, workflow: i64) -> Result<Vec<StoredVersion>, StoreError> {
        self.read_versions(workflow)
    }

    fn claim(&self, lease: Lease, versions: &[i64], now: Time, limit: usize) -> Result<Vec<RunId>, StoreError> {
        self.take_over(lease, versions, now, limit)
    }

    fn load(&self, run: RunId) -> Result<Option<StoredRun>, StoreError> {
        self.read_run(run)
    }

    fn by_key(&self, key: &str, workflow: Option<&str>) -> Result<Vec<(RunId, Arc<str>)>, StoreError> {
        self.read_key(key, workflow)
    }

    fn list(&self, filter: &RunFilter) -> Result<Vec<RunRow>, StoreError> {
        self.read_list(filter)
    }

    fn purge(&self, before: Time, limit: usize) -> Result<usize, StoreError> {
        self.delete_ended(before, limit)
    }

    fn delete(&self, run: RunId) -> Result<bool, StoreError> {
        self.delete_one(run)
    }

    fn news(&self) -> Result<u64, StoreError> {
        self.look_for_news()
    }
}
