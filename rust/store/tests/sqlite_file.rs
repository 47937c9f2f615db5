//! The file: its permissions, what is refused and with which message, and how damage is reported.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{DoneRow, NewRun, NewTask};
use bide_core::{
    Address, Entry, EntryKey, EntryState, Message, MessageKind, NO_MAP, Operation, RecordKind, RunId, Time, Value,
    Write,
};
use bide_store::sqlite::Options;
use bide_store::{
    ChangedRuns, Changes, Creation, Durability, Lease, Maintenance, Seen, Sent, SqliteStore, Store, StoreError,
};
use rusqlite::Connection;

fn open(path: &Path) -> Arc<SqliteStore> {
    SqliteStore::open(path, Durability::Normal).unwrap()
}

/// The error message of a refused opening.
#[track_caller]
fn refusal(path: &Path) -> String {
    match SqliteStore::open(path, Durability::Normal) {
        Err(StoreError::Unavailable(message)) => message,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("{} was opened", path.display()),
    }
}

#[track_caller]
/// What a runner does periodically.
fn look(store: &dyn Store) -> Result<Changes, StoreError> {
    store.wait_for_changes(Seen::default(), Duration::ZERO)
}

fn says(message: &str, words: &[&str]) {
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

fn one_run(store: &dyn Store) -> (Lease, RunId) {
    let workflow = store.register("workflow", "v1", &[NewTask::new("task", vec![])]).unwrap();
    let lease = store.enroll(Time(0).into()).unwrap();
    let id = RunId::new(7, 0, 0);
    let new = NewRun::new(id, workflow.number, workflow.version, Time(7000)).with_key(Some("key".into()));
    assert_eq!(store.create(lease, &[new]).unwrap(), [Creation::Created]);
    let entry = Entry::new(EntryKey { name: "ready".into(), n: 1 }, 1, Operation::Condition { proof: None }, Time(1));
    let entry = Write::Entry { run: id.row(), task: 0, map: NO_MAP, entry: Arc::new(entry) };
    let _ = store.commit(lease, &mut vec![done(id, 0, b"i42"), entry]).unwrap();
    (lease, id)
}

fn done(run: RunId, task: i64, output: &[u8]) -> Write {
    Write::Done(DoneRow::new(run.row(), task, Value::new(output), Time(1), Time(2)))
}

#[test]
fn committed_data_is_there_when_the_file_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let store = open(&path);
    let (_, run) = one_run(&*store);
    drop(store);
    let stored = open(&path).load(run).unwrap().unwrap();
    assert_eq!(
        (&*stored.run.workflow, stored.run.id, stored.rows.len(), stored.entries.len()),
        ("workflow", run, 1, 1)
    );
    assert_eq!(stored.rows[0].output, Some(Value::new(b"i42")));
}

#[test]
fn a_file_has_one_store_object_for_all_its_paths() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let roundabout = directory.path().join("..").join(directory.path().file_name().unwrap()).join("bide.db");
    let store = open(&path);
    for other in [&path, &link, &roundabout] {
        assert!(Arc::ptr_eq(&store, &open(other)), "{}", other.display());
    }
    let elsewhere = open(&directory.path().join("other.db"));
    assert!(!Arc::ptr_eq(&store, &elsewhere));
}

#[test]
fn every_file_can_be_read_by_its_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("bide.db"));
    one_run(&*store);
    for name in ["bide.db", "bide.db-wal", "bide.db-shm", "bide.db-lock"] {
        let mode = fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_path_is_a_path_and_never_a_uri() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file:bide%20.db?mode=memory#x");
    one_run(&*open(&path));
    assert!(fs::metadata(&path).unwrap().len() > 0);
}

#[test]
fn paths_that_cannot_hold_a_store_are_refused_naming_path_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("nowhere").join("bide.db");
    says(&refusal(&missing), &[missing.to_str().unwrap(), "nowhere does not exist", "create it"]);
    says(&refusal(directory.path()), &[directory.path().to_str().unwrap(), "is a directory", "name a file"]);

    let text = directory.path().join("notes.txt");
    fs::write(&text, "not a database, but long enough to be looked at ".repeat(40)).unwrap();
    says(&refusal(&text), &[text.to_str().unwrap(), "not a database", "another path"]);
    assert!(fs::read_to_string(&text).unwrap().starts_with("not a database"));

    let foreign = directory.path().join("theirs.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = fs::read(&foreign).unwrap();
    says(&refusal(&foreign), &[foreign.to_str().unwrap(), "another program"]);
    assert_eq!(fs::read(&foreign).unwrap(), before);
}

#[test]
fn a_newer_schema_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    drop(open(&path));
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    says(&refusal(&path), &[path.to_str().unwrap(), "version 99", "up to 4", "upgrade bide"]);
    let version: i64 = Connection::open(&path).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 99);
}

#[test]
fn a_store_can_be_opened_after_a_refusal() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    fs::write(&path, "x".repeat(4096)).unwrap();
    refusal(&path);
    fs::remove_file(&path).unwrap();
    one_run(&*open(&path));
}

#[test]
fn a_locked_file_is_busy_after_its_timeout_and_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let busy_timeout = Duration::from_millis(30);
    let store = SqliteStore::open_with(&path, &Options { busy_timeout, ..Options::default() }).unwrap();
    let (lease, run) = one_run(&*store);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let busy = store.commit(lease, &mut vec![done(run, 1, b"t")]).unwrap_err();
    says(&busy.to_string(), &[path.to_str().unwrap(), "30ms", "nothing was written"]);
    assert!(matches!(busy, StoreError::Busy { .. }));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(store.load(run).unwrap().unwrap().rows.len(), 1);
    let _ = store.commit(lease, &mut vec![done(run, 1, b"t")]).unwrap();
}

/// A store with one run, to whose files this is then done.
fn open_while(harm: impl FnOnce(&Path)) -> (tempfile::TempDir, Arc<SqliteStore>, RunId) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("bide.db"));
    let (_, run) = one_run(&*store);
    look(&*store).unwrap();
    harm(directory.path());
    (directory, store, run)
}

#[test]
fn a_file_deleted_while_open_is_noticed_and_not_created_again() {
    let (directory, store, _) = open_while(|directory| fs::remove_file(directory.join("bide.db")).unwrap());
    let path = directory.path().join("bide.db");
    says(&look(&*store).unwrap_err().to_string(), &[path.to_str().unwrap(), "deleted or replaced"]);
    says(&refusal(&path), &["deleted or replaced while this process has it open"]);
    drop(store);
    one_run(&*open(&path));
}

#[test]
fn a_file_replaced_while_open_is_noticed_and_the_new_one_unchanged() {
    let elsewhere = tempfile::tempdir().unwrap();
    let other = elsewhere.path().join("bide.db");
    drop(open(&other));
    let before = fs::read(&other).unwrap();
    let (directory, store, run) = open_while(|directory| {
        fs::copy(&other, directory.join("new")).unwrap();
        fs::rename(directory.join("new"), directory.join("bide.db")).unwrap();
        for suffix in ["-wal", "-shm", "-lock"] {
            fs::remove_file(directory.join(format!("bide.db{suffix}"))).unwrap();
        }
    });
    let path = directory.path().join("bide.db");
    says(&look(&*store).unwrap_err().to_string(), &[path.to_str().unwrap(), "deleted or replaced"]);
    says(&refusal(&path), &["deleted or replaced while this process has it open"]);
    drop(store);
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(open(&path).load(run).unwrap().is_none());
}

#[test]
fn a_deleted_or_replaced_log_index_or_lock_file_is_noticed_without_loss() {
    for suffix in ["-wal", "-shm", "-lock"] {
        for replaced in [false, true] {
            let (directory, store, run) = open_while(|directory| {
                let path = directory.join(format!("bide.db{suffix}"));
                if replaced {
                    fs::write(directory.join("new"), "").unwrap();
                    fs::rename(directory.join("new"), path).unwrap();
                } else {
                    fs::remove_file(path).unwrap();
                }
            });
            let path = directory.path().join("bide.db");
            let name = format!("bide.db{suffix} was deleted or replaced");
            says(&look(&*store).unwrap_err().to_string(), &[path.to_str().unwrap(), &name, "start again"]);
            // No new connection opens it in that state.
            says(&refusal(&path), &[&name]);
            drop(store);
            assert_eq!(open(&path).load(run).unwrap().unwrap().rows.len(), 1, "{suffix}");
        }
    }
}

#[test]
fn a_file_that_is_emptied_while_open_is_noticed() {
    let (directory, store, _) = open_while(|directory| {
        fs::File::options().write(true).open(directory.join("bide.db")).unwrap().set_len(0).unwrap();
    });
    let path = directory.path().join("bide.db");
    says(&look(&*store).unwrap_err().to_string(), &[path.to_str().unwrap(), "emptied by another program"]);
    says(&refusal(&path), &["emptied by another program"]);
}

#[test]
fn a_path_may_have_any_name_that_a_file_may_have() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let names: [&[u8]; 12] = [
        b"a?mode=memory.db",
        b"a#b.db",
        b"100%41.db",
        b"new\nline.db",
        b"-leading.db",
        b" spaces .db ",
        b"'quoted\".db",
        b":memory:.db",
        b"back\\slash.db",
        "\u{1f980}.db".as_bytes(),
        "Ünïcode\u{202e}.db".as_bytes(),
        b"not utf-8 \xff\xfe.db",
    ];
    for name in names {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(OsStr::from_bytes(name));
        let store = open(&path);
        let (_, run) = one_run(&*store);
        let found: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(found.iter().all(|found| found.as_bytes().starts_with(name)), "{found:?}");
        assert_eq!(found.len(), 4, "{found:?}");
        drop(store);
        assert!(open(&path).load(run).unwrap().is_some());
    }
}

#[test]
fn a_path_that_is_too_long_for_sqlite_is_refused_with_that_reason() {
    let directory = tempfile::tempdir().unwrap();
    let long = |length: usize| {
        let mut path = directory.path().canonicalize().unwrap();
        while length - path.as_os_str().len() > 101 {
            path.push("d".repeat(80));
        }
        fs::create_dir_all(&path).unwrap();
        path.join("x".repeat(length - path.as_os_str().len() - 1))
    };
    let (longest, too_long) = (long(504), long(505));
    one_run(&*open(&longest));
    says(&refusal(&too_long), &["longer than the 504 bytes", "use a shorter one"]);
    assert!(!too_long.exists());
}

#[test]
fn a_path_that_is_not_a_regular_file_is_refused() {
    says(&refusal(Path::new("/dev/null")), &["/dev/null", "not a regular file"]);
    says(&refusal(Path::new("")), &["does not name a file"]);
    says(&refusal(Path::new("..")), &["is a directory"]);
}

#[test]
fn another_connections_commit_is_a_change_and_own_checkpoints_are_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let store = open(&path);
    let (lease, run) = one_run(&*store);
    let other = Connection::open(&path).unwrap();
    let seen = look(&*store).unwrap().seen;
    let _ = store.commit(lease, &mut vec![done(run, 1, b"t")]).unwrap();
    store.load(run).unwrap();
    other.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())).unwrap();
    // The log restarts with this one.
    let _ = store.commit(lease, &mut vec![done(run, 2, b"t")]).unwrap();
    assert!(!store.wait_for_changes(seen, Duration::ZERO).unwrap().unowned);
    other.execute("UPDATE run SET priority = 1", []).unwrap();
    let changes = store.wait_for_changes(seen, Duration::ZERO).unwrap();
    assert_eq!((changes.unowned, changes.runs), (true, ChangedRuns::Any));
}

/// What a runner does periodically, so that a runner without commits does not block a checkpoint.
#[test]
fn after_a_change_poll_our_commits_do_not_block_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let store = open(&path);
    let (lease, run) = one_run(&*store);
    let other = Connection::open(&path).unwrap();
    for task in 1..4 {
        let _ = store.commit(lease, &mut vec![done(run, task, b"t")]).unwrap();
    }
    look(&*store).unwrap();
    let (log, copied): (i64, i64) =
        other.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?))).unwrap();
    assert!(log > 0);
    assert_eq!(copied, log);
}

/// Another program writes each of these into the file; the error on reading it names the place of the damage.
#[test]
fn a_row_that_does_not_read_back_is_corrupt_naming_run_and_column() {
    let damage = [
        ("UPDATE task SET status = 99", "task.status"),
        ("UPDATE task SET sub_status = 7", "task.sub_status"),
        ("UPDATE task SET attempts = -1", "task.attempts"),
        ("UPDATE task SET entered = 4294967296", "task.entered"),
        ("UPDATE task SET map = 99999999999", "task.map"),
        ("UPDATE task SET failure = 'oops'", "task.failure"),
        ("UPDATE task SET blocked_by = CAST(x'ff' AS TEXT)", "task.blocked_by"),
        ("UPDATE journal SET kind = 99", "journal.kind"),
        ("UPDATE journal SET kind = 2, proof = x'ff'", "journal.proof"),
        ("UPDATE journal SET kind = 1", "journal.due"),
        ("UPDATE journal SET state = -1", "journal.state"),
        ("UPDATE journal SET seq = 4294967296", "journal.seq"),
        ("UPDATE journal SET n = -5", "journal.n"),
        ("UPDATE journal SET failure = '{}'", "journal.failure"),
        ("UPDATE run SET status = 6", "run.status"),
        ("UPDATE run SET crashes = -1", "run.crashes"),
        ("UPDATE run SET failure = '[]'", "run.failure"),
        ("UPDATE run SET workflow = 77", "run.workflow"),
        ("UPDATE run SET version = 77", "run.version"),
    ];
    for (sql, column) in damage {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bide.db");
        let store = open(&path);
        let (_, run) = one_run(&*store);
        assert_eq!(Connection::open(&path).unwrap().execute(sql, []).unwrap(), 1, "{sql}");
        match store.load(run) {
            Err(StoreError::Corrupt(message)) => {
                says(&message, &[path.to_str().unwrap(), &run.to_string(), column, "changed by another program"]);
            }
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[test]
fn a_mangled_id_or_task_list_is_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let store = open(&path);
    let (_, run) = one_run(&*store);
    drop(store);
    let other = Connection::open(&path).unwrap();
    other.execute("UPDATE version SET tasks = '[[0]]'", []).unwrap();
    let message = open(&path).load(run).unwrap_err().to_string();
    says(&message, &["version.tasks"]);
    other.execute("UPDATE run SET uuid = x'01'", []).unwrap();
    let store = open(&path);
    says(&store.by_key("key", None).unwrap_err().to_string(), &["run.uuid", "1 bytes"]);
    says(&store.list(&Default::default()).unwrap_err().to_string(), &["run.uuid"]);
}

#[test]
fn a_first_answer_that_does_not_read_back_still_stands() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let store = open(&path);
    let (lease, run) = one_run(&*store);
    let key = EntryKey { name: "callback".into(), n: 1 };
    let mut entry = Entry::new(key, 2, Operation::Record(RecordKind::Callback), Time(1));
    entry.state = EntryState::Satisfied;
    entry.value = Some(Value::tagged(b's', b"secret"));
    let entry = Write::Entry { run: run.row(), task: 0, map: NO_MAP, entry: Arc::new(entry) };
    let _ = store.commit(lease, &mut vec![entry]).unwrap();
    let answer = |number| {
        let address = Address { kind: MessageKind::Answer, name: "secret".into() };
        let content = Ok(Value::tagged(b'i', b"1"));
        Message { number, address, id: Some("id".into()), content, sent_at: Time(3) }
    };
    assert_eq!(store.send(run, &answer(1)).unwrap(), Sent::Stored);
    assert_eq!(Connection::open(&path).unwrap().execute("UPDATE message SET failure = 'x'", []).unwrap(), 1);
    assert_eq!(store.send(run, &Message { id: None, ..answer(2) }).unwrap(), Sent::Answered);
    assert_eq!(store.send(run, &answer(3)).unwrap(), Sent::Answered, "whether it is the same is not known");
}

#[test]
fn a_reader_of_an_old_state_stops_no_writer_and_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let store = open(&path);
    let (lease, run) = one_run(&*store);
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let rows = || -> i64 { reader.query_row("SELECT count(*) FROM task", [], |row| row.get(0)).unwrap() };
    assert_eq!(rows(), 1);
    let log = || fs::metadata(directory.path().join("bide.db-wal")).unwrap().len();
    let big = vec![b's'; 1 << 20];
    let mut tasks = 1..;
    let mut write_so = |output| store.commit(lease, &mut vec![done(run, tasks.next().unwrap(), output)]).map(drop);
    let mut write = || write_so(&big).unwrap();
    // Much longer than the checkpointer's threshold, but no warning yet.
    while log() < 16 << 20 {
        write();
    }
    assert_eq!(store.warning(), None);
    while log() < 66 << 20 {
        write();
    }
    let said = wait_for(|| store.warning());
    says(&said, &[path.to_str().unwrap(), "grown to 6", "MiB", "a reader keeps an old state open"]);
    for _ in 0..8 {
        write();
    }
    assert_eq!(store.warning(), None, "it is reported once");
    assert_eq!(rows(), 1);
    reader.execute_batch("COMMIT").unwrap();
    assert!(rows() > 66);
    // It is reused from its beginning, and truncated.
    wait_for(|| {
        write_so(b"t").unwrap();
        (log() <= 64 << 20).then_some(())
    });
}

/// Waits until a value is there.
#[track_caller]
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..20_000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it never came");
}
