//! Runs that move to another version of their workflow, and what the histories of forked runs tell.

use bide_core::{Ask, Control, Message, Progress, ProgressRow, TaskId};
use bide_store::{Conversion, Converted};

use super::*;

fn told(number: i64, ask: Ask) -> Message {
    Control { ask, by: Some("ana".into()), reason: None }.told(number, later(5))
}

fn conversion(desk: &Desk<'_>, version: i64, tasks: Vec<(TaskId, Option<TaskId>)>) -> Conversion {
    let told = Some(told(7, Ask::Adopt));
    Conversion { from: "v1".into(), workflow: desk.workflow, version, tasks, told }
}

/// A run with a row, an entry and progress of two tasks, the second of them mapped.
fn recorded(desk: &Desk<'_>, key: Option<&str>) -> RunId {
    let run = desk.create(START, key);
    let row = |task, map| Write::Task(Box::new(TaskRow { map, ..TaskRow::pending(run.row(), task) }));
    let step = |task, map, name: &str| {
        let key = EntryKey { name: name.into(), n: 1 };
        Write::Entry { run: run.row(), task, map, entry: Arc::new(Entry::new(key, 1, Operation::step(None), START)) }
    };
    let progress = Progress { done: 1.0, total: None, message: None, said_at: later(1) };
    let progress = Write::Progress(Box::new(ProgressRow { run: run.row(), task: 0, map: NO_MAP, progress }));
    let rows = vec![done(run, 0, b"i1"), row(1, NO_MAP), row(1, 0), row(1, 1500)];
    desk.commit(rows);
    desk.commit(vec![step(0, NO_MAP, "of 0"), step(1, 1500, "of 1"), progress]);
    run
}

fn places(stored: &StoredRun) -> Vec<(TaskId, i32)> {
    stored.rows.iter().map(|row| (row.task, row.map)).collect()
}

pub fn a_run_that_nobody_executes_moves_to_another_version(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = recorded(&desk, Some("1"));
    let new = ok(store.register("ingest", "v2", &names(&["process", "fetch", "more"]))).version;
    let swap = || conversion(&desk, new, vec![(0, Some(1)), (1, Some(0))]);
    assert_eq!(ok(store.convert(run, &swap())), Converted::NotFree, "a runner has it");
    ok(store.leave(desk.lease));
    assert_eq!(ok(store.unowned_of(desk.version)), [run]);
    let other = Conversion { from: "v3".into(), ..swap() };
    assert_eq!(ok(store.convert(run, &other)), Converted::NotFree, "it has another version than was thought");
    assert_eq!(ok(store.convert(run, &swap())), Converted::Done);
    assert_eq!(ok(store.convert(run, &swap())), Converted::NotFree, "once");
    let stored = desk.load(run);
    assert_eq!((&*stored.run.version, stored.run.key.as_deref()), ("v2", Some("1")));
    assert_eq!(places(&stored), [(0, NO_MAP), (0, 0), (0, 1500), (1, NO_MAP)]);
    assert_eq!(stored.rows[3].output, Some(Value::new(b"i1")));
    let entries: Vec<_> = stored.entries.iter().map(|(task, map, entry)| (*task, *map, &*entry.key.name)).collect();
    assert_eq!(entries, [(0, 1500, "of 1"), (1, NO_MAP, "of 0")]);
    assert_eq!(stored.progress.iter().map(|row| row.task).collect::<Vec<_>>(), [1]);
    assert_eq!(stored.messages.iter().map(|stored| stored.consumed).collect::<Vec<_>>(), [true]);
    assert!(ok(store.unowned_of(desk.version)).is_empty());
    let claimer = ok(store.enroll(at(later(6))));
    assert_eq!(ok(store.claim(claimer, &[new], at(later(6)), 9)), [run]);
}

pub fn what_a_run_has_of_tasks_that_are_gone_is_deleted(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = recorded(&desk, None);
    let new = ok(store.register("ingest", "v2", &names(&["fetch"]))).version;
    ok(store.leave(desk.lease));
    assert_eq!(ok(store.convert(run, &conversion(&desk, new, vec![(1, None)]))), Converted::Done);
    let stored = desk.load(run);
    assert_eq!(places(&stored), [(0, NO_MAP)]);
    assert_eq!(stored.entries.len(), 1);
}

pub fn a_run_moves_to_another_workflow_unless_its_key_is_taken_there(store: &dyn Store) {
    let desk = Desk::new(store);
    let other = ok(store.register("other", "v9", &names(&["process", "fetch"])));
    let (first, second) = (recorded(&desk, Some("1")), recorded(&desk, Some("2")));
    let new = NewRun::new(fresh_id(START), other.number, other.version, START).with_key(Some("1".into()));
    assert_eq!(ok(store.create(desk.lease, &[new])), [Creation::Created]);
    ok(store.leave(desk.lease));
    let to = || Conversion { workflow: other.number, ..conversion(&desk, other.version, vec![]) };
    assert_eq!(ok(store.convert(first, &to())), Converted::KeyTaken);
    assert_eq!(ok(store.convert(second, &to())), Converted::Done);
    assert_eq!(ok(store.by_key("2", None)), [(second, "other".into())]);
    assert_eq!(&*desk.load(first).run.workflow, "ingest");
}

pub fn a_fork_stands_in_the_history_of_the_run_it_was_made_from(store: &dyn Store) {
    let desk = Desk::new(store);
    let (from, run) = (desk.create(START, None), desk.create(START, None));
    desk.end(from, later(3));
    let task: Arc<str> = "process".into();
    let forked = |number, of: RunId| {
        let message = Box::new(told(number, Ask::ForkedTo { run, task: Arc::clone(&task) }));
        Write::Forked { run: run.row(), from: of.row(), message }
    };
    desk.commit(vec![forked(1, from), forked(2, fresh_id(START))]);
    let kept = ok(store.messages(from, 0));
    assert_eq!(kept.iter().map(|stored| (stored.message.number, stored.consumed)).collect::<Vec<_>>(), [(1, true)]);
    assert_eq!(ok(store.mail(0)).len(), 1, "nothing is told a run that is gone");
}
