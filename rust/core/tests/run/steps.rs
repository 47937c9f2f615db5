//! Steps with a key, steps that are begun before they end, and checkpoints: what stays of them after a crash and a
//! retry.

use std::time::Duration;

use bide_core::attempt::{Attempt, Fed, Request, Standing, StepOptions};
use bide_core::event::{Timer, Wait};
use bide_core::{
    Address, EntryKey, EntryKind, EntryState, Event, GateSpec, GateUntil, MessageKind, Operation, Outcome, Recall,
    Refused, RetryPolicy, StepArguments, StepMode, SubStatus, TaskRef, TaskSpec, Time, Value,
};

use crate::harness::failure;
use crate::script::{RETRY, Script, key, seconds, spec, wait};

const A: TaskRef = TaskRef::plain(0);

fn retried(attempts: u32, fresh: bool) -> Script {
    let retry = RetryPolicy { jitter: 0.0, fresh, ..RetryPolicy::new(attempts) };
    let mut script = Script::new(vec![TaskSpec { retry, ..spec("a", &[]) }]);
    script.enter("a");
    script
}

fn step(name: &str) -> Wait {
    wait(name, EntryKind::Step)
}

fn keyed(name: &str, key: &str) -> Wait {
    let key = EntryKey { name: EntryKey::keyed_name(name, key), n: EntryKey::KEYED };
    Wait { key, operation: Operation::step(None), timeout: None }
}

fn number(n: u32) -> Value {
    Value::tagged(b'i', n.to_string().as_bytes())
}

fn intend(script: &mut Script, wait: Wait) {
    let attempt = script.attempt("a");
    script.apply(Event::Intended { task: A, attempt, wait }).unwrap();
}

/// A step has failed for the `tries`th time and is tried again after a minute.
fn delay(script: &mut Script, name: &str, tries: u32) -> Time {
    let (attempt, due) = (script.attempt("a"), script.now.after(seconds(60)));
    let proof = Some(b"same".as_slice().into());
    let wait = Wait { operation: Operation::Step { proof, due: Some(due) }, ..step(name) };
    let failure = Some(failure("flaky"));
    script.apply(Event::Delayed { task: A, attempt, wait, tries, failure, deferred: true }).unwrap();
    due
}

fn fail(script: &mut Script) {
    script.fail("a", RETRY);
    script.due("a", Timer::Retry).unwrap();
    script.enter("a");
}

/// What a body that has just been entered finds of these calls, in this order.
fn look(script: &mut Script, calls: &[(&str, Option<&str>)]) -> Vec<(EntryKey, Recall)> {
    let mut attempt = Attempt::new(A, "a".into(), script.attempt("a"));
    calls
        .iter()
        .map(|(name, key)| {
            let name = key.map_or_else(|| (*name).into(), |key| EntryKey::keyed_name(name, key));
            let options = StepOptions { keyed: key.is_some(), ..StepOptions::PLAIN };
            let request = Request::Step { arguments: StepArguments::default(), options };
            let call = attempt.begin(&name, request, Standing::default()).unwrap();
            let recalled = attempt.recall(&call, &mut script.state);
            attempt.abandon(&call);
            let Fed::Recalled(key, recall) = recalled else { panic!("{recalled:?}") };
            (key, recall)
        })
        .collect()
}

#[test]
fn steps_with_keys_are_found_in_any_order_and_as_often_as_asked() {
    let mut script = retried(1, false);
    for (n, of) in ["a", "b", "c"].iter().enumerate() {
        script.record("a", keyed("fetch", of), Ok(number(n as u32)));
    }
    script.record("a", Wait { operation: Operation::step(None), ..step("fetch") }, Ok(number(9)));
    script.die();
    script.enter("a");
    let calls = [("fetch", Some("c")), ("fetch", Some("a")), ("fetch", None), ("fetch", Some("a"))];
    let found: Vec<Recall> = look(&mut script, &calls).into_iter().map(|(_, recall)| recall).collect();
    assert_eq!(found, [2, 0, 9, 0].map(|n| Recall::Satisfied(number(n))));
    let missing = look(&mut script, &[("fetch", Some("d")), ("other", Some("a"))]);
    assert!(missing.iter().all(|(_, recall)| *recall == Recall::Ask { deadline: None }), "{missing:?}");
}

#[test]
fn no_two_pairs_of_name_and_key_are_one() {
    let pairs =
        [("a", "b"), ("a \"b\"", "c"), ("a", "b\" \"c"), ("a", "b\\\" \"c"), ("a \"", "b"), ("", "a"), ("a", "")];
    let names: std::collections::HashSet<_> = pairs.iter().map(|(name, key)| EntryKey::keyed_name(name, key)).collect();
    assert_eq!(names.len(), pairs.len());
    assert!(names.iter().all(|name| **name != *EntryKey::checkpoint().name));
}

#[test]
fn an_intent_survives_crashes_and_retries_and_only_a_fresh_journal_drops_it() {
    for (fresh, kept) in [(false, true), (true, false)] {
        let mut script = retried(3, fresh);
        script.record("a", step("before"), Ok(Value::NONE));
        intend(&mut script, step("pay"));
        script.die();
        assert_eq!(script.timers(), [], "a body that executed is entered at once");
        script.enter("a");
        let begun = Recall::Begun { mode: StepMode::Once, due: None };
        assert_eq!(script.recall("a", &step("pay")), begun);
        fail(&mut script);
        assert_eq!(script.recall("a", &step("pay")) == begun, kept);
        assert_eq!(script.journal("a").contains(&"pay".to_owned()), kept);
    }
}

#[test]
fn the_failure_of_a_step_that_is_executed_once_survives_a_retry_and_others_do_not() {
    let mut script = retried(3, false);
    script.record("a", step("caught"), Err(failure("caught")));
    intend(&mut script, step("pay"));
    script.record("a", step("pay"), Err(failure("declined")));
    script.record("a", step("flaky"), Err(failure("flaky")));
    script.fail("a", RETRY);
    script.die();
    script.due("a", Timer::Retry).unwrap();
    script.enter("a");
    assert_eq!(script.journal("a"), ["pay"]);
    assert_eq!(script.recall("a", &step("pay")), Recall::Failed(failure("declined")));
}

#[test]
fn the_time_in_which_a_step_executes_is_no_time_waited() {
    let mut script = retried(1, false);
    intend(&mut script, step("pay"));
    script.now = script.now.after(seconds(50));
    script.record("a", step("pay"), Ok(Value::NONE));
    script.end("a", Outcome::Completed { output: Value::NONE, changes: None }).unwrap();
    assert_eq!(script.row("a").waited, 0);
}

#[test]
fn a_delay_shows_in_the_row_and_a_body_in_memory_ends_it() {
    let mut script = retried(1, false);
    delay(&mut script, "flaky", 1);
    assert_eq!(script.row("a").sub_status, Some(SubStatus::Deferred));
    assert_eq!(script.blocked_by("a"), "waits to try again flaky");
    script.now = script.now.after(seconds(60));
    let resumed = Event::Resumed { task: A, attempt: 1, key: key("flaky") };
    script.apply(resumed.clone()).unwrap();
    assert_eq!((script.row("a").sub_status, script.row("a").waited), (Some(SubStatus::Active), 60_001_000));
    assert_eq!(script.row("a").blocked_by, None);
    assert_eq!(script.apply(resumed), Err(Refused::AttemptOver));
    script.record("a", step("flaky"), Ok(number(3)));
    assert_eq!(script.row("a").waited, 60_001_000);
    assert_eq!(script.recall("a", &step("flaky")), Recall::Satisfied(number(3)));
}

#[test]
fn a_body_out_of_memory_is_entered_for_its_next_try_and_tries_are_kept() {
    let mut script = retried(1, false);
    let due = delay(&mut script, "flaky", 2);
    script.die();
    assert_eq!(script.timers(), [(due, Timer::Reenter)]);
    assert_eq!(script.ready(), [""; 0]);
    script.now = due;
    script.due("a", Timer::Reenter).unwrap();
    assert_eq!(script.ready(), ["a"]);
    script.enter("a");
    let begun = Recall::Begun { mode: StepMode::Retried { tries: 2 }, due: None };
    assert_eq!(script.recall("a", &step("flaky")), begun);
    let waited = script.row("a").waited;
    script.die();
    assert_eq!(script.timers(), [], "it executed when it died");
    script.enter("a");
    assert_eq!((script.recall("a", &step("flaky")), script.row("a").waited), (begun, waited));
}

#[test]
fn a_step_that_is_tried_again_keeps_its_last_failure_when_its_delay_is_slept_out_later() {
    let mut script = retried(1, false);
    let due = delay(&mut script, "flaky", 1);
    script.die();
    script.now = due;
    script.due("a", Timer::Reenter).unwrap();
    script.enter("a");
    let wait = Wait { operation: Operation::Step { proof: None, due: Some(due.after(seconds(1))) }, ..step("flaky") };
    let again = Event::Delayed { task: A, attempt: 1, wait, tries: 1, failure: None, deferred: true };
    script.apply(again).unwrap();
    let entry = script.store.entry(0, &key("flaky")).unwrap();
    assert_eq!((entry.failure.as_deref().cloned(), entry.state), (Some(failure("flaky")), EntryState::Open));
}

#[test]
fn an_unrecorded_step_is_gone() {
    let mut script = retried(1, false);
    intend(&mut script, step("ask"));
    script.apply(Event::Unrecorded { task: A, attempt: 1, key: key("ask") }).unwrap();
    assert_eq!(script.journal("a"), [""; 0]);
    let again = script.apply(Event::Unrecorded { task: A, attempt: 1, key: key("ask") });
    assert_eq!(again, Err(Refused::AttemptOver));
    script.record("a", step("done"), Ok(Value::NONE));
    let closed = script.apply(Event::Unrecorded { task: A, attempt: 1, key: key("done") });
    assert_eq!(closed, Err(Refused::AttemptOver));
}

#[test]
fn a_checkpoint_stands_for_the_journal_and_leaves_the_gate() {
    let gate = GateSpec { name: "gate".into(), until: GateUntil::After(Duration::ZERO), timeout: None };
    let retry = RetryPolicy { jitter: 0.0, ..RetryPolicy::new(3) };
    let mut script = Script::new(vec![TaskSpec { gate: Some(gate.clone()), retry, ..spec("a", &[]) }]);
    script.close("a", gate.key(), Ok(Value::NONE)).unwrap();
    script.enter("a");
    for turn in 1..=3 {
        script.record("a", step("turn"), Ok(number(turn)));
        script.record("a", keyed("item", "x"), Ok(number(turn)));
        script.open("a", Wait { operation: Operation::Time { due: script.now }, ..wait("nap", EntryKind::Time) });
        script.close("a", key("nap"), Ok(Value::NONE)).unwrap();
        intend(&mut script, step("left open"));
        script.apply(Event::Checkpoint { task: A, attempt: 1, state: number(turn) }).unwrap();
        assert_eq!(script.batch.len(), 3, "what is dropped, the state, and the row: {:?}", script.batch);
        assert_eq!(script.journal("a"), ["gate", "checkpoint"]);
    }
    script.record("a", step("turn"), Err(failure("turn 4")));
    script.fail("a", RETRY);
    script.die();
    script.due("a", Timer::Retry).unwrap();
    script.enter("a");
    assert_eq!(script.journal("a"), ["gate", "checkpoint"], "a retry keeps the state");
    assert_eq!(script.state.last_checkpoint(A), Some(&number(3)));
}

#[test]
fn the_timer_of_a_wait_that_a_checkpoint_dropped_leaves_the_next_one_open() {
    let mut script = retried(1, false);
    let address = Address { kind: MessageKind::Signal, name: "tick".into() };
    let tick = Wait { key: key("tick"), operation: Operation::Message(address), timeout: Some(seconds(60)) };
    script.open("a", tick.clone());
    script.close("a", key("tick"), Ok(Value::NONE)).unwrap();
    let mut timers = script.wait_timers();
    script.apply(Event::Checkpoint { task: A, attempt: 1, state: number(1) }).unwrap();
    script.now = script.now.after(seconds(30));
    script.open("a", tick);
    let deadline = script.store.entry(0, &key("tick")).unwrap().deadline;
    timers.append(&mut script.wait_timers());
    let [(first, dropped), (second, current)] = timers.try_into().unwrap();
    script.now = first;
    assert_eq!(script.apply(dropped), Err(Refused::AttemptOver));
    assert_eq!((script.store.entry(0, &key("tick")).unwrap().state, deadline), (EntryState::Open, Some(second)));
    script.now = second;
    script.apply(current).unwrap();
    assert_eq!(script.store.entry(0, &key("tick")).unwrap().state, EntryState::Failed);
}

#[test]
fn a_retry_with_a_fresh_journal_drops_the_checkpoint() {
    let mut script = retried(2, true);
    script.apply(Event::Checkpoint { task: A, attempt: 1, state: number(1) }).unwrap();
    fail(&mut script);
    assert_eq!(script.state.last_checkpoint(A), None);
}

#[test]
fn a_body_replays_until_it_has_come_to_the_end_of_its_records() {
    let mut script = retried(1, false);
    let fresh = Attempt::new(A, "a".into(), 1).is_replaying(&script.state);
    assert!(!fresh);
    script.record("a", keyed("first", "x"), Ok(Value::NONE));
    script.record("a", Wait { operation: Operation::step(None), ..step("second") }, Ok(Value::NONE));
    script.die();
    script.enter("a");
    let mut attempt = Attempt::new(A, "a".into(), 1);
    assert!(attempt.is_replaying(&script.state));
    let mut replays = |attempt: &mut Attempt, name: &str, key: Option<&str>| {
        let name = key.map_or_else(|| name.into(), |key| EntryKey::keyed_name(name, key));
        let options = StepOptions { keyed: key.is_some(), ..StepOptions::PLAIN };
        let request = Request::Step { arguments: StepArguments::default(), options };
        let call = attempt.begin(&name, request, Standing::default()).unwrap();
        attempt.recall(&call, &mut script.state);
        attempt.abandon(&call);
        attempt.is_replaying(&script.state)
    };
    assert!(replays(&mut attempt, "first", Some("x")));
    assert!(replays(&mut attempt, "first", Some("x")), "the same record is not read twice");
    let mut other = attempt.clone();
    assert!(!replays(&mut attempt, "second", None), "it was the last one");
    assert!(!replays(&mut other, "new", None), "a call without a record is none of the past");
    assert!(!other.is_replaying(&script.state));
}
