//! What is under way in a store, and runs that belong to nobody from the beginning.

use bide_core::record::RunRowId;
use bide_core::{Address, Ask, Control, Message, MessageKind, RunOptions};
use bide_store::{OpenWait, Sent, UnownedRuns};

use super::*;

fn open(run: RunId, name: &str, seq: u32, at: Time) -> Write {
    let operation = Operation::Condition { proof: None };
    let entry = Entry::new(EntryKey { name: name.into(), n: 1 }, seq, operation, at);
    Write::Entry { run: run.row(), task: 0, map: NO_MAP, entry: Arc::new(entry) }
}

fn shown(waits: &[OpenWait]) -> Vec<(RunRowId, &str)> {
    waits.iter().map(|wait| (wait.run.row(), &*wait.entry.key.name)).collect()
}

pub fn open_waits_are_listed_oldest_first_and_in_pages(store: &dyn Store) {
    let desk = Desk::new(store);
    let (first, second) = (desk.create(START, Some("k")), desk.create(later(1), None));
    desk.commit(vec![
        open(second, "third", 1, later(30)),
        open(first, "first", 1, later(10)),
        open(first, "second", 2, later(20)),
        open(second, "fourth", 2, later(30)),
    ]);
    let all = ok(store.open_waits(None, 100));
    let names = ["first", "second", "third", "fourth"];
    assert_eq!(all.iter().map(|wait| &*wait.entry.key.name).collect::<Vec<_>>(), names);
    assert_eq!(
        (all[0].run, all[0].key.as_deref(), &*all[0].workflow, &*all[0].name),
        (first, Some("k"), "ingest", "fetch")
    );
    assert_eq!((all[0].task, all[0].map, all[0].entry.opened_at), (0, NO_MAP, later(10)));
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = ok(store.open_waits(after, 1));
        let Some(last) = page.last() else { break };
        after = Some(last.position());
        seen.extend(page);
    }
    assert_eq!(seen, all);
}

pub fn what_nobody_waits_for_is_no_open_wait(store: &dyn Store) {
    let desk = Desk::new(store);
    let [waits, ended, task_ended, closed] = [1, 2, 3, 4].map(|seconds| desk.create(later(seconds), None));
    for run in [waits, ended, task_ended, closed] {
        desk.commit(vec![open(run, "wait", 1, later(10))]);
    }
    desk.end(ended, later(11));
    desk.commit(vec![done(task_ended, 0, b"n!")]);
    let key = EntryKey { name: "wait".into(), n: 1 };
    let operation = Operation::Condition { proof: None };
    let satisfied = Entry { state: bide_core::EntryState::Satisfied, ..Entry::new(key, 1, operation, later(10)) };
    desk.commit(vec![Write::Entry { run: closed.row(), task: 0, map: NO_MAP, entry: Arc::new(satisfied) }]);
    // A step that executes waits for nothing; one that is tried again does.
    let step = |due, name: &str, seq| {
        let key = EntryKey { name: name.into(), n: 1 };
        let entry = Entry::new(key, seq, Operation::Step { proof: None, due }, later(12));
        Write::Entry { run: waits.row(), task: 1, map: NO_MAP, entry: Arc::new(entry) }
    };
    desk.commit(vec![step(None, "executes", 1), step(Some(later(60)), "tried again", 2)]);
    let found = ok(store.open_waits(None, 100));
    assert_eq!(shown(&found), [(waits.row(), "wait"), (waits.row(), "tried again")]);
}

pub fn a_run_of_nobody_is_claimed_by_a_runner_that_has_its_workflow(store: &dyn Store) {
    let desk = Desk::new(store);
    let seen = ok(store.wait_for_changes(Seen::default(), Duration::ZERO)).seen;
    let tags = [("customer".into(), "7".into())].into();
    let options = RunOptions { tags, priority: 3, start_at: Some(later(9)), deadline: Some(later(99)) };
    let new = desk.new_run(later(1), Some("k")).with_options(Some(Box::new(options.clone())));
    assert_eq!(ok(store.create_unowned(std::slice::from_ref(&new))), [Creation::Created]);
    assert!(ok(store.wait_for_changes(seen, Duration::ZERO)).unowned);
    let stored = desk.load(new.id);
    assert_eq!((stored.run.status, stored.run.runner, stored.run.options), (RunStatus::Pending, None, options.clone()));
    let tagged = RunFilter { tags: options.tags.clone(), ..RunFilter::default() };
    assert_eq!(ok(store.list(&tagged)).len(), 1);
    let found = ok(store.unowned_runs());
    let expected = UnownedRuns { workflow: "ingest".into(), version: "v1".into(), count: 1, example: new.id };
    assert_eq!(found, [expected]);
    // The same call again, and another run with its key.
    assert_eq!(ok(store.create_unowned(std::slice::from_ref(&new))), [Creation::Created]);
    let again = desk.new_run(later(2), Some("k"));
    assert_eq!(exists(&ok(store.create_unowned(std::slice::from_ref(&again)))[0]).id, new.id);
    let other = again.with_inputs(Arc::from(&b"\x01a\x03n?"[..]));
    let refused = [desk.new_run(later(3), None), other];
    let creations = ok(store.create_unowned(&refused));
    assert!(matches!(creations[1], Creation::OtherInputs(_)), "{creations:?}");
    assert_eq!(ok(store.load(refused[0].id)), None);
    assert_eq!(desk.claim(later(4)), [new.id]);
    assert_eq!(ok(store.unowned_runs()), []);
    let stored = desk.load(new.id);
    assert_eq!((stored.run.status, stored.run.runner), (RunStatus::Running, Some(desk.lease.runner)));
}

pub fn a_runner_is_shown_until_it_leaves(store: &dyn Store) {
    let desk = Desk::new(store);
    let shown = ok(store.runner(desk.lease.runner)).expect("it is there");
    assert_eq!((shown.pid, shown.started_at), (std::process::id(), START));
    ok(store.leave(desk.lease));
    assert_eq!(ok(store.runner(desk.lease.runner)), None);
}

pub fn what_has_not_ended_is_read_without_the_rest(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, Some("k"));
    let key = EntryKey { name: "closed".into(), n: 1 };
    let operation = Operation::Condition { proof: None };
    let satisfied = Entry { state: bide_core::EntryState::Satisfied, ..Entry::new(key, 2, operation, later(10)) };
    desk.commit(vec![
        open(run, "wait", 1, later(10)),
        Write::Entry { run: run.row(), task: 0, map: NO_MAP, entry: Arc::new(satisfied) },
        done(run, 1, b"n!"),
    ]);
    let found = ok(store.load_open(run)).expect("it is there");
    assert_eq!(found, desk.load(run).into_open());
    assert_eq!(found.entries.len(), 1);
    assert!(found.rows.iter().all(|row| row.output.is_none()), "{:?}", found.rows);
    assert_eq!(ok(store.load_open(desk.new_run(later(1), None).id)), None);
}

pub fn the_control_requests_of_a_run_are_listed(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    let pause = Control { ask: Ask::Pause, by: Some("ana".into()), reason: None };
    let signal = Address { kind: MessageKind::Signal, name: "pause".into() };
    for (number, address) in [(1, signal), (2, pause.address()), (3, pause.address())] {
        let message = Message { number, address, id: None, content: Ok(pause.content()), sent_at: later(5) };
        assert_eq!(ok(store.send(run, &message)), Sent::Stored);
    }
    desk.commit(vec![Write::Applied { run: run.row(), number: 2, at: later(4), from: 0 }]);
    let numbers: Vec<i64> = ok(store.requests(run)).iter().map(|message| message.number).collect();
    assert_eq!(numbers, [2, 3]);
}
