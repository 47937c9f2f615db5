//! A disk that fails at every single call of SQLite during the life of a small store: nothing that was acknowledged
//! is lost, refused writes are absent, unknown writes are complete or absent, and the file is intact.
#![expect(clippy::unwrap_used, reason = "tests")]

mod faulty_disk;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{DoneRow, NewRun, NewTask};
use bide_core::{RunId, Time, Value, Write};
use bide_store::sqlite::Options;
use bide_store::{Creation, Durability, Lease, RunFilter, Seen, SqliteStore, Store, StoreError};
use faulty_disk::{Call, Disk, Fault, Lasts};
use rusqlite::{Connection, ffi};

const NOW: Time = Time(1_795_000_000_000_000);

/// The outcome of a write as its caller saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Written,
    NotWritten,
    Unknown,
}

/// The outcome of a store's life.
#[derive(Default)]
struct Ledger {
    /// Each run that the store was asked to create.
    runs: Vec<(RunId, Outcome)>,
    /// Each batch: the run, the first of its two tasks.
    batches: Vec<(RunId, i64, Outcome)>,
}

fn outcome<T>(result: &Result<T, StoreError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Written,
        Err(StoreError::Unknown(_)) => Outcome::Unknown,
        Err(_) => Outcome::NotWritten,
    }
}

fn open(path: &Path, durability: Durability) -> Result<Arc<SqliteStore>, StoreError> {
    // The longest time to try a lock: the fault may last.
    let busy_timeout = Duration::from_millis(3);
    SqliteStore::open_with(path, &Options { durability, busy_timeout, ..Options::default() })
}

fn id(n: u16) -> RunId {
    RunId::new(NOW.0 as u64 / 1000, n, 0)
}

fn new_run(n: u16, workflow: i64, version: i64) -> NewRun {
    let key = Some(format!("key {n}").into());
    NewRun::new(id(n), workflow, version, NOW).with_key(key).with_inputs([b'i'; 300].into())
}

fn batch(run: RunId, task: i64) -> Vec<Write> {
    let row = |task: i64, size: usize| {
        let output = Value::tagged(b's', &vec![b'0' + task as u8; size]);
        Write::Done(DoneRow::new(run.row(), task, output, Time(1), Time(2)))
    };
    vec![row(task, 10), row(task + 1, 5000)]
}

/// Everything that a runner asks of its store, until something fails and the runner stops.
fn live(store: &dyn Store, ledger: &mut Ledger) -> Result<(), StoreError> {
    let workflow = store.register("workflow", "v1", &[NewTask::new("task", vec![])])?;
    let lease = store.enroll(NOW.into())?;
    store.wait_for_changes(Seen::default(), Duration::ZERO)?;
    let created = store.create(lease, &[new_run(1, workflow.number, workflow.version)]);
    ledger.runs.push((id(1), outcome(&created)));
    assert_eq!(created?, [Creation::Created]);
    for task in [0, 2] {
        let committed = store.commit(lease, &mut batch(id(1), task));
        ledger.batches.push((id(1), task, outcome(&committed)));
        let _ = committed?;
    }
    store.renew(lease, NOW.into())?;
    look(store, lease, workflow.version)?;
    store.leave(lease)
}

fn look(store: &dyn Store, lease: Lease, version: i64) -> Result<(), StoreError> {
    assert_eq!(store.claim(lease, &[version], NOW.into(), 9)?, []);
    assert_eq!(store.load(id(1))?.unwrap().rows.len(), 4);
    assert_eq!(store.by_key("key 1", None)?.len(), 1);
    assert_eq!(store.list(&RunFilter::default())?.len(), 1);
    Ok(())
}

/// Checks the file as the next process will find it.
fn examine(path: &Path, ledger: &Ledger) {
    let sound: String =
        Connection::open(path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let store = open(path, Durability::Normal).unwrap();
    for (run, outcome) in &ledger.runs {
        let there = store.load(*run).unwrap().is_some();
        assert!(
            *outcome == Outcome::Unknown || there == (*outcome == Outcome::Written),
            "{run} was {outcome:?}, there: {there}"
        );
    }
    for (run, first, outcome) in &ledger.batches {
        let rows = store.load(*run).unwrap().map_or_else(Vec::new, |stored| stored.rows);
        let sizes: Vec<usize> = rows
            .iter()
            .filter(|row| row.task == *first || row.task == first + 1)
            .map(|row| row.output.as_ref().unwrap().as_bytes().len())
            .collect();
        let whole = sizes == [11, 5001];
        assert!(whole || sizes.is_empty(), "half of a batch: {sizes:?}");
        assert!(
            *outcome == Outcome::Unknown || whole == (*outcome == Outcome::Written),
            "{run} {first}: {outcome:?}, there: {whole}"
        );
    }
    // And it is usable.
    let workflow = store.register("workflow", "v2", &[NewTask::new("task", vec![])]).unwrap();
    let lease = store.enroll(NOW.into()).unwrap();
    assert_eq!(store.create(lease, &[new_run(9, workflow.number, workflow.version)]).unwrap(), [Creation::Created]);
    let _ = store.commit(lease, &mut batch(id(9), 0)).unwrap();
}

#[track_caller]
fn says_why(error: &StoreError, path: &Path) {
    let words = error.to_string();
    assert!(words.contains(path.to_str().unwrap()), "it does not name the file: {words}");
    assert!(!matches!(error, StoreError::Fenced { .. }), "{words}");
}

/// In memory if possible: the faults are simulated, and thousands of files are flushed.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The files that a process leaves if it is killed at this moment.
fn killed(path: &Path) -> PathBuf {
    let left = path.with_file_name("left");
    fs::create_dir(&left).unwrap();
    // The log first: pages that a checkpoint copies meanwhile are then in both.
    for name in ["bide.db-wal", "bide.db"] {
        match fs::copy(path.with_file_name(name), left.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
    left.join("bide.db")
}

/// Makes the nth call fail, for every n. Returns the number of calls.
fn exhaust(disk: &Disk, call: Call, fault: Fault, lasts: Lasts, durability: Durability) -> usize {
    for n in 1.. {
        let directory = directory();
        let path = directory.path().join("bide.db");
        let mut ledger = Ledger::default();
        disk.fail(call, n, fault, lasts);
        let store = open(&path, durability);
        let error = match &store {
            Ok(store) => live(&**store, &mut ledger).err(),
            Err(error) => Some(error.clone()),
        };
        let left = killed(&path);
        drop(store);
        let hits = disk.heal();
        let case = format!("{call:?} number {n}, {fault:?}, {lasts:?}, {durability:?}: {error:?}");
        if let Some(error) = &error {
            assert!(hits > 0, "{case}");
            says_why(error, &path);
        }
        for path in [&left, &path] {
            let examined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| examine(path, &ledger)));
            assert!(examined.is_ok(), "{case}, {}", path.display());
        }
        if hits == 0 {
            return n - 1;
        }
    }
    unreachable!("it ends with the first n that is not reached")
}

/// Each kind of call in turn.
fn exhaust_both_ways(call: Call, faults: &[Fault], at_least: usize) {
    for lasts in [Lasts::Once, Lasts::On] {
        exhaust_all(call, faults, lasts, at_least);
    }
}

fn exhaust_all(call: Call, faults: &[Fault], lasts: Lasts, at_least: usize) {
    let disk = Disk::take();
    // Not every pair, to save time: single faults are tested with the weaker durability, lasting ones with the
    // stronger.
    let durability = if lasts == Lasts::Once { Durability::Normal } else { Durability::Full };
    for fault in faults {
        let calls = exhaust(&disk, call, *fault, lasts, durability);
        assert!(calls >= at_least, "{call:?} was called {calls} times only");
    }
}

#[test]
fn a_write_that_fails_because_the_disk_is_full() {
    exhaust_both_ways(Call::Write, &[Fault::Fails(ffi::SQLITE_FULL)], 50);
}

#[test]
fn a_write_that_is_torn() {
    exhaust_both_ways(Call::Write, &[Fault::Half(ffi::SQLITE_IOERR_WRITE)], 50);
}

#[test]
fn a_sync_that_fails() {
    exhaust_both_ways(Call::Sync, &[Fault::Fails(ffi::SQLITE_IOERR_FSYNC)], 3);
}

#[test]
fn a_read_that_fails_or_ends_early() {
    exhaust_both_ways(
        Call::Read,
        &[Fault::Fails(ffi::SQLITE_IOERR_READ), Fault::Half(ffi::SQLITE_IOERR_SHORT_READ)],
        5,
    );
}

#[test]
fn a_truncation_a_size_or_an_opening_that_fails() {
    exhaust_both_ways(Call::Truncate, &[Fault::Fails(ffi::SQLITE_IOERR_TRUNCATE)], 0);
    exhaust_both_ways(Call::Size, &[Fault::Fails(ffi::SQLITE_IOERR_FSTAT)], 3);
    exhaust_both_ways(Call::Open, &[Fault::Fails(ffi::SQLITE_CANTOPEN)], 3);
}

#[test]
fn a_lock_that_fails_or_is_not_given() {
    exhaust_both_ways(Call::Lock, &[Fault::Fails(ffi::SQLITE_IOERR_LOCK), Fault::Fails(ffi::SQLITE_BUSY)], 3);
}

#[test]
fn shared_memory_that_cannot_be_had() {
    exhaust_both_ways(Call::ShmMap, &[Fault::Fails(ffi::SQLITE_IOERR_SHMMAP)], 3);
}

#[test]
fn a_lock_in_shared_memory_that_fails_or_is_not_given() {
    exhaust_both_ways(Call::ShmLock, &[Fault::Fails(ffi::SQLITE_IOERR_SHMLOCK)], 10);
    // Not lasting: other processes hold a reader's lock only for moments, and SQLite itself tries it for 10 s.
    exhaust_all(Call::ShmLock, &[Fault::Fails(ffi::SQLITE_BUSY)], Lasts::Once, 10);
}
