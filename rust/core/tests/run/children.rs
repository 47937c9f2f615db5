//! Child runs: the start is a record, the end closes the waits for it, and neither is lost.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Action, Attempt, CallError, Clocks, Fed, Request, Standing, StartRequest};
use bide_core::event::{ChildStart, Wait};
use bide_core::{
    Ask, Control, EntryKey, EntryKind, EntryState, Event, Failure, FailureKind, Lookup, Message, Operation, Recall,
    RetryPolicy, RunId, RunStatus, StepArguments, SubStatus, TaskSpec, Time, Uses, Value, Write,
};

use crate::script::{RETRY, Script, key, seconds, spec, wait};

fn child(n: u16) -> RunId {
    RunId::new(5, n, 0)
}

fn start() -> Wait {
    Wait { key: key("inner"), operation: Operation::Start { proof: Some(b"n=1".as_slice().into()) }, timeout: None }
}

fn end(n: u16) -> Wait {
    let key = EntryKey { name: format!("child {n}").into(), n: 1 };
    Wait { key, operation: Operation::Child { run: child(n) }, timeout: None }
}

/// A body starts a child; the store creates that with the record.
fn record(script: &mut Script, wait: Wait, n: u16) {
    let (task, attempt) = (script.find("a"), script.attempt("a"));
    let proof = wait.operation.proof().map(Into::into);
    let start = ChildStart { run: child(n), ..ChildStart::new(wait.key, proof) };
    script.apply(Event::ChildrenStarted { task, attempt, starts: vec![start] }).unwrap();
}

/// A body that has started a child; the store has created that with the record.
fn started() -> Script {
    started_in(vec![spec("a", &[])])
}

fn started_in(specs: Vec<TaskSpec>) -> Script {
    let mut script = Script::new(specs);
    script.enter("a");
    record(&mut script, start(), 1);
    script.store.children.push((child(1), RunStatus::Running));
    script
}

/// A child ends, and its parent gets to know it.
fn ends(script: &mut Script, n: u16, status: RunStatus) {
    script.store.children.iter_mut().filter(|(run, _)| *run == child(n)).for_each(|(_, of)| *of = status);
    script.apply(Event::ChildEnded { run: child(n), status }).unwrap();
}

fn failed(recall: Recall) -> Failure {
    match recall {
        Recall::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_end_of_a_child_closes_the_wait_and_wakes_the_body() {
    let mut script = started();
    script.open("a", end(1));
    assert_eq!(script.row("a").sub_status, Some(SubStatus::Deferred));
    ends(&mut script, 1, RunStatus::Completed);
    assert_eq!(script.recall("a", &end(1)), Recall::Satisfied(Value::NONE));
    assert_eq!(script.row("a").sub_status, Some(SubStatus::Active));
    assert!(script.woken("a"));
    ends(&mut script, 1, RunStatus::Completed);
    assert!(!script.woken("a"), "told twice");
}

#[test]
fn the_end_of_a_child_changes_nothing_of_a_task_that_failed_while_it_waited() {
    for dies in [false, true] {
        let mut script = started_in(vec![spec("a", &[]), spec("b", &[])]);
        script.open("a", end(1));
        script.fail("a", None);
        if dies {
            script.die();
        }
        ends(&mut script, 1, RunStatus::Completed);
        let writes = script.batch.iter().filter(|write| matches!(write, Write::Task(_) | Write::Entry { .. }));
        assert_eq!(writes.count(), 0, "{:?}", script.batch);
    }
}

#[test]
fn a_wait_for_a_child_that_has_ended_is_closed_at_once() {
    let mut script = started();
    ends(&mut script, 1, RunStatus::Completed);
    script.open("a", end(1));
    assert_eq!(script.recall("a", &end(1)), Recall::Satisfied(Value::NONE));
    assert_eq!(script.row("a").sub_status, Some(SubStatus::Active), "nothing is deferred");
}

#[test]
fn a_child_that_fails_or_is_cancelled_fails_the_wait_and_a_paused_one_does_not_end_it() {
    for status in [RunStatus::Failed, RunStatus::Cancelled] {
        let mut script = started();
        script.open("a", end(1));
        ends(&mut script, 1, RunStatus::Paused);
        assert!(!script.woken("a"));
        ends(&mut script, 1, status);
        assert_eq!(failed(script.recall("a", &end(1))).kind, FailureKind::ChildFailed);
    }
}

#[test]
fn a_reentered_body_finds_its_child_and_waits_out_of_memory() {
    let mut script = started();
    script.open("a", end(1));
    script.die();
    assert!(script.ready().is_empty(), "the body is entered only when its child ends");
    ends(&mut script, 1, RunStatus::Completed);
    assert_eq!(script.ready(), ["a"]);
    assert!(script.enter("a").reentry);
    assert_eq!(script.recall("a", &start()), Recall::Satisfied(child(1).to_value()));
    assert_eq!(script.recall("a", &end(1)), Recall::Satisfied(Value::NONE));
}

#[test]
fn a_child_that_ended_while_nobody_had_its_parent_is_seen_at_recovery() {
    let mut script = started();
    script.open("a", end(1));
    script.store.children[0].1 = RunStatus::Failed;
    script.die();
    assert_eq!(script.ready(), ["a"]);
    script.enter("a");
    assert_eq!(failed(script.recall("a", &end(1))).kind, FailureKind::ChildFailed);
}

#[test]
fn a_recorded_start_whose_child_was_not_created_is_made_again() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    record(&mut script, start(), 1);
    // Its number was taken, and the process died before it tried another one.
    script.die();
    script.enter("a");
    assert_eq!(script.recall("a", &start()), Recall::Ask { deadline: None });
    record(&mut script, start(), 2);
    script.store.children.push((child(2), RunStatus::Running));
    assert_eq!(script.recall("a", &start()), Recall::Satisfied(child(2).to_value()));
    assert!(script.state.has_child(child(2)) && !script.state.has_child(child(1)));
    script.die();
    script.enter("a");
    assert_eq!(script.recall("a", &start()), Recall::Satisfied(child(2).to_value()));
}

#[test]
fn another_id_replaces_one_that_was_taken() {
    let mut script = started();
    record(&mut script, start(), 2);
    assert!(script.state.has_child(child(2)) && !script.state.has_child(child(1)));
    assert_eq!(script.recall("a", &start()), Recall::Satisfied(child(2).to_value()));
}

#[test]
fn a_start_with_other_inputs_is_a_mismatch_unless_a_key_says_what_is_the_same() {
    let mut script = started();
    let other = Wait { operation: Operation::Start { proof: Some(b"n=2".as_slice().into()) }, ..start() };
    let Recall::Mismatch(why) = script.recall("a", &other) else { panic!("not refused") };
    assert!(why.starts_with("child run 'inner' (use 1) was started with other inputs"), "{why}");

    let name = EntryKey::keyed_name("inner", "a.csv");
    let key = EntryKey { name: name.clone(), n: EntryKey::KEYED };
    let keyed = Wait { key: key.clone(), operation: Operation::Start { proof: None }, timeout: None };
    record(&mut script, keyed, 2);
    let (task, attempt, mut uses) = (script.find("a"), script.attempt("a"), Uses::default());
    for _ in 0..2 {
        let found = script.state.recall(task, attempt, &mut uses, &name, &Lookup::KeyedStart).unwrap();
        assert_eq!(found, (key.clone(), Recall::Satisfied(child(2).to_value())));
    }
    // It has not used up the name.
    let arguments = StepArguments { proof: Some(b"n=1".as_slice().into()), ..StepArguments::default() };
    let found =
        script.state.recall(task, attempt, &mut uses, &"inner".into(), &Lookup::Start(Box::new(arguments))).unwrap();
    assert_eq!(found.1, Recall::Satisfied(child(1).to_value()));
}

#[test]
fn a_wait_for_a_run_that_is_no_child_fails_instead_of_lasting_for_ever() {
    let mut script = started();
    script.open("a", end(7));
    let failure = failed(script.recall("a", &end(7)));
    assert_eq!(failure.kind, FailureKind::Definition);
    assert!(failure.message().contains("a body waits for its own child runs"), "{failure}");
}

#[test]
fn a_wait_times_out_and_the_child_can_be_awaited_again() {
    let mut script = started();
    script.open("a", Wait { timeout: Some(seconds(1)), ..end(1) });
    script.ring();
    assert_eq!(failed(script.recall("a", &end(1))).kind, FailureKind::WaitTimeout);
    ends(&mut script, 1, RunStatus::Completed);
    let again = Wait { key: EntryKey { n: 2, ..end(1).key }, ..end(1) };
    script.open("a", again.clone());
    assert_eq!(script.store.entry(0, &again.key).unwrap().state, EntryState::Satisfied);
}

/// The first wait has timed out; after the checkpoint the next one has its key.
#[test]
fn the_end_of_a_child_leaves_the_wait_for_another_open_that_has_its_key() {
    let mut script = started();
    let of = |n| Wait { key: key("inner run"), operation: Operation::Child { run: child(n) }, timeout: None };
    script.open("a", Wait { timeout: Some(seconds(1)), ..of(1) });
    script.ring();
    let task = script.find("a");
    script.apply(Event::Checkpoint { task, attempt: 1, state: Value::NONE }).unwrap();
    record(&mut script, start(), 2);
    script.store.children.push((child(2), RunStatus::Running));
    script.open("a", of(2));
    ends(&mut script, 1, RunStatus::Failed);
    assert_eq!(script.store.entry(0, &of(2).key).unwrap().state, EntryState::Open);
    ends(&mut script, 2, RunStatus::Completed);
    assert_eq!(script.recall("a", &of(2)), Recall::Satisfied(Value::NONE));
}

#[test]
fn the_next_attempt_starts_another_child_in_place_of_one_that_failed() {
    let mut script = Script::new(vec![TaskSpec { retry: RetryPolicy::new(3), ..spec("a", &[]) }]);
    script.enter("a");
    for (name, n) in [("inner", 1), ("other", 2)] {
        let wait = Wait { key: key(name), ..start() };
        record(&mut script, wait, n);
        script.store.children.push((child(n), RunStatus::Running));
    }
    script.open("a", end(2));
    ends(&mut script, 2, RunStatus::Completed);
    script.open("a", end(1));
    ends(&mut script, 1, RunStatus::Failed);
    script.fail("a", RETRY);
    assert_eq!(script.journal("a"), ["other", "child 2"]);
    script.due("a", bide_core::event::Timer::Retry).unwrap();
    script.enter("a");
    assert_eq!(script.recall("a", &start()), Recall::Ask { deadline: None });
}

#[test]
fn a_wait_for_a_replaced_child_goes_with_it_though_a_step_came_after() {
    let mut script = Script::new(vec![TaskSpec { retry: RetryPolicy::new(3), ..spec("a", &[]) }]);
    script.enter("a");
    record(&mut script, start(), 1);
    script.store.children.push((child(1), RunStatus::Running));
    let of = |n, run| {
        let key = EntryKey { n, ..key("inner run") };
        Wait { key, operation: Operation::Child { run: child(run) }, timeout: None }
    };
    script.open("a", Wait { timeout: Some(seconds(1)), ..of(1, 1) });
    script.ring();
    script.record("a", wait("step", EntryKind::Step), Ok(Value::NONE));
    script.open("a", of(2, 1));
    ends(&mut script, 1, RunStatus::Failed);
    script.fail("a", RETRY);
    assert_eq!(script.journal("a"), ["step"]);
    script.due("a", bide_core::event::Timer::Retry).unwrap();
    script.enter("a");
    record(&mut script, start(), 2);
    assert_eq!(script.recall("a", &of(1, 2)), Recall::Ask { deadline: None });
}

#[test]
fn a_checkpoint_keeps_the_starts_with_a_key_and_no_body_replays_them() {
    let mut script = started();
    let name = EntryKey::keyed_name("inner", "a.csv");
    let key = EntryKey { name: Arc::clone(&name), n: EntryKey::KEYED };
    record(&mut script, Wait { key, operation: Operation::Start { proof: None }, timeout: None }, 2);
    script.store.children.push((child(2), RunStatus::Running));
    let task = script.find("a");
    script.apply(Event::Checkpoint { task, attempt: 1, state: Value::NONE }).unwrap();
    assert_eq!(script.journal("a"), [&*name, "checkpoint"]);
    script.die();
    script.enter("a");
    assert!(!Attempt::new(task, "a".into(), 1).is_replaying(&script.state));
    script.record("a", wait("step", EntryKind::Step), Ok(Value::NONE));
    script.die();
    script.enter("a");
    let (mut attempt, arguments) = (Attempt::new(task, "a".into(), 1), StepArguments::default());
    let start = Request::Start(vec![StartRequest { name: Arc::clone(&name), arguments, keyed: true, awaited: false }]);
    let call = attempt.begin(&name, start, Standing::default()).unwrap();
    let Fed::RecalledParts(parts) = attempt.recall(&call, &mut script.state) else { panic!("not looked up") };
    assert_eq!(parts[0].recall, Recall::Satisfied(child(2).to_value()));
    assert!(attempt.is_replaying(&script.state), "the step is still to be read");
}

/// A body starts a child and waits for it, in one commit. Returns the key of that wait.
fn record_awaited(script: &mut Script, n: u16) -> EntryKey {
    let (task, attempt, Wait { key, operation, .. }) = (script.find("a"), script.attempt("a"), start());
    let start = ChildStart { run: child(n), awaited: true, ..ChildStart::new(key, operation.proof().map(Into::into)) };
    script.apply(Event::ChildrenStarted { task, attempt, starts: vec![start] }).unwrap();
    script.store.children.push((child(n), RunStatus::Running));
    EntryKey { name: "child inner".into(), n: 1 }
}

#[test]
fn the_commit_of_a_start_opens_the_wait_that_the_body_makes_next() {
    for dies in [false, true] {
        let mut script = Script::new(vec![spec("a", &[])]);
        script.enter("a");
        let key = record_awaited(&mut script, 1);
        assert_eq!(script.row("a").sub_status, Some(SubStatus::Deferred));
        assert_eq!(script.store.entry(0, &key).unwrap().state, EntryState::Open);
        let end = Wait { key, ..end(1) };
        if dies {
            script.die();
            assert!(script.ready().is_empty(), "the body is entered only when its child ends");
        }
        ends(&mut script, 1, RunStatus::Completed);
        if dies {
            assert!(script.enter("a").reentry);
            assert_eq!(script.recall("a", &start()), Recall::Satisfied(child(1).to_value()));
        } else {
            assert!(script.woken("a"));
        }
        assert_eq!(script.recall("a", &end), Recall::Satisfied(Value::NONE));
    }
}

#[test]
fn a_wait_of_the_same_name_is_not_taken_for_that_of_a_child() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.record("a", wait("child inner", EntryKind::Signal), Ok(Value::NONE));
    let key = record_awaited(&mut script, 1);
    let entry = script.store.entry(0, &key).unwrap();
    assert_eq!(
        (entry.kind(), entry.state),
        (EntryKind::Signal, EntryState::Satisfied),
        "the body opens its wait itself"
    );
}

struct NoTime;

impl Clocks for NoTime {
    fn wall(&self) -> Time {
        Time(0)
    }

    fn steady(&self) -> Duration {
        Duration::ZERO
    }

    fn random(&self) -> f64 {
        0.0
    }
}

#[test]
fn the_wait_that_is_open_with_a_start_is_recalled_as_such_once() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    let clocks = &NoTime;
    let mut attempt = Attempt::new(script.find("a"), "a".into(), 1);
    let Wait { key, operation, .. } = start();
    let arguments = StepArguments { proof: operation.proof().map(Into::into), ..StepArguments::default() };
    let request = StartRequest { name: key.name, arguments, keyed: false, awaited: true };
    let mut call = attempt.begin(&"inner".into(), Request::Start(vec![request]), Standing::default()).unwrap();
    attempt.advance(&mut call, Fed::Begin, clocks);
    attempt.advance(&mut call, Fed::LeaseHeld, clocks);
    let recalled = attempt.recall(&call, &mut script.state);
    let Action::StartChildren { event, .. } = attempt.advance(&mut call, recalled, clocks) else { panic!("no start") };
    let Event::ChildrenStarted { starts, .. } = *event else { panic!("{event:?}") };
    assert!(starts[0].awaited);
    record_awaited(&mut script, 1);
    attempt.advance(&mut call, Fed::Committed { deadline: None }, clocks);
    let mut recall = |name: &str| {
        let request = Request::Child { run: child(1), timeout: None };
        let call = attempt.begin(&name.into(), request, Standing::default()).unwrap();
        let recalled = attempt.recall(&call, &mut script.state);
        attempt.abandon(&call);
        recalled
    };
    assert!(matches!(recall("child inner"), Fed::Recalled(_, Recall::Waits)));
    assert!(matches!(recall("other"), Fed::Recalled(_, Recall::Ask { .. })));
}

#[test]
fn a_body_that_got_its_cancellation_at_a_start_gets_it_there_again() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.apply(Event::Started { task: script.find("a"), attempt: 1 }).unwrap();
    let control = Control::new(Ask::Cancel { force: false });
    let (address, content) = (control.address(), Ok(control.content()));
    let message = Message { number: 1, address, id: None, content, sent_at: Time(1) };
    script.apply(Event::Message { message: Box::new(message) }).unwrap();
    for dies in [false, true] {
        if dies {
            script.die();
            script.enter("a");
        }
        let mut attempt = Attempt::new(script.find("a"), "a".into(), 1);
        let start =
            StartRequest { name: "inner".into(), arguments: StepArguments::default(), keyed: false, awaited: false };
        let mut call = attempt.begin(&"inner".into(), Request::Start(vec![start]), Standing::default()).unwrap();
        let mut fed = Fed::Begin;
        let result = loop {
            fed = match attempt.advance(&mut call, fed, &NoTime) {
                Action::CheckLease => Fed::LeaseHeld,
                Action::Recall => attempt.recall(&call, &mut script.state),
                Action::Commit(event) => {
                    script.apply(*event).unwrap();
                    Fed::Committed { deadline: None }
                }
                Action::Done(result) => break result,
                action => panic!("{action:?}"),
            };
        };
        let failed = matches!(&result, Err(CallError::Failed(why)) if why.kind == FailureKind::Cancelled);
        assert!(failed, "{dies}: {result:?}");
    }
}

#[test]
fn the_first_child_decides_and_the_others_are_left_running() {
    let mut script = started();
    let second = Wait { key: EntryKey { n: 2, ..key("inner") }, ..start() };
    record(&mut script, second, 2);
    script.store.children.push((child(2), RunStatus::Running));
    let members = [end(1).key, end(2).key].into();
    let either = Wait { key: key("either"), operation: Operation::Any { members }, timeout: None };
    let (task, attempt) = (script.find("a"), script.attempt("a"));
    script.apply(Event::Opened { task, attempt, waits: vec![either.clone(), end(1), end(2)] }).unwrap();
    script.die();
    ends(&mut script, 2, RunStatus::Completed);
    assert_eq!(script.ready(), ["a"]);
    let state = |script: &Script, wait: &Wait| script.store.entry(0, &wait.key).unwrap().state;
    assert_eq!(state(&script, &end(1)), EntryState::Lost);
    assert_eq!(state(&script, &either), EntryState::Satisfied);
    ends(&mut script, 1, RunStatus::Completed);
    assert_eq!(state(&script, &end(1)), EntryState::Lost);
}
