//! Ended runs are deleted after their retention, not before, and nothing else is deleted: by a virtual clock.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{NewRun, NewTask, RunUpdate};
use bide_core::{PollPolicy, RunId, RunStatus, Time, Write};
use bide_executor::drive::Driver;
use bide_executor::{Clock, Dispatch, Gate, Host, Log, RETENTION, Ready, Source};
use bide_store::sqlite::Options;
use bide_store::{Lease, MemoryStore, RunFilter, SqliteStore, Store};
use bide_sync::Mutex;
use bide_testkit::VirtualClock;
use bide_testkit::conformance::fresh_id;
use rusqlite::Connection;

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

/// A host that executes nothing.
struct Nothing;

impl Host for Nothing {
    type Body = ();
    type Local = ();
    type Dispatch = Self;

    fn sources(_body: &()) -> &[Source] {
        &[]
    }

    fn gate_policy(_body: &(), _part: u16) -> PollPolicy {
        unreachable!("nothing has a gate")
    }
}

impl Dispatch<Nothing> for Nothing {
    fn ready(&self, _ready: &mut Vec<Ready<Self>>) {}
    fn gate(&self, _gate: Gate<Self>) {}
    fn close(&self) {}
}

/// A store, and a lease that writes runs as another runner would.
struct Desk {
    store: Arc<dyn Store>,
    clock: Arc<VirtualClock>,
    lease: Lease,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Desk {
    fn new(store: Arc<dyn Store>) -> Self {
        let clock = VirtualClock::new();
        store.register("workflow", "v1", &[NewTask::new("task", vec![])]).unwrap();
        let lease = store.enroll(clock.now().into()).unwrap();
        Self { store, clock, lease, lines: Arc::default() }
    }

    fn runner(&self, retention: Option<Duration>) -> Driver<Nothing> {
        let lines = Arc::clone(&self.lines);
        let log: Log = Box::new(move |_, line| lines.lock().push(line.to_owned()));
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        Driver::open_with(Arc::clone(&self.store), clock, Nothing, log, 1, retention).unwrap()
    }

    /// A run that was created now and has this status.
    fn run(&self, status: RunStatus) -> RunId {
        let workflow = self.store.register("workflow", "v1", &[]).unwrap();
        let now = self.clock.now();
        let id = fresh_id(now);
        self.store.create(self.lease, &[NewRun::new(id, workflow.number, workflow.version, now)]).unwrap();
        self.becomes(id, status);
        id
    }

    fn becomes(&self, id: RunId, status: RunStatus) {
        let ended_at = status.is_ended().then(|| self.clock.now());
        let update = RunUpdate { ended_at, ..RunUpdate::new(id.row(), status) };
        let _ = self.store.commit(self.lease, &mut vec![Write::Run(Box::new(update))]).unwrap();
    }

    fn left(&self) -> BTreeMap<i64, Option<Time>> {
        let runs = self.store.list(&RunFilter::default()).unwrap();
        runs.into_iter().map(|stored| (stored.run.id.row(), stored.run.ended_at)).collect()
    }

    /// Runs the retention thread by itself for this time.
    fn pass(&self, runner: &mut Driver<Nothing>, span: Duration) {
        let until = self.clock.steady() + span;
        loop {
            let rest = runner.retention_turn();
            let left = until.saturating_sub(self.clock.steady());
            if left.is_zero() {
                return;
            }
            self.clock.advance(rest.min(left));
        }
    }
}

fn sqlite(directory: &tempfile::TempDir) -> Arc<dyn Store> {
    let options = Options { busy_timeout: Duration::ZERO, ..Options::default() };
    SqliteStore::open_with(&directory.path().join("bide.db"), &options).unwrap()
}

fn on_each_store(check: impl Fn(&Desk)) {
    check(&Desk::new(MemoryStore::new()));
    let directory = tempfile::tempdir().unwrap();
    check(&Desk::new(sqlite(&directory)));
}

#[test]
fn of_a_hundred_days_the_last_thirty_are_kept_and_all_that_has_not_ended() {
    on_each_store(|desk| {
        let mut runner = desk.runner(Some(RETENTION));
        let waits = desk.run(RunStatus::Running);
        let paused = desk.run(RunStatus::Paused);
        let late = desk.run(RunStatus::Running);
        let mut ended = BTreeMap::new();
        for day in 0..100 {
            for status in [RunStatus::Completed, RunStatus::Failed, RunStatus::Cancelled] {
                ended.insert(desk.run(status).row(), desk.clock.now());
            }
            if day == 50 {
                // It is as old as the others, but ended only now.
                desk.becomes(late, RunStatus::Completed);
                ended.insert(late.row(), desk.clock.now());
            }
            desk.pass(&mut runner, DAY);
            let left = desk.left();
            assert!([waits, paused].iter().all(|run| left.contains_key(&run.row())), "day {day}");
            for (run, at) in &ended {
                let age = desk.clock.now().since(*at);
                match left.contains_key(run) {
                    true => assert!(age <= RETENTION + HOUR, "day {day}: kept for {age:?}"),
                    false => assert!(age >= RETENTION, "day {day}: deleted after {age:?}"),
                }
            }
        }
        assert_eq!(desk.left().len(), 2 + 3 * 30);
    });
}

#[test]
fn many_are_deleted_in_many_steps_and_others_have_the_store_in_between() {
    let directory = tempfile::tempdir().unwrap();
    let desk = Desk::new(sqlite(&directory));
    for _ in 0..1500 {
        desk.run(RunStatus::Completed);
    }
    let mut runner = desk.runner(Some(DAY));
    desk.clock.advance(2 * DAY);
    let began = desk.clock.steady();
    let mut steps = 0;
    let mut left = desk.left().len();
    while left > 0 {
        let rest = runner.retention_turn();
        assert!(rest > Duration::ZERO, "it leaves room");
        // A turn that comes too early does nothing.
        let before = desk.left().len();
        runner.retention_turn();
        assert_eq!(desk.left().len(), before);
        assert!(left - before <= 128, "{} in one step", left - before);
        left = before;
        desk.clock.advance(rest);
        steps += 1;
    }
    assert!(steps >= 12, "{steps}");
    assert!(desk.clock.steady() - began < Duration::from_secs(1), "one step after the other");
}

#[test]
fn an_unlimited_retention_deletes_nothing() {
    on_each_store(|desk| {
        let kept = desk.run(RunStatus::Completed);
        let mut runner = desk.runner(None);
        desk.pass(&mut runner, 100 * DAY);
        assert!(desk.left().contains_key(&kept.row()));
    });
}

#[test]
fn of_two_runners_the_one_that_keeps_for_the_shortest_decides() {
    on_each_store(|desk| {
        let run = desk.run(RunStatus::Completed);
        let (mut month, mut day) = (desk.runner(Some(RETENTION)), desk.runner(Some(DAY)));
        desk.pass(&mut month, 2 * DAY);
        assert!(desk.left().contains_key(&run.row()));
        desk.pass(&mut day, HOUR);
        assert!(desk.left().is_empty());
    });
}

#[test]
fn a_clock_that_is_set_back_keeps_runs_for_longer_and_never_shorter() {
    on_each_store(|desk| {
        let mut runner = desk.runner(Some(DAY));
        let run = desk.run(RunStatus::Completed);
        desk.clock.set_wall_by(-5 * 24 * 3600 * 1000);
        desk.pass(&mut runner, 3 * DAY);
        assert!(desk.left().contains_key(&run.row()));
        desk.pass(&mut runner, 4 * DAY);
        assert!(desk.left().is_empty());
    });
}

#[test]
fn a_step_that_fails_is_reported_and_retried_and_stops_no_runner() {
    let directory = tempfile::tempdir().unwrap();
    let desk = Desk::new(sqlite(&directory));
    desk.run(RunStatus::Completed);
    let mut runner = desk.runner(Some(DAY));
    desk.clock.advance(2 * DAY);
    // Another process holds the lock of the file.
    let other = Connection::open(directory.path().join("bide.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let rest = runner.retention_turn();
    let said = desk.lines.lock().concat();
    assert!(said.contains("old runs could not be deleted") && said.contains("locked by another process"), "{said}");
    assert!(runner.engine().stopped().is_none());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(desk.left().len(), 1);
    desk.pass(&mut runner, rest);
    assert!(desk.left().is_empty());
}
