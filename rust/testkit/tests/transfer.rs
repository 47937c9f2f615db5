//! Runs move from one store to another, and the process that moves them dies at each call of either store.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{Batch, NewRun, NewTask, Parent, RunUpdate};
use bide_core::{
    Address, BlockReason, Entry, EntryKey, Message, NO_MAP, NewEvents, Operation, Progress, ProgressRow, RunId,
    RunStatus, TaskRow, TaskStatus, Value, Write,
};
use bide_store::{Clock, Commit, CommitId, EventRange, MemoryStore, RunFilter, Store, Transfer, transfer};
use bide_testkit::clock::{START, VirtualClock};
use bide_testkit::fault::{Fault, FaultyStore};

fn id(n: u64) -> RunId {
    RunId::new(START.0 as u64 / 1000, n as u16, n << 40)
}

fn key(name: &str) -> EntryKey {
    EntryKey { name: name.into(), n: 1 }
}

/// The runs of the old store: two families of a parent and its child, one paused on request, and one that has completed.
const UNFINISHED: usize = 5;

/// A store with runs, and no runner.
fn filled(clock: &VirtualClock) -> Arc<MemoryStore> {
    let store = MemoryStore::new();
    // Another workflow first, so that numbers differ from those of the new store.
    store.register("other", "v0", &[NewTask::new("x", Vec::new())]).unwrap();
    let lease = store.enroll(clock.lease_time()).unwrap();
    let tasks = [NewTask::new("a", Vec::new()), NewTask::new("b", vec!["a".into()])];
    let workflow = store.register("work", "v1", &tasks).unwrap();
    let (a, b) = (workflow.tasks[0].id, workflow.tasks[1].id);
    let new = |n: u64| NewRun::new(id(n), workflow.number, workflow.version, START);
    for n in [0, 2] {
        let parent = Parent { run: id(n), task: b, map: NO_MAP, key: key("start"), depth: 1 };
        let runs = [new(n).with_key(Some(format!("key {n}").into())), new(n + 1).with_parent(Some(Arc::new(parent)))];
        let run = id(n).row();
        let done = TaskRow {
            status: TaskStatus::Completed,
            output: Some(Value::tagged(b'i', b"7")),
            ..TaskRow::pending(run, a)
        };
        let started = Entry {
            value: Some(id(n + 1).to_value()),
            ..Entry::new(key("start"), 1, Operation::Start { proof: None }, START)
        };
        let signal = Message {
            number: i64::try_from(n).unwrap(),
            address: Address::signal("go"),
            id: Some("first".into()),
            content: Ok(Value::tagged(b'i', b"1")),
            sent_at: START,
        };
        let events = NewEvents {
            run,
            channel: "events".into(),
            keep: None,
            skipped: 3,
            count: 1,
            task: b,
            map: NO_MAP,
            attempt: 1,
            entry: None,
            emitted_at: START,
            packed: vec![0, 1, b't'],
        };
        let progress = Progress { done: 1.0, total: None, message: None, said_at: START };
        let mut batch: Batch = vec![
            Write::Task(Box::new(done)),
            Write::Entry { run, task: b, map: NO_MAP, entry: Arc::new(started) },
            Write::Message { run, message: Box::new(signal), consumed: false },
            Write::Events(Box::new(events)),
            Write::Progress(Box::new(ProgressRow { run, task: b, map: NO_MAP, progress })),
        ];
        let _ = store.write(lease, &mut Commit::new(CommitId::unique(), &[&runs], &mut batch)).unwrap();
    }
    let held = RunUpdate {
        blocked_by: Some(BlockReason::Requested { who: " by ana".into() }),
        ..RunUpdate::new(id(4).row(), RunStatus::Paused)
    };
    let ended = RunUpdate { ended_at: Some(START), ..RunUpdate::new(id(5).row(), RunStatus::Completed) };
    let mut batch = vec![Write::Run(Box::new(held)), Write::Run(Box::new(ended))];
    let runs = [new(4), new(5)];
    let _ = store.write(lease, &mut Commit::new(CommitId::unique(), &[&runs], &mut batch)).unwrap();
    store.leave(lease).unwrap();
    store
}

/// The runs that a runner which starts now would execute.
fn executable(store: &dyn Store, clock: &VirtualClock) -> BTreeSet<RunId> {
    clock.advance(Duration::from_secs(20));
    let lease = store.enroll(clock.lease_time()).unwrap();
    store.claim(lease, &[], clock.lease_time(), 0).unwrap();
    let versions: Vec<i64> = store.unowned().unwrap().into_iter().map(|(_, version)| version).collect();
    let claimed = store.claim(lease, &versions, clock.lease_time(), 100).unwrap();
    store.leave(lease).unwrap();
    claimed.into_iter().collect()
}

fn moved(from: &dyn Store, to: &dyn Store, clock: &Arc<VirtualClock>) -> Result<Vec<Transfer>, bide_store::StoreError> {
    let clock: Arc<dyn Clock> = clock.clone();
    let mut reports = Vec::new();
    transfer(from, to, &clock, &mut |done| reports.push(done)).map(|()| reports)
}

/// What is recorded of a run, without the numbers that its store gives.
fn recorded(store: &dyn Store, run: RunId) -> String {
    let stored = store.load(run).unwrap().unwrap();
    let events = store.events(run, "events", EventRange::After { offset: 0, most: 10 }).unwrap();
    let name = |task: i64| stored.tasks.iter().find(|known| known.id == task).map(|known| known.name.clone());
    let rows: Vec<_> = stored.rows.iter().map(|row| (name(row.task), TaskRow { task: 0, ..row.clone() })).collect();
    let entries: Vec<_> = stored.entries.iter().map(|(task, map, entry)| (name(*task), *map, entry)).collect();
    let messages: Vec<_> = stored.messages.iter().map(|stored| (&stored.message, stored.consumed)).collect();
    let progress: Vec<_> = stored.progress.iter().map(|row| (name(row.task), &row.progress)).collect();
    let run = bide_core::record::RunRow { runner: None, ..stored.run.clone() };
    format!("{run:?} {rows:?} {entries:?} {messages:?} {progress:?} {:?} {events:?}", stored.children)
}

#[test]
fn all_that_is_recorded_of_unfinished_runs_moves() {
    let clock = VirtualClock::new();
    let (from, to) = (filled(&clock), MemoryStore::new());
    let before: Vec<String> = (0..UNFINISHED as u64).map(|n| recorded(&*from, id(n))).collect();
    clock.advance(Duration::from_secs(1));
    let reports = moved(&*from, &*to, &clock).unwrap();
    assert_eq!(reports.iter().map(|family| family.runs).collect::<Vec<_>>(), [2, 2, 1]);
    let after: Vec<String> = (0..UNFINISHED as u64).map(|n| recorded(&*to, id(n))).collect();
    assert_eq!(after, before);
    assert_eq!(executable(&*to, &clock).len(), UNFINISHED);
    let left = from.list(&RunFilter::default()).unwrap();
    assert_eq!(left.iter().map(|stored| stored.run.id).collect::<Vec<_>>(), [id(5)], "it has ended");
}

#[test]
fn a_run_is_executable_in_one_store_alone_wherever_the_mover_dies() {
    let mut places = 0;
    for of_new in [false, true] {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            for call in 1.. {
                let clock = VirtualClock::new();
                let (from, to) = (filled(&clock), MemoryStore::new());
                clock.advance(Duration::from_secs(1));
                let (old, new) = (FaultyStore::new(from.clone()), FaultyStore::new(to.clone()));
                if of_new {
                    new.fail(call, fault)
                } else {
                    old.fail(call, fault)
                }
                let outcome = moved(&*old, &*new, &clock);
                if outcome.is_ok() && !old.has_crashed() && !new.has_crashed() {
                    break;
                }
                places += 1;
                let (here, there) = (executable(&*from, &clock), executable(&*to, &clock));
                assert!(here.is_disjoint(&there), "in both after call {call}, {fault:?}: {here:?} {there:?}");
                clock.advance(Duration::from_secs(20));
                moved(&*from, &*to, &clock).unwrap();
                assert_eq!(executable(&*from, &clock), BTreeSet::new(), "after call {call}, {fault:?}");
                assert_eq!(executable(&*to, &clock).len(), UNFINISHED, "after call {call}, {fault:?}");
                assert_eq!(from.list(&RunFilter::default()).unwrap().len(), 1, "after call {call}, {fault:?}");
            }
        }
    }
    assert!(places > 100, "{places}");
}

#[test]
fn a_store_does_not_move_into_itself() {
    let clock = VirtualClock::new();
    let store = filled(&clock);
    let refused = moved(&*store, &*store, &clock).unwrap_err();
    assert!(refused.to_string().contains("is the store from which"), "{refused}");
    assert_eq!(executable(&*store, &clock).len(), UNFINISHED);
}

#[test]
fn a_store_that_a_runner_uses_is_left_as_it_is() {
    let clock = VirtualClock::new();
    let (from, to) = (filled(&clock), MemoryStore::new());
    let runner = from.enroll(clock.lease_time()).unwrap();
    let versions: Vec<i64> = from.unowned().unwrap().into_iter().map(|(_, version)| version).collect();
    let claimed = from.claim(runner, &versions, clock.lease_time(), 1).unwrap();
    let refused = moved(&*from, &*to, &clock).unwrap_err().to_string();
    assert!(refused.contains("is in use") && refused.contains(&claimed[0].to_string()), "{refused}");
    assert_eq!(to.list(&RunFilter::default()).unwrap().len(), 0);
    assert_eq!(from.load(claimed[0]).unwrap().unwrap().run.runner, Some(runner.runner));
}
