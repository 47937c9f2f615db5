//! Several processes on one file: the death of a process is detected at once, no live process counts as dead, and a
//! forked child is refused. The children are this test binary, started again for one ignored test.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{DoneRow, Mark, NewRun, NewTask};
use bide_core::{RunId, TaskRow, Time, Value, Write};
use bide_store::{Changes, Creation, Durability, Lease, RunFilter, Seen, SqliteStore, Store, StoreError};

/// How many runs each of several writing processes creates.
const EACH: u64 = 200;

const NOW: Time = Time(1_795_000_000_000_000);

fn look(store: &SqliteStore, seen: Seen) -> Changes {
    store.wait_for_changes(seen, Duration::ZERO).unwrap()
}

fn open(path: &Path) -> Arc<SqliteStore> {
    SqliteStore::open(path, Durability::Normal).unwrap()
}

fn register(store: &dyn Store) -> (i64, i64) {
    let workflow = store.register("workflow", "v1", &[NewTask::new("task", vec![])]).unwrap();
    (workflow.number, workflow.version)
}

fn own_a_run(store: &dyn Store) -> (Lease, RunId) {
    let (workflow, version) = register(store);
    let lease = store.enroll(NOW.into()).unwrap();
    let id = RunId::new(NOW.0 as u64 / 1000, 0, u64::from(std::process::id()) << 32);
    let new = NewRun::new(id, workflow, version, NOW);
    assert_eq!(store.create(lease, &[new]).unwrap(), [Creation::Created]);
    (lease, id)
}

/// Another process that plays a part until it is killed or signalled to continue.
struct Other {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(part: &str, path: &Path) -> Self {
        Self::start_as(part, path, None)
    }

    fn start_as(part: &str, path: &Path, user: Option<u32>) -> Self {
        // Another user may not reach the file of this program by its path.
        let program = if user.is_some() { "/proc/self/exe".into() } else { std::env::current_exe().unwrap() };
        let mut command = Command::new(program);
        command.args(["--exact", "play_a_part", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env("BIDE_PART", part).env("BIDE_PATH", path).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(user) = user {
            command.uid(user);
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line that it prints.
    fn says(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("it says something").unwrap();
            if let Some((_, said)) = line.split_once("SAYS ") {
                return said.to_owned();
            }
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Signals it to continue, and waits until it ends by itself.
    fn finish(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

fn say(what: impl std::fmt::Display) {
    println!("SAYS {what}");
}

fn wait_for_signal() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
#[ignore = "the children's part, started by the other tests"]
fn play_a_part() {
    let Some(path) = std::env::var_os("BIDE_PATH") else { return };
    let path = Path::new(&path);
    match std::env::var("BIDE_PART").unwrap().as_str() {
        "own a run" => {
            let store = open(path);
            // Opens the same file twice and closes the second: that must not release the lock.
            drop(open(path));
            let (lease, run) = own_a_run(&*store);
            say(run);
            wait_for_signal();
            let fenced = store.commit(lease, &mut Vec::new());
            say(matches!(fenced, Err(StoreError::Fenced { .. })));
            wait_for_signal();
        }
        "commit" => {
            let store = open(path);
            let (workflow, version) = register(&*store);
            let lease = store.enroll(NOW.into()).unwrap();
            for n in 0..EACH {
                let random = (u64::from(std::process::id()) << 32 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2;
                let id = RunId::new(NOW.0 as u64 / 1000, n as u16, random);
                let new = NewRun::new(id, workflow, version, NOW);
                assert_eq!(store.create(lease, &[new]).unwrap(), [Creation::Created]);
                let done = DoneRow::new(id.row(), 0, Value::NONE, NOW, NOW);
                let _ = store.commit(lease, &mut vec![Write::Done(done)]).unwrap();
            }
            store.leave(lease).unwrap();
            say("done");
        }
        runs if runs.starts_with("execute ") => {
            let store = open(path);
            let (workflow, version) = register(&*store);
            let first: u16 = runs.split_whitespace().nth(1).unwrap().parse().unwrap();
            for (number, bodies) in (first..).zip(runs.split_whitespace().skip(2)) {
                // A runner for each run.
                let lease = store.enroll(NOW.into()).unwrap();
                let id = RunId::new(NOW.0 as u64 / 1000, number, u64::from(std::process::id()) << 32);
                let new = NewRun::new(id, workflow, version, NOW);
                assert_eq!(store.create(lease, &[new]).unwrap(), [Creation::Created]);
                let mark = |code| Mark::from_code(code).unwrap();
                let rows = (0..).zip(bodies.split(',')).map(|(task, code)| {
                    Write::Task(Box::new(TaskRow {
                        mark: mark(code.parse().unwrap()),
                        ..TaskRow::pending(id.row(), task)
                    }))
                });
                let _ = store.commit(lease, &mut rows.collect()).unwrap();
            }
            say("executes");
            wait_for_signal();
        }
        "fork" => {
            let store = open(path);
            let (lease, _) = own_a_run(&*store);
            say(fork_with(store, lease, path));
            wait_for_signal();
        }
        "open" => {
            let opened = SqliteStore::open(path, Durability::Normal).map(|store| register(&*store));
            match opened {
                Ok(_) => say("opened"),
                Err(error) => say(error),
            }
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_killed_process_is_known_dead_at_once_and_its_runs_are_claimed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let store = open(&path);
    let (_, version) = register(&*store);
    let lease = store.enroll(NOW.into()).unwrap();
    let mut other = Other::start("own a run", &path);
    let run: RunId = other.says().parse().unwrap();

    // While it lives no other runner claims its runs, at any number of attempts.
    let mut seen = look(&store, Seen::default()).seen;
    for _ in 0..3 {
        assert_eq!(store.claim(lease, &[version], NOW.into(), 10).unwrap(), [] as [RunId; 0]);
        assert!(!look(&store, seen).unowned);
    }
    other.kill();
    let changes = look(&store, seen);
    assert!(changes.unowned);
    seen = changes.seen;
    assert_eq!(store.claim(lease, &[version], NOW.into(), 10).unwrap(), [run]);
    // Another runner of this process may have the workflow of the dead runner's other runs.
    let changes = look(&store, seen);
    assert!(changes.unowned);
    assert_eq!(store.claim(lease, &[version], NOW.into(), 10).unwrap(), [] as [RunId; 0]);
    assert!(!look(&store, changes.seen).unowned);
}

#[test]
fn a_dead_process_blames_the_one_marked_body_that_it_executed() {
    // What each process was executing: the number of its first run, and the stored marks of the bodies of each run.
    // Then how often each run must be blamed.
    let cases: [(&[&str], &[u32]); 7] = [
        (&["execute 1 1"], &[1]),
        (&["execute 1 0 -3,7"], &[0, 1]),
        (&["execute 1 1,1"], &[0]),
        (&["execute 1 1 1"], &[0, 0]),
        (&["execute 1 0 -4"], &[0, 0]),
        (&["execute 1 2 -1", "execute 3 5"], &[1, 0, 1]),
        (&["execute 1 2", "execute 2 1 1"], &[1, 0, 0]),
    ];
    for (parts, blamed) in cases {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bide.db");
        let store = open(&path);
        let (_, version) = register(&*store);
        let lease = store.enroll(NOW.into()).unwrap();
        let mut others: Vec<Other> = parts.iter().map(|part| Other::start(part, &path)).collect();
        for other in &mut others {
            assert_eq!(other.says(), "executes");
        }
        assert_eq!(store.claim(lease, &[version], NOW.into(), 10).unwrap(), [] as [RunId; 0]);
        others.into_iter().for_each(Other::kill);
        let claimed = store.claim(lease, &[version], NOW.into(), 10).unwrap();
        let stored: Vec<_> = claimed.iter().map(|run| store.load(*run).unwrap().unwrap()).collect();
        let crashes: Vec<u32> = stored.iter().map(|stored| stored.run.crashes).collect();
        assert_eq!(crashes, blamed, "{parts:?}");
        assert!(stored.iter().flat_map(|stored| &stored.rows).all(|row| !row.mark.executes), "{parts:?}");
    }
}

#[test]
fn a_process_whose_lease_has_expired_lives_but_is_fenced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let store = open(&path);
    let (_, version) = register(&*store);
    let mut other = Other::start("own a run", &path);
    let run: RunId = other.says().parse().unwrap();
    let later = NOW.after(bide_store::LEASE);
    let lease = store.enroll(later.into()).unwrap();
    assert_eq!(store.claim(lease, &[version], later.into(), 10).unwrap(), [run]);
    drop(other.child.stdin.take());
    assert_eq!(other.says(), "true");
    other.finish();
}

#[test]
fn a_time_without_renewals_for_all_lets_nobody_seem_dead() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let store = open(&path);
    let (_, version) = register(&*store);
    let lease = store.enroll(NOW.into()).unwrap();
    let mut other = Other::start("own a run", &path);
    let run: RunId = other.says().parse().unwrap();
    let later = NOW.after(2 * bide_store::LEASE);
    // Both leases have expired: neither runner claims the other's run, whether it has renewed its own lease or not.
    assert_eq!(store.claim(lease, &[version], later.into(), 10).unwrap(), [] as [RunId; 0]);
    let seen = look(&store, Seen::default()).seen;
    store.renew(lease, later.into()).unwrap();
    assert!(!look(&store, seen).unowned, "nothing to claim yet");
    assert_eq!(store.claim(lease, &[version], later.into(), 10).unwrap(), [] as [RunId; 0]);
    // If the other had died, its run would be claimed all the same.
    other.kill();
    assert_eq!(store.claim(lease, &[version], later.into(), 10).unwrap(), [run]);
}

#[test]
fn opening_a_file_twice_and_closing_one_does_not_lose_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let mut other = Other::start("own a run", &path);
    other.says();
    let store = open(&path);
    let (_, version) = register(&*store);
    let lease = store.enroll(NOW.into()).unwrap();
    assert_eq!(store.claim(lease, &[version], NOW.into(), 10).unwrap(), [] as [RunId; 0]);
    other.kill();
    assert_eq!(store.claim(lease, &[version], NOW.into(), 10).unwrap().len(), 1);
}

#[test]
fn many_processes_may_create_one_file_at_the_same_moment() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let path = directory.path().join(format!("bide{round}.db"));
        let mut others: Vec<Other> = (0..4).map(|_| Other::start("open", &path)).collect();
        for other in &mut others {
            assert_eq!(other.says(), "opened");
        }
        others.into_iter().for_each(Other::finish);
        assert_eq!(register(&*open(&path)), (1, 1));
    }
}

#[test]
fn concurrent_writers_wait_for_each_other_and_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let mut others: Vec<Other> = (0..4).map(|_| Other::start("commit", &path)).collect();
    for other in &mut others {
        assert_eq!(other.says(), "done");
    }
    others.into_iter().for_each(Other::finish);
    let store = open(&path);
    let runs = store.list(&RunFilter::default()).unwrap();
    assert_eq!(runs.len() as u64, 4 * EACH);
    for stored in runs {
        assert_eq!(stored.rows.len(), 1);
    }
}

#[test]
fn a_file_that_the_user_may_not_write_is_refused_by_name() {
    /// An unprivileged user; only root can switch to it.
    const NOBODY: u32 = 65534;
    // SAFETY: takes no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let refusal = |path: &Path| {
        let mut other = Other::start_as("open", path, Some(NOBODY));
        let said = other.says();
        other.finish();
        said
    };
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(directory.path(), 0o755);
    let path = directory.path().join("bide.db");
    let message = refusal(&path);
    assert!(message.contains("is read-only for this user") && message.contains("make it writable"), "{message}");
    mode(directory.path(), 0o777);
    drop(open(&path));
    let message = refusal(&path);
    assert!(message.contains(path.to_str().unwrap()) && message.contains("change its mode"), "{message}");
}

#[test]
fn every_call_in_a_forked_child_fails_and_leaves_the_parent_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    // In its own process, where no other test holds a lock at the moment of the fork.
    let mut parent = Other::start("fork", &path);
    assert_eq!(parent.says(), "0");
    // The child's end has released nothing of its parent's.
    let store = open(&path);
    let (_, version) = register(&*store);
    let lease = store.enroll(NOW.into()).unwrap();
    assert_eq!(store.claim(lease, &[version], NOW.into(), 1).unwrap(), [] as [RunId; 0]);
    parent.kill();
    assert_eq!(store.claim(lease, &[version], NOW.into(), 1).unwrap().len(), 1);
}

/// Forks with an open store; returns the child's exit status.
fn fork_with(store: Arc<SqliteStore>, lease: Lease, path: &Path) -> i32 {
    // SAFETY: the child uses nothing that another thread of the parent could hold, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let used = store.renew(lease, NOW.into());
        let opened = SqliteStore::open(path, Durability::Normal).map(drop);
        let is = |result: &Result<(), StoreError>, word: &str| match result {
            Err(StoreError::Unavailable(message)) => message.contains(word) && message.contains("spawn"),
            _ => false,
        };
        let right = is(&used, "before a fork") && is(&opened, "forked");
        drop(store);
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(if right { 0 } else { 1 }) }
    }
    let mut status = -1;
    // SAFETY: the pointer is to a live local.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    store.renew(lease, NOW.into()).unwrap();
    // The parent's store stays open for as long as the process lives.
    std::mem::forget(store);
    status
}
