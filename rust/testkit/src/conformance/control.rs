//! Control requests: they stay, reopen runs that nobody executes, and runs that are paused on request have owners.

use bide_core::{Ask, BlockReason, Cancel, Control, Message};
use bide_store::Sent;

use super::*;

fn request(number: i64, ask: Ask) -> Message {
    let control = Control { ask, by: Some("ana".into()), reason: None };
    Message { number, address: control.address(), id: None, content: Ok(control.content()), sent_at: later(5) }
}

fn retry() -> Ask {
    Ask::Retry { from: None, fresh: false }
}

fn cancel() -> Ask {
    Ask::Cancel { force: false }
}

fn paused(run: RunId, reason: BlockReason) -> Write {
    let blocked_by = Some(reason);
    Write::Run(Box::new(RunUpdate { blocked_by, ..RunUpdate::new(run.row(), RunStatus::Paused) }))
}

fn status(store: &dyn Store, run: RunId) -> (RunStatus, Option<i64>) {
    let standing = ok(store.standing(run)).map(|standing| (standing.status, standing.runner));
    standing.unwrap_or((RunStatus::Pending, None))
}

pub fn a_control_request_stays_once_the_run_has_acted_on_it(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    assert_eq!(ok(store.send(run, &request(1, Ask::Pause))), Sent::Stored);
    desk.commit(vec![
        Write::Applied { run: run.row(), number: 1, from: 0, at: later(6) },
        Write::Message { run: run.row(), message: Box::new(request(2, Ask::Resume)), consumed: true },
    ]);
    let kept = ok(store.messages(run, 0));
    assert!(kept.iter().all(|stored| stored.consumed));
    let kept: Vec<Message> = kept.into_iter().map(|stored| stored.message).collect();
    assert_eq!(kept, [request(1, Ask::Pause), request(2, Ask::Resume)], "whole");
}

pub fn a_retry_reopens_an_ended_run_and_nothing_else_does(store: &dyn Store) {
    let desk = Desk::new(store);
    for (number, (ended, ask, reopened)) in (1..).zip([
        (RunStatus::Failed, retry(), true),
        (RunStatus::Cancelled, retry(), true),
        (RunStatus::Completed, retry(), false),
        (RunStatus::Failed, cancel(), false),
        (RunStatus::Failed, Ask::Resume, false),
    ]) {
        let run = desk.create(START, None);
        desk.commit(vec![update(run, ended, Some(later(3)))]);
        let sent = if reopened { Sent::Stored } else { Sent::Ended(ended) };
        assert_eq!(ok(store.send(run, &request(number, ask))), sent);
        let expected = if reopened { RunStatus::Running } else { ended };
        assert_eq!(status(store, run), (expected, None));
        assert_eq!(ok(store.messages(run, 0)).len(), usize::from(reopened));
    }
    assert_eq!(desk.claim(later(7)).len(), 2);
}

pub fn a_run_that_stands_is_claimed_once_somebody_asks_for_it(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    desk.commit(vec![paused(run, BlockReason::Mismatch { what: "it".into() })]);
    assert_eq!(status(store, run), (RunStatus::Paused, None), "nobody executes it");
    let claim = || desk.claim(later(7));
    assert_eq!(ok(store.send(run, &request(1, Ask::Pause))), Sent::Stored);
    assert!(claim().is_empty());
    let seen = ok(store.wait_for_changes(Seen::default(), Duration::ZERO)).seen;
    assert_eq!(ok(store.send(run, &request(2, Ask::Resume))), Sent::Stored);
    assert!(ok(store.wait_for_changes(seen, Duration::from_secs(30))).unowned);
    assert_eq!(claim(), [run]);
}

pub fn a_run_that_is_paused_on_request_is_owned_like_a_running_one(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    desk.commit(vec![paused(run, BlockReason::Requested { who: " by ana".into() })]);
    let owner = Some(desk.lease.runner);
    assert_eq!(status(store, run), (RunStatus::Paused, owner));
    assert!(ok(store.standing(run)).is_some_and(|standing| standing.held));
    assert_eq!(ok(store.send(run, &request(1, Ask::Resume))), Sent::Stored);
    assert_eq!(status(store, run), (RunStatus::Paused, owner), "its owner does it");
    ok(store.leave(desk.lease));
    let other = ok(store.enroll(at(later(6))));
    assert_eq!(ok(store.unowned()).len(), 1);
    assert_eq!(ok(store.claim(other, &[desk.version], at(later(7)), 9)), [run]);
    assert_eq!(status(store, run), (RunStatus::Paused, Some(other.runner)));
}

pub fn a_request_of_a_parent_reopens_its_child(store: &dyn Store) {
    let desk = Desk::new(store);
    let (parent, child) = (desk.create(START, None), desk.create(START, None));
    desk.commit(vec![update(child, RunStatus::Failed, Some(later(3)))]);
    let (number, message) = (parent.row(), Box::new(request(1, retry())));
    desk.commit(vec![Write::Message { run: child.row(), message, consumed: false }]);
    assert_eq!(status(store, child), (RunStatus::Running, None), "{number}");
    assert_eq!(ok(store.messages(child, 0)).len(), 1);
}

pub fn a_run_that_nobody_executes_can_be_ended(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    let row = TaskRow { status: TaskStatus::Running, ..TaskRow::pending(run.row(), 0) };
    desk.commit(vec![Write::Task(Box::new(row))]);
    let kept = Cancel { by: Some("ana".into()), reason: None, at: later(8) };
    let force = request(1, Ask::Cancel { force: true });
    assert!(!ok(store.end_unowned(run, &kept, &force)), "its owner is to do it");
    ok(store.leave(desk.lease));
    assert!(ok(store.end_unowned(run, &kept, &force)));
    assert!(!ok(store.end_unowned(run, &kept, &force)), "it has ended");
    let stored = desk.load(run);
    assert_eq!((stored.run.status, stored.run.ended_at), (RunStatus::Cancelled, Some(later(8))));
    assert_eq!(stored.run.cancel.as_deref(), Some(&kept));
    assert_eq!(stored.rows[0].status, TaskStatus::Cancelled);
    assert_eq!(stored.rows[0].blocked_by.as_deref(), Some("cancelled by ana"));
    assert_eq!(stored.messages.len(), 1);
}

pub fn the_elements_of_a_task_are_dropped_with_their_journals(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    let row = |task, map| Write::Task(Box::new(TaskRow { map, ..TaskRow::pending(run.row(), task) }));
    let entry = |task, map| {
        let key = EntryKey { name: "step".into(), n: 1 };
        let entry = Arc::new(Entry::new(key, 1, Operation::step(None), START));
        Write::Entry { run: run.row(), task, map, entry }
    };
    let maps = [NO_MAP, 0, 1, 2000];
    let rows = maps.iter().flat_map(|map| [row(0, *map), row(1, *map), entry(0, *map), entry(1, *map)]);
    desk.commit(rows.collect());
    desk.commit(vec![Write::DropElements { run: run.row(), task: 0 }]);
    let stored = desk.load(run);
    let places: Vec<_> = stored.rows.iter().map(|row| (row.task, row.map)).collect();
    assert_eq!(places, [(0, NO_MAP), (1, NO_MAP), (1, 0), (1, 1), (1, 2000)]);
    let places: Vec<_> = stored.entries.iter().map(|(task, map, _)| (*task, *map)).collect();
    assert_eq!(places, [(0, NO_MAP), (1, NO_MAP), (1, 0), (1, 1), (1, 2000)]);
}
