//! When a run begins, and when it must have ended.

use bide_core::{
    Ask, Control, Effect, EntryKind, EntryState, Event, FailureKind, GateSpec, GateUntil, Message, RunIf, RunStatus,
    TaskSpec, TaskStatus, Time,
};

use crate::script::{Script, key, spec, wait};

const START: Time = Time(60_000_000);
/// The run is created at 1.
const DEADLINE: Time = Time(30_000_001);

fn ring(script: &mut Script) {
    for (at, event) in script.run_timers() {
        script.now = script.now.max(at);
        let _ = script.apply(event);
    }
}

#[test]
fn nothing_starts_before_its_time_and_everything_then() {
    let mut script = Script::timed(vec![spec("a", &[]), spec("b", &["a"]), spec("c", &[])], Some(START), None);
    assert_eq!(script.ready(), [] as [&str; 0]);
    // A ring that comes too early, as after a step of the clock, starts nothing.
    script.apply(Event::StartDue).unwrap();
    assert_eq!(script.ready(), [] as [&str; 0]);
    ring(&mut script);
    assert_eq!(script.ready(), ["a", "c"]);
    script.apply(Event::StartDue).unwrap();
    script.complete("a");
    assert_eq!(script.ready(), ["b"], "each once");
}

#[test]
fn a_task_that_is_skipped_before_the_run_begins_lets_nothing_start() {
    let specs = vec![spec("a", &[]), TaskSpec { run_if: RunIf::Done, ..spec("after", &["a"]) }, spec("b", &[])];
    let mut script = Script::timed(specs, Some(START), None);
    let control = Control::new(Ask::Skip { task: "a".into() });
    let (address, content) = (control.address(), Ok(control.content()));
    let message = Message { number: 1, address, id: None, content, sent_at: Time(1) };
    script.apply(Event::Message { message: Box::new(message) }).unwrap();
    assert_eq!(script.row("a").status, TaskStatus::Skipped);
    assert_eq!(script.ready(), [] as [&str; 0]);
    script.die();
    assert_eq!(script.ready(), [] as [&str; 0], "nor after a crash");
    ring(&mut script);
    assert_eq!(script.ready(), ["after", "b"]);
}

#[test]
fn a_crash_does_not_move_the_start() {
    let mut script = Script::timed(vec![spec("a", &[])], Some(START), None);
    script.die();
    assert_eq!(script.ready(), [] as [&str; 0]);
    let timers: Vec<Time> = script.run_timers().into_iter().map(|(at, _)| at).collect();
    assert!(timers.contains(&START), "{timers:?}");
    script.now = START;
    script.die();
    assert_eq!(script.ready(), ["a"], "the time came while nobody executed the run");
}

#[test]
fn at_its_deadline_a_run_fails_with_what_has_begun_and_the_rest_is_skipped() {
    let gate = GateSpec { name: "gate".into(), until: GateUntil::Condition, timeout: None };
    let specs = vec![
        spec("ended", &[]),
        spec("executes", &[]),
        spec("waits", &[]),
        TaskSpec { gate: Some(gate), ..spec("gated", &[]) },
        spec("queued", &[]),
        spec("after", &["waits"]),
        TaskSpec { run_if: RunIf::Done, ..spec("cleans", &["waits"]) },
    ];
    let mut script = Script::timed(specs, None, Some(DEADLINE));
    script.complete("ended");
    script.enter("executes");
    script.enter("waits");
    script.open("waits", wait("w", EntryKind::Condition));
    ring(&mut script);
    assert_eq!(script.status(), RunStatus::Failed);
    let failure = script.store.run.failure.clone().unwrap();
    assert_eq!(failure.kind, FailureKind::RunTimeout);
    assert!(failure.message().ends_with("of workflow 'workflow' did not end within 30 s"), "{}", failure.message());
    assert_eq!(script.row("ended").status, TaskStatus::Completed);
    for name in ["executes", "waits", "gated"] {
        assert_eq!((script.row(name).status, script.row(name).failure.as_ref()), (TaskStatus::Failed, Some(&failure)));
    }
    for name in ["queued", "after", "cleans"] {
        assert_eq!(script.row(name).status, TaskStatus::Skipped);
        assert_eq!(script.blocked_by(name), "the run did not end within 30 s");
    }
    assert_eq!(script.store.entry(2, &key("w")).unwrap().state, EntryState::Failed, "its wait has ended");
    assert!(script.end("executes", bide_core::Outcome::Suspended).is_err(), "what its bodies do is refused");
    // A store reopens the run for a retry.
    script.store.may_rewrite = true;
    (script.store.run.status, script.store.run.options.deadline) = (RunStatus::Running, None);
    let control = Control::new(Ask::Retry { from: None, fresh: false });
    let (address, content) = (control.address(), Ok(control.content()));
    script.store.send(Message { number: 1, address, id: None, content, sent_at: Time(1) }, false);
    script.die();
    assert_eq!(script.ready(), ["executes", "waits", "queued"], "what had not begun is executed too");
    assert_eq!(script.row("gated").status, TaskStatus::Pending);
}

#[test]
fn a_crash_does_not_move_the_deadline() {
    let mut script = Script::timed(vec![spec("a", &[])], None, Some(DEADLINE));
    script.enter("a");
    script.run_timers();
    script.die();
    assert_eq!(script.run_timers().first().map(|(at, _)| *at), Some(DEADLINE));
    script.now = DEADLINE;
    script.die();
    // That it had started was never recorded.
    assert_eq!((script.status(), script.row("a").status), (RunStatus::Failed, TaskStatus::Skipped));
}

#[test]
fn a_run_that_has_ended_ignores_its_deadline() {
    let mut script = Script::timed(vec![spec("a", &[])], None, Some(DEADLINE));
    script.complete("a");
    let timers = script.run_timers();
    script.now = DEADLINE;
    assert!(script.apply(timers[0].1.clone()).is_err());
    assert_eq!(script.status(), RunStatus::Completed);
}

#[test]
fn a_run_that_was_cancelled_before_its_time_goes_on_after_a_crash() {
    let tidy = TaskSpec { run_if: RunIf::Done, ..spec("tidy", &["a"]) };
    let mut script = Script::timed(vec![spec("a", &[]), tidy], Some(START), None);
    let ask = Control::new(Ask::Cancel { force: false });
    let content = Ok(ask.content());
    let message = Message { number: 1, address: ask.address(), id: None, content, sent_at: Time(1) };
    script.apply(Event::Message { message: Box::new(message) }).unwrap();
    assert_eq!(script.ready(), ["tidy"]);
    script.enter("tidy");
    script.open("tidy", wait("w", EntryKind::Condition));
    script.die();
    assert_eq!(script.ready(), ["tidy"], "long before the time at which the run was to begin");
}

#[test]
fn a_cancelled_run_whose_deadline_passes_while_nobody_executes_it_is_cancelled() {
    let mut script = Script::timed(vec![spec("a", &[])], None, Some(DEADLINE));
    script.enter("a");
    script.open("a", wait("w", EntryKind::Condition));
    let ask = Control::new(Ask::Cancel { force: false });
    let content = Ok(ask.content());
    let message = Message { number: 1, address: ask.address(), id: None, content, sent_at: Time(1) };
    script.apply(Event::Message { message: Box::new(message) }).unwrap();
    script.now = DEADLINE;
    script.die();
    assert_eq!(script.status(), RunStatus::Cancelled);
}

#[test]
fn a_body_that_awaits_something_else_is_interrupted_at_the_deadline() {
    let mut script = Script::timed(vec![spec("a", &[])], None, Some(DEADLINE));
    script.enter("a");
    for (at, event) in script.run_timers() {
        script.now = script.now.max(at);
        let _ = script.apply(event);
    }
    assert!(script.effects.iter().any(|effect| matches!(effect, Effect::Interrupted { .. })), "{:?}", script.effects);
}
