//! Processes of a file wake each other. No test here measures a time that a busy machine could extend: a process that
//! begins to wait just after a poll sees nothing for 50 ms without the channel, and each case may be tried again.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "whether a wait was shorter than the poll")]

use std::io::{BufRead, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bide_core::record::{NewRun, NewTask, RunRowId, RunUpdate};
use bide_core::{RunId, RunStatus, Time, Write};
use bide_store::{ChangedRuns, Changes, Creation, Durability, Lease, Seen, SqliteStore, Store};

const NOW: Time = Time(1_795_000_000_000_000);

/// What the poll alone takes at least.
const POLL: Duration = Duration::from_millis(50);

/// Long enough that a test which waits for it has failed.
const HANG: Duration = Duration::from_secs(60);

/// How often a case is tried, on a machine that is too busy.
const TRIES: u16 = 50;

fn open(path: &Path) -> Arc<SqliteStore> {
    SqliteStore::open(path, Durability::Normal).unwrap()
}

/// Polls, so that the next poll of a wait is 50 ms away.
fn look(store: &SqliteStore) -> Seen {
    store.wait_for_changes(Seen::default(), Duration::ZERO).unwrap().seen
}

/// A runner on a file, and its runs.
struct Desk {
    store: Arc<SqliteStore>,
    lease: Lease,
    workflow: (i64, i64),
}

impl Desk {
    fn new(path: &Path) -> Self {
        let store = open(path);
        let workflow = store.register("workflow", "v1", &[NewTask::new("task", vec![])]).unwrap();
        let lease = store.enroll(NOW.into()).unwrap();
        Self { store, lease, workflow: (workflow.number, workflow.version) }
    }

    /// A run that this runner executes.
    fn run(&self, n: u16) -> RunId {
        // No two processes make the same row numbers.
        let id = RunId::new(NOW.0 as u64 / 1000 + u64::from(std::process::id() % 50_000), n, 0);
        let new = NewRun::new(id, self.workflow.0, self.workflow.1, NOW);
        assert_eq!(self.store.create(self.lease, &[new]).unwrap(), [Creation::Created]);
        id
    }

    fn set(&self, run: RunRowId, status: RunStatus) {
        let ended_at = status.is_ended().then_some(NOW);
        let update = RunUpdate { ended_at, ..RunUpdate::new(run, status) };
        let _ = self.store.commit(self.lease, &mut vec![Write::Run(Box::new(update))]).unwrap();
    }

    fn claims(&self) -> Vec<RunId> {
        self.store.claim(self.lease, &[self.workflow.1], NOW.into(), 10).unwrap()
    }
}

/// Another process that plays a part, step by step.
struct Other {
    child: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(part: &str, path: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "play_a_part", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env("BIDE_PART", part).env("BIDE_PATH", path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { orders: child.stdin.take().unwrap(), child, lines }
    }

    fn says(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("it says something").unwrap();
            if let Some((_, said)) = line.split_once("SAYS ") {
                return said.to_owned();
            }
        }
    }

    fn order(&mut self, what: impl std::fmt::Display) {
        writeln!(self.orders, "{what}").unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(what: impl std::fmt::Display) {
    println!("SAYS {what}");
}

fn next_order() -> Option<String> {
    let mut line = String::new();
    (std::io::stdin().read_line(&mut line).unwrap() > 0).then(|| line.trim().to_owned())
}

/// Whether these changes came by a hint about this run: a poll cannot name it.
fn names(changes: &Changes, run: RunRowId) -> bool {
    !changes.unowned && matches!(&changes.runs, ChangedRuns::These(runs) if runs.contains(&run))
}

#[test]
#[ignore = "the children's part, started by the other tests"]
fn play_a_part() {
    let Some(path) = std::env::var_os("BIDE_PATH") else { return };
    let desk = Desk::new(Path::new(&path));
    let part = std::env::var("BIDE_PART").unwrap();
    match part.as_str() {
        "end runs" | "pause runs" => {
            for n in 0.. {
                let run = desk.run(n);
                say(run);
                if next_order().is_none() {
                    return;
                }
                desk.set(run.row(), if part == "end runs" { RunStatus::Completed } else { RunStatus::Paused });
            }
        }
        "leave" => {
            say(desk.run(0));
            next_order();
            desk.store.leave(desk.lease).unwrap();
            say("left");
            next_order();
        }
        "own a run" => {
            say(desk.run(0));
            next_order();
        }
        "fork and watch" => {
            // SAFETY: the child calls nothing but `poll` and `_exit`.
            if unsafe { libc::fork() } == 0 {
                let mut orders = libc::pollfd { fd: 0, events: 0, revents: 0 };
                // SAFETY: the pointer is to a live local. It returns once the other end is closed.
                unsafe {
                    libc::poll(&raw mut orders, 1, -1);
                    libc::_exit(0);
                }
            }
            say(desk.run(0));
            while let Some(order) = next_order() {
                let run: RunId = order.parse().unwrap();
                let seen = look(&desk.store);
                assert!(desk.store.standing(run).unwrap().is_some());
                say("watches");
                let changes = desk.store.wait_for_changes(seen, HANG).unwrap();
                say(names(&changes, run.row()));
            }
        }
        part => panic!("{part}"),
    }
}

#[test]
fn a_run_that_ends_or_pauses_elsewhere_is_named_to_every_runner_that_watches() {
    for part in ["end runs", "pause runs"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bide.db");
        let (one, two) = (Desk::new(&path), Desk::new(&path));
        assert!(Arc::ptr_eq(&one.store, &two.store));
        let mut other = Other::start(part, &path);
        let named = (0..TRIES).any(|_| {
            let run: RunId = other.says().parse().unwrap();
            let seen = look(&one.store);
            assert!(one.store.standing(run).unwrap().is_some());
            std::thread::scope(|scope| {
                let wait = |desk: &Desk| desk.store.wait_for_changes(seen, HANG).unwrap();
                let waits = [&one, &two].map(|desk| scope.spawn(move || wait(desk)));
                other.order("now");
                waits.into_iter().all(|wait| names(&wait.join().unwrap(), run.row()))
            })
        });
        assert!(named, "{part}: it is always a poll that finds it");
    }
}

#[test]
fn the_end_of_a_process_and_the_leaving_of_a_runner_are_seen_before_the_next_poll() {
    for part in ["own a run", "leave"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bide.db");
        let desk = Desk::new(&path);
        let at_once = (0..TRIES).any(|_| {
            let mut other = Other::start(part, &path);
            let run: RunId = other.says().parse().unwrap();
            // The hint that it has come is heard by then, and ends no wait of later.
            desk.store.wait_for_changes(look(&desk.store), POLL).unwrap();
            let seen = look(&desk.store);
            if part == "leave" {
                other.order("now");
                assert_eq!(other.says(), "left");
            } else {
                other.kill();
            }
            let begun = Instant::now();
            let changes = desk.store.wait_for_changes(seen, HANG).unwrap();
            let span = begun.elapsed();
            assert!(changes.unowned);
            assert_eq!(desk.claims(), [run]);
            span < POLL
        });
        assert!(at_once, "{part}: it is always a poll that sees it");
    }
}

#[test]
fn a_forked_child_neither_takes_its_parents_hints_nor_hides_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let desk = Desk::new(&path);
    let mut parent = Other::start("fork and watch", &path);
    let its_run: RunId = parent.says().parse().unwrap();
    // As a runner does all the time: now this process knows the other one.
    look(&desk.store);
    let named = (0..TRIES).any(|n| {
        let run = desk.run(n);
        parent.order(run);
        assert_eq!(parent.says(), "watches");
        desk.set(run.row(), RunStatus::Completed);
        parent.says() == "true"
    });
    assert!(named, "it is always a poll that finds it");

    // The child lives on, with its copies of the sockets.
    let seen = look(&desk.store);
    parent.kill();
    assert!(desk.store.wait_for_changes(seen, HANG).unwrap().unowned);
    assert_eq!(desk.claims(), [its_run]);
    // Nobody reads them.
    for n in TRIES..TRIES + 100 {
        let run = desk.run(n);
        desk.set(run.row(), RunStatus::Completed);
    }
}
