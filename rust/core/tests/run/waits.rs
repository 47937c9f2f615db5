//! Waits, gates and timers: their times are recorded once and stay, and late events change nothing.

use bide_core::event::{Timer, Wait};
use bide_core::{
    Address, Effect, EntryKind, Event, GateSpec, GateTime, GateUntil, Lookup, Operation, Outcome, Pending, Recall,
    Refused, RetryPolicy, RunStatus, SubStatus, TaskRef, TaskSpec, TaskStatus, Time, Uses, Value, Write,
};

use crate::harness::failure;
use crate::script::{RETRY, Script, key, seconds, spec, wait};

fn gate(name: &str, until: GateUntil) -> GateSpec {
    GateSpec { name: name.into(), until, timeout: Some(seconds(60)) }
}

fn gated(gate: &GateSpec, attempts: u32) -> Vec<TaskSpec> {
    let retry = RetryPolicy { jitter: 0.0, ..RetryPolicy::new(attempts) };
    vec![TaskSpec { gate: Some(gate.clone()), retry, ..spec("a", &[]) }]
}

fn sleep(script: &Script, name: &str, span: u64) -> Wait {
    let operation = Operation::Time { due: script.now.after(seconds(span)) };
    Wait { operation, ..wait(name, EntryKind::Time) }
}

#[test]
fn a_wait_is_in_the_batch_with_the_row_that_shows_it() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", Wait { timeout: Some(seconds(60)), ..wait("file", EntryKind::Condition) });
    let [Write::Entry { entry, .. }, Write::Task(row)] = &script.batch[..] else { panic!("{:?}", script.batch) };
    assert_eq!(entry.deadline, Some(script.now.after(seconds(60))));
    assert_eq!((row.status, row.sub_status), (TaskStatus::Running, Some(SubStatus::Deferred)));
    script.close("a", key("file"), Ok(Value::NONE)).unwrap();
    assert_eq!(script.row("a").sub_status, Some(SubStatus::Active));
    script.end("a", Outcome::Completed { output: Value::NONE, changes: None }).unwrap();
    assert_eq!((script.row("a").sub_status, script.row("a").waited), (None, 1000));
}

#[test]
fn an_undisturbed_run_writes_one_short_row_a_task_and_its_end() {
    let mut script = Script::new(vec![spec("a", &[])]);
    assert!(script.batch.is_empty(), "it is committed already");
    script.complete("a");
    assert!(matches!(&script.batch[..], [Write::Done(_), Write::Run(run)] if run.status == RunStatus::Completed));
}

#[test]
fn a_deadline_is_not_extended_by_crashes() {
    let mut script = Script::new(vec![spec("a", &[])]);
    let file = Wait { timeout: Some(seconds(60)), ..wait("file", EntryKind::Condition) };
    script.enter("a");
    script.open("a", file.clone());
    let deadline = script.state.deadline(TaskRef::plain(0), &key("file"));
    for _ in 0..3 {
        script.now = script.now.after(seconds(10));
        script.die();
        assert_eq!(script.ready(), ["a"], "only the body can ask its condition");
        assert_eq!(
            script.state.task_row(TaskRef::plain(0)).status,
            TaskStatus::Running,
            "its attempt continues, to all readers"
        );
        assert!(script.enter("a").reentry);
        assert_eq!(script.recall("a", &file), Recall::Ask { deadline });
        script.open("a", file.clone());
        assert_eq!(script.state.deadline(TaskRef::plain(0), &key("file")), deadline);
    }
    script.close("a", key("file"), Ok(Value::NONE)).unwrap();
    assert!(script.row("a").waited >= 30_000_000, "it has waited since before the first crash");
}

#[test]
fn a_wait_that_is_found_satisfied_on_re_entry_shows_and_counts() {
    let mut script = Script::new(vec![spec("a", &[])]);
    let file = wait("file", EntryKind::Condition);
    script.enter("a");
    script.open("a", file.clone());
    script.now = script.now.after(seconds(10));
    script.die();
    script.enter("a");
    script.record("a", file, Ok(Value::NONE));
    let row = script.row("a");
    assert_eq!(row.sub_status, Some(SubStatus::Active));
    assert!(row.waited >= 10_000_000, "it was deferred until now: {row:?}");
}

#[test]
fn time_in_which_two_waits_are_open_counts_once() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    let start = script.now;
    script.open("a", wait("one", EntryKind::Condition));
    script.open("a", wait("two", EntryKind::Condition));
    script.now = script.now.after(seconds(10));
    script.close("a", key("one"), Ok(Value::NONE)).unwrap();
    script.die();
    script.enter("a");
    script.record("a", wait("two", EntryKind::Condition), Ok(Value::NONE));
    let elapsed = i64::try_from(script.now.since(start).as_micros()).unwrap();
    assert!((10_000_000..=elapsed).contains(&script.row("a").waited), "{:?}", script.row("a"));
}

#[test]
fn a_run_that_was_created_for_another_runner_is_claimed() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.store.run.status = RunStatus::Pending;
    script.die();
    assert_eq!(script.status(), RunStatus::Running);
    assert_eq!(script.ready(), ["a"]);
}

#[test]
fn a_body_that_waits_for_a_time_is_entered_again_only_when_it_is_reached() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    let nap = sleep(&script, "nap", 3600);
    script.open("a", nap.clone());
    script.die();
    let due = nap.operation.due().unwrap();
    assert!(script.ready().is_empty());
    assert_eq!(script.timers(), [(due, Timer::Reenter)]);
    assert_eq!(script.row("a").sub_status, Some(SubStatus::Deferred));
    let late = Outcome::Completed { output: Value::NONE, changes: None };
    assert_eq!(script.end("a", late), Err(Refused::AttemptOver), "no body has been entered here");
    script.now = due;
    script.due("a", Timer::Reenter).unwrap();
    assert_eq!(script.due("a", Timer::Reenter), Err(Refused::AttemptOver));
    assert_eq!(script.ready(), ["a"]);
    script.enter("a");
    assert_eq!(script.recall("a", &nap), Recall::Satisfied(Value::NONE));
}

#[test]
fn a_timer_that_fires_early_satisfies_nothing() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    let nap = sleep(&script, "nap", 3600);
    script.open("a", nap.clone());
    script.die();
    script.due("a", Timer::Reenter).unwrap();
    script.enter("a");
    assert_eq!(script.recall("a", &nap), Recall::Open { due: nap.operation.due(), deadline: None });
}

#[test]
fn a_body_that_waits_for_a_signal_is_entered_again_when_it_comes() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    let approve = wait("approve", EntryKind::Signal);
    script.open("a", approve.clone());
    script.die();
    assert!(script.ready().is_empty() && script.timers().is_empty());
    let yes = Value::tagged(b't', b"");
    script.close("a", key("approve"), Ok(yes.clone())).unwrap();
    assert_eq!(script.ready(), ["a"]);
    assert!(script.enter("a").reentry);
    assert_eq!(script.recall("a", &approve), Recall::Satisfied(yes));
}

#[test]
fn a_gate_costs_a_row_and_its_times_stand() {
    let after = gate("after", GateUntil::After(seconds(5)));
    let mut script = Script::new(gated(&after, 1));
    let times = (Some(script.now.after(seconds(5))), Some(script.now.after(seconds(60))));
    assert!(script.ready().is_empty());
    assert_eq!(script.gates(), [times]);
    assert_eq!((script.row("a").status, script.row("a").attempts), (TaskStatus::Pending, 0));
    script.die();
    assert_eq!(script.gates(), [times]);
    script.close("a", after.key(), Ok(Value::NONE)).unwrap();
    assert_eq!(script.close("a", after.key(), Ok(Value::NONE)), Err(Refused::AttemptOver));
    assert_eq!((script.row("a").status, script.row("a").started_at), (TaskStatus::Ready, None));
    assert!(script.row("a").waited > 0);
    script.die();
    assert_eq!(script.ready(), ["a"], "it is not asked twice");
    assert!(script.gates().is_empty());
}

#[test]
fn a_failed_gate_is_a_failed_attempt_and_begins_again() {
    let file = gate("file", GateUntil::Condition);
    let mut script = Script::new(gated(&file, 2));
    let (_, first) = script.gates()[0];
    script.close("a", file.key(), Err(failure("timeout"))).unwrap();
    assert_eq!((script.row("a").status, script.row("a").attempts), (TaskStatus::Pending, 1));
    assert_eq!(script.timers(), [(script.now.after(seconds(1)), Timer::Retry)]);
    script.die();
    assert_eq!(script.timers().len(), 1, "the delay is a stored timer");
    script.now = script.now.after(seconds(1));
    script.due("a", Timer::Retry).unwrap();
    let (_, second) = script.gates()[0];
    assert_eq!(second, Some(script.now.after(seconds(60))));
    assert!(second > first);
    script.close("a", file.key(), Err(failure("timeout"))).unwrap();
    assert_eq!((script.row("a").status, script.row("a").attempts), (TaskStatus::Failed, 2));
    assert_eq!(script.row("a").first_started_at, None, "its body never started");
    assert_eq!(script.status(), RunStatus::Failed);
}

#[test]
fn a_retry_of_the_body_does_not_ask_its_satisfied_gate_again() {
    let file = gate("file", GateUntil::Condition);
    let mut script = Script::new(gated(&file, 2));
    script.close("a", file.key(), Ok(Value::NONE)).unwrap();
    script.ready();
    script.enter("a");
    let first = script.row("a").clone();
    script.fail("a", RETRY);
    script.due("a", Timer::Retry).unwrap();
    assert_eq!(script.ready(), ["a"]);
    assert_eq!(script.enter("a").attempt, 2);
    script.end("a", Outcome::Completed { output: Value::NONE, changes: None }).unwrap();
    let row = script.row("a");
    assert!(row.first_started_at < row.started_at, "each start is kept apart: {row:?}");
    assert_eq!(row.waited, first.waited);
}

#[test]
fn the_first_start_is_known_to_the_process_that_makes_the_second_attempt() {
    let file = gate("file", GateUntil::Condition);
    let mut script = Script::new(gated(&file, 2));
    script.close("a", file.key(), Ok(Value::NONE)).unwrap();
    script.enter("a");
    script.fail("a", RETRY);
    let first = script.row("a").first_started_at;
    script.store.may_rewrite = true;
    script.die();
    script.due("a", Timer::Retry).unwrap();
    script.enter("a");
    script.end("a", Outcome::Completed { output: Value::NONE, changes: None }).unwrap();
    let row = script.row("a");
    assert_eq!((row.first_started_at, row.attempts), (first, 2));
    assert!(row.first_started_at < row.started_at, "each start is kept apart: {row:?}");
}

#[test]
fn a_gate_that_a_newer_version_changed_or_dropped_is_not_waited_for() {
    let old = gate("file", GateUntil::Condition);
    let mut script = Script::new(gated(&old, 1));
    let new = gate("approved", GateUntil::Condition);
    script.die_for_version(gated(&new, 1));
    assert_eq!(script.gates().len(), 1);
    assert_eq!(script.close("a", old.key(), Ok(Value::NONE)), Err(Refused::AttemptOver));
    script.die_for_version(vec![spec("a", &[])]);
    assert_eq!(script.ready(), ["a"]);
}

#[test]
fn events_of_an_attempt_that_is_over_are_refused() {
    let retry = RetryPolicy::new(3);
    let mut script = Script::new(vec![TaskSpec { retry, ..spec("a", &[]) }]);
    let task = TaskRef::plain(0);
    script.enter("a");
    script.fail("a", RETRY);
    let due = |attempt| Event::Due { task, attempt, timer: Timer::Retry };
    assert_eq!(script.apply(due(0)), Err(Refused::AttemptOver));
    script.apply(due(1)).unwrap();
    assert_eq!(script.apply(due(1)), Err(Refused::AttemptOver));
    script.enter("a");
    let late = Outcome::Completed { output: Value::NONE, changes: None };
    let recorded =
        Event::Recorded { task, attempt: 1, wait: wait("w", EntryKind::Step), since: None, result: Ok(Value::NONE) };
    let events = [
        Event::Started { task, attempt: 1 },
        Event::Opened { task, attempt: 1, waits: vec![wait("w", EntryKind::Condition)] },
        Event::Closed { task, attempt: 1, key: key("w"), result: Ok(Value::NONE), proved: true, polls: 0, retry: None },
        Event::Closed {
            task,
            attempt: 2,
            key: key("never_opened"),
            result: Ok(Value::NONE),
            proved: true,
            polls: 0,
            retry: None,
        },
        Event::Elapsed { task, attempt: 2, key: key("never_opened"), at: Time(1), times_out: true, retry: None },
        recorded,
        Event::Ended { task, attempt: 1, outcome: late.clone() },
        Event::Ended { task: TaskRef { map: 3, ..task }, attempt: 2, outcome: late.clone() },
        Event::Ended { task: TaskRef::plain(9), attempt: 1, outcome: late.clone() },
        Event::Due { task: TaskRef::plain(9), attempt: 0, timer: Timer::Retry },
    ];
    for event in events {
        assert_eq!(script.apply(event.clone()), Err(Refused::AttemptOver), "{event:?}");
    }
    let step = Lookup::Step(Box::default());
    assert!(script.state.recall(task, 1, &mut Uses::default(), &"w".into(), &step).is_err());
    script.end("a", late.clone()).unwrap();
    assert_eq!(script.end("a", late), Err(Refused::RunOver));
}

#[test]
fn a_timer_of_an_attempt_that_was_skipped_meanwhile_is_refused() {
    let file = gate("file", GateUntil::Condition);
    let mut specs = gated(&file, 2);
    specs.push(spec("b", &[]));
    let mut script = Script::fail_fast(specs);
    script.close("a", file.key(), Err(failure("timeout"))).unwrap();
    script.enter("b");
    script.fail("b", None);
    assert_eq!(script.row("a").status, TaskStatus::Skipped, "its body has not started");
    assert_eq!(script.row("a").retry_at, None);
    assert_eq!(script.due("a", Timer::Retry), Err(Refused::RunOver));
}

#[test]
fn a_failed_commit_names_every_run_that_is_ahead_of_the_store() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &["a"])]);
    script.enter("a");
    let mut pending = Pending::default();
    let opened = Event::Opened { task: TaskRef::plain(0), attempt: 1, waits: vec![wait("file", EntryKind::Condition)] };
    pending.apply(&"run", &mut script.state, opened, Time(5)).unwrap();
    assert!(!pending.is_empty());
    assert_eq!(pending.discard().collect::<Vec<_>>(), ["run"], "a wait has no effects, and is in memory");
    assert!(pending.is_empty());
}

#[test]
fn what_a_recovered_body_waits_for_is_the_wait_that_is_open_now() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", wait("first", EntryKind::Condition));
    assert_eq!(script.blocked_by("a"), "waits for first");
    script.die();
    script.enter("a");
    script.record("a", wait("first", EntryKind::Condition), Ok(Value::NONE));
    assert_eq!(script.row("a").blocked_by, None);
    script.open("a", wait("second", EntryKind::Condition));
    assert_eq!(script.blocked_by("a"), "waits for second");
}

#[test]
fn a_computed_time_of_a_gate_is_recorded_once_and_stands() {
    let part = |name: &str, until| GateSpec { name: name.into(), until, timeout: None };
    let computed = part("grace", GateUntil::Computed);
    let go = part("go", GateUntil::Message(Address::signal("go")));
    let first = part("first", GateUntil::Any(vec![go, computed.clone()]));
    for (gate, number) in [(computed.clone(), 0), (first, 2)] {
        let mut script = Script::new(gated(&gate, 1));
        let opened = script.now;
        let is_asked = |script: &Script| match script.effects[..] {
            [Effect::Gate { part, deadline: None, .. }] => part == number,
            _ => false,
        };
        assert!(is_asked(&script), "{:?}", script.effects);
        script.now = script.now.after(seconds(10));
        script.die();
        assert!(is_asked(&script), "it was not computed yet: {:?}", script.effects);
        script.effects.clear();

        let task = script.find("a");
        let timed = Event::Timed { task, attempt: 0, key: computed.key(), time: GateTime::After(seconds(60)) };
        script.apply(timed.clone()).unwrap();
        assert_eq!(script.apply(timed.clone()), Err(Refused::AttemptOver), "it is computed once");
        let due = opened.after(seconds(60));
        for _ in 0..2 {
            assert!(matches!(script.effects[..], [Effect::Timer { at, .. }] if at == due), "{:?}", script.effects);
            script.die();
        }
        assert!(script.state.awaits_gate(task, 0, number, None));
        script.ring();
        assert!(script.now >= due);
        assert_eq!(script.ready(), ["a"]);
        assert_eq!(script.apply(timed), Err(Refused::AttemptOver));
    }
}

#[test]
fn the_deadline_of_a_gate_ends_it_before_its_computed_time() {
    let computed = gate("grace", GateUntil::Computed);
    let mut script = Script::new(gated(&computed, 1));
    let (opened, task) = (script.now, script.find("a"));
    let (attempt, key, time) = (0, computed.key(), GateTime::At(script.now.after(seconds(3600))));
    script.apply(Event::Timed { task, attempt, key, time }).unwrap();
    script.ring();
    assert_eq!(script.row("a").status, TaskStatus::Failed);
    assert!(script.now < opened.after(seconds(70)), "at the deadline, not at its time");
}

#[test]
fn what_a_condition_raises_is_written_while_its_wait_is_open() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", wait("file", EntryKind::Condition));
    let raised = |error| Event::PollRaised { task: TaskRef::plain(0), attempt: 1, key: key("file"), error };
    script.apply(raised(Some(failure("gone")))).unwrap();
    let [Write::Entry { entry, .. }] = &script.batch[..] else { panic!("{:?}", script.batch) };
    assert_eq!(entry.failure.as_deref(), Some(&failure("gone")));
    script.close("a", key("file"), Ok(Value::NONE)).unwrap();
    let closed = script.batch.iter().find_map(|write| match write {
        Write::Entry { entry, .. } => Some(entry.failure.clone()),
        _ => None,
    });
    assert_eq!(closed, Some(None), "it has not failed");
    assert_eq!(script.apply(raised(None)), Err(Refused::AttemptOver));
}

#[test]
fn a_gate_that_has_raised_is_satisfied_all_the_same() {
    let gate = gate("file", GateUntil::Condition);
    let mut script = Script::new(gated(&gate, 1));
    let error = Some(failure("gone"));
    script.apply(Event::PollRaised { task: TaskRef::plain(0), attempt: 0, key: gate.key(), error }).unwrap();
    script.die();
    script.close("a", gate.key(), Ok(Value::NONE)).unwrap();
    assert_eq!(script.ready(), ["a"]);
}
