//! Runs in one SQLite file, which several runners and processes may use at once.
//!
//! There is one [`SqliteStore`] object per file and process, with one connection that writes (behind a lock, in `WAL`
//! mode), one that reads and one for the checkpointer. Nothing here decides about runs: it reads and writes rows.
//!
//! `fork`: a child inherits neither the locks nor a usable connection, so that every method of an inherited store
//! answers with an error, and its drop does nothing.

mod blame;
mod busy;
mod changes;
mod checkpoint;
mod connection;
mod convert;
pub(crate) mod error;
mod events;
mod fields;
mod fork;
#[cfg(target_os = "linux")]
mod hint;
mod lease;
mod limits;
#[cfg(target_os = "linux")]
mod listen;
mod listing;
mod lock;
mod look;
mod messages;
mod names;
mod options;
#[cfg(target_os = "linux")]
mod peers;
#[cfg(test)]
mod plans;
mod purge;
mod read;
mod registry;
mod room;
mod schedules;
mod schema;
mod surroundings;
mod system;
mod transaction;
#[cfg(target_os = "linux")]
mod wake;
#[cfg(not(target_os = "linux"))]
#[path = "wake_elsewhere.rs"]
mod wake;
mod watches;
mod workflow;
mod write;
mod writer;

use std::fs;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bide_core::record::{NewRun, NewTask, RunRowId, StoredRun};
use bide_core::{Cancel, Failure, Message, RunId, RunStatus, StoredEvents, StoredMessage, Time, Value};
use bide_sync::{Mutex, MutexGuard};
use rusqlite::Connection;

use crate::changes::ChangeLog;
use crate::{
    Changes, Commit, CommitId, Conversion, Converted, Creation, Durability, EventRange, Lease, LeaseTime, Maintenance,
    Purged, RunFilter, Seen, Sent, Standing, Store, StoreError, StoredVersion, StoredWorkflow, Written,
};
use checkpoint::{Checkpointer, Debt};
use connection::{connect, level, prepare};
use error::Identity;
use lock::LockFile;
pub use options::Options;
use surroundings::{FileId, Files};
use wake::Wake;
use writer::Writer;

/// Runs in one SQLite file. All runners of a process on one file share one of these.
pub struct SqliteStore {
    /// The store's name, for errors.
    identity: Identity,
    /// Which file it is, for the registry.
    file: FileId,
    /// The files it consists of, to notice that one was replaced.
    files: Arc<Files>,
    /// The process that opened it: a forked child must not use it.
    pid: u32,
    /// Every commit survives power loss ([`Durability::Full`]).
    full: AtomicBool,
    /// What the checkpointer has to copy.
    debt: Arc<Debt>,
    /// A warning that other users can read the file, until it is reported.
    open_to_others: Mutex<Option<String>>,
    /// The tasks of versions that were read already.
    versions: read::Versions,
    /// What runners of this process poll for changes.
    changes: Arc<ChangeLog>,
    /// When a lease of this process was last found to have run out.
    late: lease::Late,
    /// Whether runs of this process may have shares of limits, which their ends release. Nobody else pays for limits.
    has_shares: AtomicBool,
    /// What must not be touched after a fork, not even to drop it.
    live: ManuallyDrop<Live>,
}

/// Everything with a descriptor. The threads are dropped first, and the lock last: it says that the others live.
struct Live {
    /// Hears of other processes, and tells them.
    wake: Wake,
    /// Copies the log. Held for its drop.
    _checkpointer: Checkpointer,
    /// The connection for reads.
    reader: Mutex<Connection>,
    /// The connection for writes.
    writer: Arc<Mutex<Writer>>,
    /// The lock that shows that this process lives.
    lock: LockFile,
    /// The state of the file at the last poll for changes.
    last_poll: Mutex<changes::LastPoll>,
}

impl SqliteStore {
    /// Opens a file, creating it if need be. The same file gives the same store; the stronger of two durabilities wins.
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
        system::install();
        fork::install();
        let identity = Identity { name: path.display().to_string(), busy_timeout: options.busy_timeout };
        let full = surroundings::resolve(path, &identity)?;
        registry::get_or_open(&full, &identity, options, || {
            surroundings::check(&full, &identity, options.network)?;
            names::check(&full, &identity)?;
            if !options.create && !full.exists() {
                return Err(identity.unavailable(
                    "there is no such file, and a Client makes none: open a Runner on it first, or name another path",
                ));
            }
            let open_to_others = surroundings::open_to_others(&full, &identity);
            let file = surroundings::create(&full, &identity)?;
            let store = Self::open_file(full.clone(), file, identity.clone(), options)?;
            *store.open_to_others.lock() = open_to_others;
            Ok((file, Arc::new(store)))
        })
    }

    fn open_file(path: PathBuf, file: FileId, identity: Identity, options: &Options) -> Result<Self, StoreError> {
        let busy_timeout = options.busy_timeout;
        let writer = connect(&path, &identity, move || busy_timeout)?;
        prepare(&writer, &identity, options)?;
        schema::migrate(&writer, &identity, schema::MIGRATIONS)?;
        writer.pragma_update(None, "synchronous", level(options.durability)).map_err(|error| identity.error(&error))?;
        if options.durability == Durability::Full {
            room::make(&writer, &surroundings::beside(&path, "-wal"), &identity)?;
        }
        let reader = connect(&path, &identity, move || busy_timeout)?;
        let debt = Arc::new(Debt::default());
        let debt_of_copier = debt.clone();
        let copier = connect(&path, &identity, move || debt_of_copier.busy_timeout())?;
        copier.pragma_update(None, "synchronous", "NORMAL").map_err(|error| identity.error(&error))?;

        let lock_path = surroundings::beside(&path, "-lock");
        let failed = |what: &str, error: std::io::Error| identity.system_error(what, &error, "");
        let lock = LockFile::open(&lock_path)
            .map_err(|error| failed(&format!("its lock file {} cannot be locked", lock_path.display()), error))?;
        if let Ok(file) = fs::metadata(&path) {
            // It matters only once the file has a second name. A full disk is reported by the next commit.
            let _ = lock.set_content(&names::home(&path, &file));
        }
        let writer = Arc::new(Mutex::new(Writer::new(writer).map_err(|error| identity.error(&error))?));
        let files = Arc::new(Files::of(&path, file, &identity)?);
        let (theirs, their_identity) = (files.clone(), identity.clone());
        // If the log was replaced or deleted, a checkpoint of the one that is open would overwrite what others wrote.
        let whole = move || theirs.still_there(&their_identity).is_ok();
        let checkpointer = Checkpointer::start(debt.clone(), copier, writer.clone(), whole)
            .map_err(|error| failed("the checkpointer's thread cannot start", error))?;
        let changes = Arc::new(ChangeLog::new(true));
        let wake = Wake::start(file, lock.own(), &changes);
        Ok(Self {
            identity,
            file,
            files,
            pid: std::process::id(),
            full: AtomicBool::new(options.durability == Durability::Full),
            debt,
            open_to_others: Mutex::default(),
            versions: read::Versions::default(),
            changes,
            late: lease::Late::default(),
            has_shares: AtomicBool::new(false),
            live: ManuallyDrop::new(Live {
                wake,
                _checkpointer: checkpointer,
                reader: Mutex::new(reader),
                writer,
                lock,
                last_poll: Mutex::default(),
            }),
        })
    }

    /// Everything that holds descriptors, if this is still the process that opened them.
    fn live(&self) -> Result<&Live, StoreError> {
        if self.pid == std::process::id() {
            return Ok(&self.live);
        }
        Err(self.identity.unavailable(
            "this store was opened before a fork and cannot be used in the child; start processes by spawn, or open \
             the store only after the fork",
        ))
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
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

impl Store for SqliteStore {
    fn name(&self) -> &str {
        &self.identity.name
    }

    fn blocks(&self) -> bool {
        true
    }

    fn enroll(&self, now: LeaseTime) -> Result<Lease, StoreError> {
        self.insert_runner(now)
    }

    fn renew(&self, lease: Lease, now: LeaseTime) -> Result<(), StoreError> {
        self.prolong(lease, now)
    }

    fn leave(&self, lease: Lease) -> Result<(), StoreError> {
        self.delete_runner(lease)
    }

    fn give_back(&self, lease: Lease, runs: &[RunRowId]) -> Result<(), StoreError> {
        self.free_runs(lease, runs)
    }

    fn register(&self, name: &str, version: &str, tasks: &[NewTask]) -> Result<StoredWorkflow, StoreError> {
        self.record_version(name, version, tasks)
    }

    fn declare(&self, version: i64, signals: Option<&[String]>) -> Result<(), StoreError> {
        self.record_signals(version, signals)
    }

    fn write(&self, lease: Lease, commit: &mut Commit<'_>) -> Result<Written, StoreError> {
        self.write_commit(lease, commit)
    }

    fn create_unowned(&self, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        self.create_free(runs)
    }

    fn versions(&self, workflow: i64) -> Result<Vec<StoredVersion>, StoreError> {
        self.read_versions(workflow)
    }

    fn unowned(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        self.unowned_versions()
    }

    fn claim_once(
        &self,
        _id: CommitId,
        lease: Lease,
        versions: &[i64],
        now: LeaseTime,
        limit: usize,
    ) -> Result<Vec<RunId>, StoreError> {
        self.claim_runs(lease, versions, now, limit)
    }

    fn is_alive(&self, runner: i64, now: LeaseTime) -> Result<bool, StoreError> {
        self.runner_lives(runner, now)
    }

    fn load(&self, run: RunId) -> Result<Option<StoredRun>, StoreError> {
        self.read_run(run)
    }

    fn standing(&self, run: RunId) -> Result<Option<Standing>, StoreError> {
        self.read_standing(run)
    }

    fn by_key(&self, key: &str, workflow: Option<&str>) -> Result<Vec<(RunId, Arc<str>)>, StoreError> {
        self.read_key(key, workflow)
    }

    fn list(&self, filter: &RunFilter) -> Result<Vec<StoredRun>, StoreError> {
        self.read_list(filter)
    }

    fn events(&self, run: RunId, channel: &str, range: EventRange) -> Result<Option<Vec<StoredEvents>>, StoreError> {
        self.read_events(run, channel, range)
    }

    fn children(&self, run: RunId) -> Result<Vec<(RunId, RunStatus)>, StoreError> {
        self.read_children(run)
    }

    fn delete(&self, run: RunId) -> Result<bool, StoreError> {
        self.delete_one(run)
    }

    fn unowned_of(&self, version: i64) -> Result<Vec<RunId>, StoreError> {
        self.read_unowned_of(version)
    }

    fn convert(&self, run: RunId, conversion: &Conversion) -> Result<Converted, StoreError> {
        self.convert_run(run, conversion)
    }

    fn end_unowned(&self, run: RunId, cancel: &Cancel, force: &Message) -> Result<bool, StoreError> {
        self.end_cancelled(run, cancel, force)
    }

    fn send(&self, run: RunId, message: &Message) -> Result<Sent, StoreError> {
        self.store_message(run, message)
    }

    fn messages(&self, run: RunId, after: i64) -> Result<Vec<StoredMessage>, StoreError> {
        self.read_messages(run, after)
    }

    fn arrivals(&self) -> Option<u64> {
        self.count_arrivals()
    }

    fn mail(&self, after: i64) -> Result<Vec<(i64, RunRowId)>, StoreError> {
        self.read_mail(after)
    }

    fn answer(&self, run: RunId, request: i64) -> Result<Option<Result<Value, Failure>>, StoreError> {
        self.read_answer(run, request)
    }

    fn wait_for_changes(&self, seen: Seen, timeout: Duration) -> Result<Changes, StoreError> {
        self.await_changes(seen, timeout)
    }

    fn interrupt_waits(&self) {
        self.changes.interrupt();
    }
}

impl Maintenance for SqliteStore {
    fn purge(&self, before: Time, from: RunRowId, limit: usize) -> Result<Purged, StoreError> {
        self.delete_ended(before, from, limit)
    }

    fn shrink(&self) -> Result<bool, StoreError> {
        self.return_pages()
    }

    fn warning(&self) -> Option<String> {
        let of_files = || self.files.warning(&self.identity);
        self.open_to_others.lock().take().or_else(of_files).or_else(|| self.debt.warning(&self.identity.name))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Instant;

    use bide_core::record::{Batch, DoneRow};
    use bide_core::{Value, Write};

    use super::options::PAGE_SIZE;
    use super::*;

    fn open(directory: &Path, durability: Durability) -> Arc<SqliteStore> {
        SqliteStore::open(&directory.join("bide.db"), durability).unwrap()
    }

    fn one_run(store: &SqliteStore) -> (Lease, RunId) {
        let workflow = store.register("workflow", "v1", &[]).unwrap();
        let lease = store.enroll(Time(0).into()).unwrap();
        let id = RunId::new(7, 0, 0);
        let new = NewRun::new(id, workflow.number, workflow.version, Time(7000));
        assert_eq!(store.create(lease, &[new]).unwrap(), [Creation::Created]);
        (lease, id)
    }

    fn batch(run: RunId, task: i64, size: usize) -> Batch {
        let output = Value::tagged(b's', &vec![b'x'; size]);
        vec![Write::Done(DoneRow::new(run.row(), task, output, Time(1), Time(2)))]
    }

    #[test]
    fn of_two_durabilities_the_stronger_wins() {
        let directory = tempfile::tempdir().unwrap();
        let level = |store: &SqliteStore| -> i64 {
            store.writer().unwrap().fresh().query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap()
        };
        let store = open(directory.path(), Durability::Normal);
        assert_eq!(level(&store), 1);
        open(directory.path(), Durability::Full);
        assert_eq!(level(&store), 2);
        open(directory.path(), Durability::Normal);
        assert_eq!(level(&store), 2);
    }

    #[test]
    fn a_new_file_has_the_format_it_must_have_from_the_first_migration_on() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), Durability::Normal);
        let writer = store.writer().unwrap();
        let writer = writer.fresh();
        let read = |name: &str| -> String {
            writer
                .query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0))
                .map(|value| format!("{value:?}"))
                .unwrap()
        };
        assert_eq!(read("journal_mode"), "Text(\"wal\")");
        assert_eq!(read("auto_vacuum"), "Integer(2)");
        assert_eq!(read("page_size"), format!("Integer({PAGE_SIZE})"));
        assert_eq!(read("wal_autocheckpoint"), "Integer(0)");
        assert_eq!(read("application_id"), format!("Integer({})", schema::APPLICATION_ID));
        assert_eq!(read("user_version"), format!("Integer({})", schema::MIGRATIONS.len()));
    }

    #[test]
    fn a_full_disk_is_said_nothing_is_written_and_the_store_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), Durability::Normal);
        let (lease, run) = one_run(&store);
        let limit = |pages: i64| {
            let writer = store.writer().unwrap();
            let writer = writer.fresh();
            writer.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
        };
        limit(100);
        let error = store.commit(lease, &mut batch(run, 0, 1 << 20)).unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable(message) if message.contains("disk is full")), "{error}");
        assert!(store.load(run).unwrap().unwrap().rows.is_empty());
        limit(1 << 30);
        let _ = store.commit(lease, &mut batch(run, 0, 1 << 20)).unwrap();
        assert_eq!(store.load(run).unwrap().unwrap().rows.len(), 1);
    }

    #[test]
    fn once_everything_is_copied_back_the_log_starts_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), Durability::Normal);
        let (lease, run) = one_run(&store);
        let log = || std::fs::metadata(directory.path().join("bide.db-wal")).unwrap().len();
        let _ = store.commit(lease, &mut batch(run, 0, 5 << 20)).unwrap();
        let long = log();
        let begun = Instant::now();
        while !store.debt.is_paid() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the checkpointer does nothing");
            std::thread::yield_now();
        }
        let _ = store.commit(lease, &mut batch(run, 1, 5)).unwrap();
        assert_eq!(log(), long);
    }
}
