//! The connection that writes, and the snapshot that it keeps from one commit to the next.
//!
//! Four of the six lock calls of a short commit are those of beginning and ending to read, which every transaction
//! does. So a statement that has not been read to its end keeps the snapshot open beyond the commit, and the next
//! transaction takes the write lock alone: SQLite refuses it if another connection has written meanwhile, and then it
//! begins as usual. A kept snapshot keeps checkpoints from copying the log beyond it, other processes' too. So
//! everything but a hot commit releases it first: the poll for changes, which a runner makes all the time, and the
//! checkpoint itself.
//!
//! A kept snapshot also tells whether others have written, for two lock calls: SQLite gives the write lock only to a
//! snapshot that is still what is committed.

use std::cell::Cell;

use rusqlite::{Connection, ffi};

use super::error::Identity;
use super::transaction::{Transaction, run};
use crate::StoreError;

/// The number of commits that keep no snapshot after another process has written: they would be of no use while it
/// writes.
const REST: u32 = 32;

/// The writing connection.
pub(super) struct Writer {
    /// The kept snapshot. Dropped before the connection, to which its statement belongs.
    snapshot: Snapshot,
    /// The connection itself.
    connection: Connection,
    /// What SQLite's counter of other connections' commits showed when it was last read.
    data_version: Cell<Option<i64>>,
    /// See [`Writer::arrivals`].
    arrivals: Cell<u64>,
}

impl Writer {
    pub(super) fn new(connection: Connection) -> rusqlite::Result<Self> {
        let (data_version, arrivals) = Default::default();
        Ok(Self { snapshot: Snapshot::of(&connection)?, connection, data_version, arrivals })
    }

    /// A number that is another one once another process has written since it was last asked for, or after
    /// [`Writer::count_arrival`]. It does not wait for other processes.
    pub(super) fn arrivals(&self) -> rusqlite::Result<u64> {
        if self.snapshot.kept.get() && run(&self.connection, "BEGIN IMMEDIATE").is_ok() {
            let looked = if self.snapshot.is_first.replace(false) { self.look() } else { Ok(()) };
            // It has changed nothing, and keeps the snapshot.
            run(&self.connection, "COMMIT")?;
            looked?;
        } else {
            self.fresh();
            self.look()?;
        }
        Ok(self.arrivals.get())
    }

    /// This process has written something that is more than a commit of its runs.
    pub(super) fn count_arrival(&self) {
        self.arrivals.set(self.arrivals.get() + 1);
    }

    /// Counts an arrival if another process has written since the last look.
    fn look(&self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached("PRAGMA data_version")?;
        let version = statement.query_row([], |row| row.get(0))?;
        if self.data_version.replace(Some(version)) != Some(version) {
            self.count_arrival();
        }
        Ok(())
    }

    /// The connection, which reads what is committed now.
    pub(super) fn fresh(&self) -> &Connection {
        self.snapshot.release();
        &self.connection
    }

    /// Begins a transaction whose commit keeps the snapshot.
    pub(super) fn begin<'w>(&'w self, identity: &'w Identity) -> Result<Transaction<'w>, StoreError> {
        Transaction::begin_on(&self.connection, &self.snapshot, identity)
    }
}

/// The statement that keeps a snapshot open while it has rows to read.
pub(super) struct Snapshot {
    /// The prepared statement.
    statement: *mut ffi::sqlite3_stmt,
    /// Whether it has rows to read, and so keeps a snapshot.
    kept: Cell<bool>,
    /// Whether nobody has looked since it was kept if others had written before.
    is_first: Cell<bool>,
    /// How many more commits keep no snapshot.
    rest: Cell<u32>,
}

// SAFETY: SQLite is built for use by several threads, and a statement may be used by any thread as long as no
// other thread uses its connection at the same time. It is used only through the `Writer`, which owns the connection
// too and is not `Sync`.
unsafe impl Send for Snapshot {}

impl Snapshot {
    /// Reads a table with rows that nothing hot writes to: an open cursor would be in the way of such writes.
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement = std::ptr::null_mut();
        let sql = c"SELECT 1 FROM sqlite_schema";
        // SAFETY: the connection is alive and used by this thread alone; the text ends with a zero; the statement is
        // finalized once, by `drop`, which `Writer` has run before the connection is closed.
        let code = unsafe {
            let flags = ffi::SQLITE_PREPARE_PERSISTENT;
            ffi::sqlite3_prepare_v3(
                connection.handle(),
                sql.as_ptr(),
                -1,
                flags,
                &raw mut statement,
                std::ptr::null_mut(),
            )
        };
        if code != ffi::SQLITE_OK {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        }
        let (kept, is_first, rest) = Default::default();
        Ok(Self { statement, kept, is_first, rest })
    }

    /// Within a transaction that is about to be committed: keeps what it reads and will have written.
    pub(super) fn keep(&self) {
        if self.kept.get() {
            return;
        }
        if let Some(rest) = self.rest.get().checked_sub(1) {
            self.rest.set(rest);
            return;
        }
        // SAFETY: the statement lives as long as `self`. Not to be kept is no failure.
        self.kept.set(unsafe { ffi::sqlite3_step(self.statement) } == ffi::SQLITE_ROW);
        self.is_first.set(true);
        if !self.kept.get() {
            self.reset();
        }
    }

    /// From here on the connection reads what is committed. True if there was a snapshot to release.
    pub(super) fn release(&self) -> bool {
        let kept = self.kept.replace(false);
        if kept {
            self.reset();
        }
        kept
    }

    /// Another connection has written meanwhile, or holds the file.
    pub(super) fn rest(&self) {
        self.rest.set(REST);
    }

    fn reset(&self) {
        // SAFETY: as in `keep`. What is answered is the last step's error.
        unsafe { ffi::sqlite3_reset(self.statement) };
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // SAFETY: made by `of`, finalized only here, before its connection is closed.
        unsafe { ffi::sqlite3_finalize(self.statement) };
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    struct Scene {
        folder: tempfile::TempDir,
        identity: Identity,
        writer: Writer,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let identity = Identity { name: "a.db".into(), busy_timeout: Duration::ZERO };
            let connection = Connection::open(folder.path().join("a.db")).unwrap();
            connection.busy_timeout(Duration::ZERO).unwrap();
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
            connection.execute_batch("CREATE TABLE a (x)").unwrap();
            Self { folder, identity, writer: Writer::new(connection).unwrap() }
        }

        fn other(&self) -> Connection {
            let path: PathBuf = self.folder.path().join("a.db");
            let other = Connection::open(path).unwrap();
            other.busy_timeout(Duration::ZERO).unwrap();
            other
        }

        fn add(&self, row: i64) -> Result<(), StoreError> {
            let transaction = self.writer.begin(&self.identity)?;
            transaction.connection().execute("INSERT INTO a VALUES (?1)", [row]).unwrap();
            transaction.commit()
        }

        fn is_kept(&self) -> bool {
            self.writer.snapshot.kept.get()
        }
    }

    fn rows(connection: &Connection) -> Vec<i64> {
        let mut statement = connection.prepare("SELECT x FROM a ORDER BY x").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// How much of the log a checkpoint cannot copy.
    fn held_back(connection: &Connection) -> i64 {
        let mut statement = connection.prepare("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        statement.query_row([], |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?)).unwrap()
    }

    #[test]
    fn a_snapshot_is_kept_from_commit_to_commit_and_others_see_each_of_them() {
        let scene = Scene::new();
        let other = scene.other();
        for row in 0..3 {
            scene.add(row).unwrap();
            assert!(scene.is_kept());
            assert_eq!(rows(&other), (0..=row).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_released_snapshot_keeps_nothing_of_the_log_from_being_copied() {
        let scene = Scene::new();
        let other = scene.other();
        scene.add(1).unwrap();
        scene.add(2).unwrap();
        assert_ne!(held_back(&other), 0);
        scene.writer.fresh();
        assert_eq!(held_back(&other), 0);
    }

    #[test]
    fn what_others_have_written_meanwhile_is_there_when_the_next_transaction_begins() {
        let scene = Scene::new();
        let other = scene.other();
        for round in 0..100 {
            scene.add(round).unwrap();
            other.execute("INSERT INTO a VALUES (?1)", [1000 + round]).unwrap();
            let transaction = scene.writer.begin(&scene.identity).unwrap();
            transaction.connection().execute("INSERT INTO a VALUES (?1)", [2000 + round]).unwrap();
            assert_eq!(rows(transaction.connection()).len(), usize::try_from(3 * round + 3).unwrap());
            transaction.commit().unwrap();
        }
        assert_eq!(rows(&other), (0..100).chain(1000..1100).chain(2000..2100).collect::<Vec<_>>());
    }

    #[test]
    fn an_arrival_is_counted_after_each_commit_of_another_and_after_none_of_its_own() {
        let scene = Scene::new();
        let other = scene.other();
        let arrivals = || scene.writer.arrivals().unwrap();
        for round in 0..100 {
            let before = arrivals();
            let own = round % 4;
            for row in 0..own {
                scene.add(row).unwrap();
                // The poll for changes, which releases the snapshot.
                if round % 3 == 0 {
                    scene.writer.fresh();
                }
                assert_eq!(arrivals(), before);
            }
            other.execute("INSERT INTO a VALUES (?1)", [1000 + round]).unwrap();
            if round % 5 == 0 {
                // Its next commit begins after that of the other.
                scene.add(round).unwrap();
            }
            assert_ne!(arrivals(), before, "in round {round}");
        }
    }

    #[test]
    fn arrivals_are_counted_while_another_holds_the_file() {
        let scene = Scene::new();
        let other = scene.other();
        scene.add(1).unwrap();
        let before = scene.writer.arrivals().unwrap();
        other.execute_batch("BEGIN IMMEDIATE; INSERT INTO a VALUES (2)").unwrap();
        assert_eq!(scene.writer.arrivals().unwrap(), before);
        other.execute_batch("COMMIT").unwrap();
        assert_ne!(scene.writer.arrivals().unwrap(), before);
    }

    #[test]
    fn a_file_that_others_keep_locked_is_busy_and_afterwards_it_goes_on() {
        let scene = Scene::new();
        let other = scene.other();
        scene.add(1).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(matches!(scene.add(2), Err(StoreError::Busy { .. })));
        assert!(!scene.is_kept());
        other.execute_batch("INSERT INTO a VALUES (3); COMMIT").unwrap();
        scene.add(4).unwrap();
        assert_eq!(rows(&other), [1, 3, 4]);
    }

    #[test]
    fn a_transaction_that_is_not_committed_leaves_no_snapshot() {
        let scene = Scene::new();
        scene.add(1).unwrap();
        let transaction = scene.writer.begin(&scene.identity).unwrap();
        transaction.connection().execute("INSERT INTO a VALUES (2)", []).unwrap();
        drop(transaction);
        assert!(!scene.is_kept());
        assert_eq!(rows(scene.writer.fresh()), [1]);
    }
}
