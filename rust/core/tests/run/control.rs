//! Cancel, pause and resume, and an operator's hand on single tasks.

use bide_core::attempt::{Attempt, Fed, Request, Standing};
use bide_core::event::Wait;
use bide_core::{
    Ask, Control, Effect, EntryKind, Event, Failure, FailureKind, Message, Operation, Outcome, Recall, Refused, RunIf,
    RunStatus, SubStatus, TaskRef, TaskSpec, TaskStatus, Time, Value, Write,
};

use crate::script::{Script, key, seconds, spec, wait};

fn request(n: i64, ask: Ask) -> Message {
    let control = Control { ask, by: Some("ana".into()), reason: Some("too late".into()) };
    Message { number: n, address: control.address(), id: None, content: Ok(control.content()), sent_at: Time(1) }
}

fn ask(script: &mut Script, ask: Ask) {
    let message = Box::new(request(script.now.0, ask));
    script.apply(Event::Message { message }).unwrap();
}

fn cancel(script: &mut Script) {
    ask(script, Ask::Cancel { force: false });
}

fn completed() -> Outcome {
    Outcome::Completed { output: Value::NONE, changes: None }
}

fn done(name: &str, on: &[&str]) -> TaskSpec {
    TaskSpec { run_if: RunIf::Done, ..spec(name, on) }
}

fn cancellation(recall: &Recall) -> Failure {
    match recall {
        Recall::Failed(failure) if failure.kind == FailureKind::Cancelled => failure.clone(),
        other => panic!("{other:?}"),
    }
}

fn condition() -> Wait {
    wait("arrived", EntryKind::Condition)
}

fn child() -> bide_core::RunId {
    bide_core::RunId::new(2, 0, 9)
}

/// What a body gets that calls for a step with these arguments.
fn calls(script: &mut Script, attempt: &mut Attempt, arguments: &[u8]) -> Fed {
    let call = attempt.begin(&"step".into(), Request::step(Some(arguments.into())), Standing::default()).unwrap();
    let fed = attempt.recall(&call, &mut script.state);
    attempt.abandon(&call);
    fed
}

#[test]
fn a_record_stays_when_a_body_gets_its_cancellation_in_the_place_of_it() {
    let (mut script, task) = (Script::new(vec![spec("a", &[])]), TaskRef::plain(0));
    script.ready();
    script.enter("a");
    script.record(
        "a",
        Wait { operation: Operation::step(Some(b"one"[..].into())), ..wait("step", EntryKind::Step) },
        Ok(Value::NONE),
    );
    script.die();
    script.enter("a");
    cancel(&mut script);
    let mut attempt = Attempt::new(task, "a".into(), 1);
    let fed = calls(&mut script, &mut attempt, b"other");
    assert!(matches!(fed, Fed::Refused(Refused::Cancelled)), "{fed:?}");
    let fed = calls(&mut script, &mut attempt, b"one");
    assert!(matches!(fed, Fed::Recalled(_, Recall::Satisfied(_))), "{fed:?}");
    let fed = calls(&mut script, &mut attempt, b"clean up");
    assert!(matches!(fed, Fed::Recalled(_, Recall::Ask { .. })), "it is told once: {fed:?}");
}

#[test]
fn cancel_ends_what_has_not_begun_and_starts_what_runs_whatever_happens() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &["a"]), done("tidy", &["b"]), spec("c", &["tidy"])]);
    script.ready();
    cancel(&mut script);
    assert_eq!(script.ready(), ["tidy"]);
    assert_eq!(script.status(), RunStatus::Running, "it is cleaning up");
    script.complete("tidy");
    for name in ["a", "b", "c"] {
        assert_eq!(script.row(name).status, TaskStatus::Cancelled, "{name}");
        assert_eq!(script.blocked_by(name), "cancelled by ana: too late");
    }
    assert_eq!(script.status(), RunStatus::Cancelled);
    assert_eq!(script.row("tidy").status, TaskStatus::Completed);
}

#[test]
fn a_deferred_body_gets_it_as_the_end_of_its_wait_and_again_there_after_a_crash() {
    for crash in [false, true] {
        let mut script = Script::new(vec![spec("a", &[])]);
        script.enter("a");
        script.open("a", condition());
        cancel(&mut script);
        assert!(script.woken("a"));
        if crash {
            script.die();
            assert_eq!(script.ready(), ["a"]);
            script.enter("a");
        }
        cancellation(&script.recall("a", &condition()));
        // From then on the handle works.
        script.record("a", wait("undo", EntryKind::Step), Ok(Value::NONE));
        let failure = Failure::new(FailureKind::Cancelled, "bide.Cancelled", "");
        script.end("a", Outcome::Cancelled { failure }).unwrap();
        assert_eq!((script.row("a").status, script.status()), (TaskStatus::Cancelled, RunStatus::Cancelled), "{crash}");
    }
}

#[test]
fn a_body_out_of_memory_is_entered_again_to_get_it() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    let far = Wait { operation: Operation::Time { due: Time(i64::MAX / 2) }, ..wait("night", EntryKind::Time) };
    script.open("a", far.clone());
    script.die();
    assert!(script.ready().is_empty());
    cancel(&mut script);
    assert_eq!(script.ready(), ["a"]);
    assert!(script.enter("a").reentry);
    cancellation(&script.recall("a", &far));
}

#[test]
fn a_run_that_nobody_executed_is_cancelled_when_it_begins() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &["a"])]);
    script.enter("a");
    script.open("a", condition());
    script.store.send(request(1, Ask::Cancel { force: false }), false);
    script.die();
    assert!(script.store.messages[0].consumed, "it stays");
    script.die();
    assert_eq!(script.ready(), ["a"]);
    script.enter("a");
    script.end("a", completed()).unwrap();
    assert_eq!((script.row("b").status, script.status()), (TaskStatus::Cancelled, RunStatus::Cancelled));
}

#[test]
fn a_task_that_runs_whatever_happens_is_not_interrupted_after_the_cancellation() {
    let mut script = Script::new(vec![spec("a", &[]), done("tidy", &["a"])]);
    cancel(&mut script);
    script.enter("tidy");
    script.open("tidy", condition());
    script.die();
    script.enter("tidy");
    assert!(matches!(script.recall("tidy", &condition()), Recall::Ask { .. }));
    script.end("tidy", completed()).unwrap();
    assert_eq!(script.status(), RunStatus::Cancelled);
}

#[test]
fn a_body_that_cleans_up_for_too_long_is_fenced() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    cancel(&mut script);
    let grace = |script: &mut Script| {
        script.apply(Event::GraceOver { task: script.find("a"), attempt: 1, grace: seconds(60), limit: seconds(3600) })
    };
    let asked = |effect: &Effect| matches!(effect, Effect::Grace { used, .. } if used.is_zero());
    assert_eq!(script.effects.iter().filter(|effect| asked(effect)).count(), 1);
    grace(&mut script).unwrap();
    assert_eq!(script.state.task_status(script.find("a")), TaskStatus::Running, "it has time");
    // Time in waits does not count.
    let got = Failure::new(FailureKind::Cancelled, "bide.Cancelled", "");
    script.record("a", wait("got it", EntryKind::Step), Err(got));
    script.open("a", condition());
    script.now = script.now.after(seconds(100));
    script.close("a", key("arrived"), Ok(Value::NONE)).unwrap();
    grace(&mut script).unwrap();
    assert_eq!(script.row("a").status, TaskStatus::Running);
    script.now = script.now.after(seconds(60));
    grace(&mut script).unwrap();
    assert_eq!(script.status(), RunStatus::Cancelled);
    assert!(script.end("a", completed()).is_err());
}

#[test]
fn a_body_that_has_left_its_wait_executes() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", condition());
    let task = script.find("a");
    let is_interrupted = |script: &Script| {
        script.effects.iter().any(|effect| matches!(effect, Effect::Interrupted { task: of } if *of == task))
    };
    script.state.leaves_call(task, 1);
    cancel(&mut script);
    assert!(is_interrupted(&script), "{:?}", script.effects);
    assert!(script.state.take_interrupt(task, 1));
    assert!(!script.state.take_interrupt(task, 1), "once");
    script.now = script.now.after(seconds(60));
    script.effects.clear();
    script.apply(Event::GraceOver { task, attempt: 1, grace: seconds(60), limit: seconds(3600) }).unwrap();
    assert_eq!(script.status(), RunStatus::Cancelled, "what it has left is no wait that does not count");
    assert!(is_interrupted(&script), "{:?}", script.effects);
    assert!(script.state.is_fenced(task, 1));
}

#[test]
fn force_ends_the_run_at_once() {
    let mut script = Script::new(vec![spec("a", &[]), done("tidy", &["a"])]);
    script.enter("a");
    script.open("a", condition());
    ask(&mut script, Ask::Cancel { force: true });
    assert_eq!(script.status(), RunStatus::Cancelled);
    assert_eq!(script.row("tidy").status, TaskStatus::Cancelled);
}

#[test]
fn a_cancelled_run_cancels_its_children_in_the_same_commit() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    let starts =
        vec![bide_core::event::ChildStart { run: child(), ..bide_core::event::ChildStart::new(key("child"), None) }];
    let task = script.find("a");
    script.apply(Event::ChildrenStarted { task, attempt: 1, starts }).unwrap();
    cancel(&mut script);
    let [(run, message)] = &script.store.posted[..] else { panic!("{:?}", script.store.posted) };
    assert_eq!((*run, &*message.address.name), (child().row(), "cancel"));
}

#[test]
fn a_held_run_starts_nothing_and_continues_with_all_that_came_meanwhile() {
    for crash in [false, true] {
        let mut script = Script::new(vec![spec("a", &[]), spec("b", &["a"])]);
        script.enter("a");
        ask(&mut script, Ask::Pause);
        assert_eq!((script.status(), script.state.status()), (RunStatus::Paused, RunStatus::Paused));
        script.ready();
        script.end("a", completed()).unwrap();
        assert!(script.ready().is_empty(), "an executing body ends, and nothing follows");
        if crash {
            script.die();
            assert_eq!((script.status(), script.ready().len()), (RunStatus::Paused, 0));
        }
        let b = script.find("b");
        assert!(script.state.enter(b, script.now).is_none());
        ask(&mut script, Ask::Resume);
        assert_eq!((script.status(), script.ready()), (RunStatus::Running, vec!["b".to_owned()]), "{crash}");
        script.complete("b");
        assert_eq!(script.status(), RunStatus::Completed);
    }
}

#[test]
fn a_body_that_is_suspended_while_its_run_is_held_continues_after_that() {
    for resumed_first in [false, true] {
        let mut script = Script::new(vec![spec("a", &[])]);
        script.enter("a");
        script.open("a", condition());
        ask(&mut script, Ask::Pause);
        script.ready();
        script.close("a", key("arrived"), Ok(Value::NONE)).unwrap();
        assert!(script.state.is_held(), "its driver sees that, and suspends it");
        if resumed_first {
            ask(&mut script, Ask::Resume);
        }
        script.end("a", Outcome::Suspended).unwrap();
        if !resumed_first {
            assert!(script.ready().is_empty());
            ask(&mut script, Ask::Resume);
        }
        assert_eq!(script.ready(), ["a"]);
        assert!(script.enter("a").reentry);
        assert_eq!(script.recall("a", &condition()), Recall::Satisfied(Value::NONE));
    }
}

#[test]
fn cancel_ends_a_pause() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
    script.enter("a");
    ask(&mut script, Ask::Pause);
    cancel(&mut script);
    assert_eq!((script.status(), script.row("b").status), (RunStatus::Running, TaskStatus::Cancelled));
    script.end("a", completed()).unwrap();
    assert_eq!(script.status(), RunStatus::Cancelled);
}

#[test]
fn a_retry_continues_from_what_has_failed_and_all_that_depends_on_it() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &["a"]), spec("c", &["b"]), done("tidy", &["c"])]);
    script.complete("a");
    script.enter("b");
    script.record("b", wait("paid", EntryKind::Step), Ok(Value::NONE));
    script.fail("b", None);
    script.complete("tidy");
    assert_eq!(script.status(), RunStatus::Failed);
    script.store.may_rewrite = true;
    script.store.run.status = RunStatus::Running;
    script.store.send(request(1, Ask::Retry { from: None, fresh: false }), false);
    script.die();
    assert_eq!(script.ready(), ["b"]);
    assert_eq!(script.enter("b").attempt, 2);
    assert_eq!(script.recall("b", &wait("paid", EntryKind::Step)), Recall::Satisfied(Value::NONE));
    script.end("b", completed()).unwrap();
    script.complete("c");
    script.complete("tidy");
    assert_eq!((script.status(), script.row("a").attempts), (RunStatus::Completed, 1));
}

#[test]
fn a_retry_by_a_newer_version_does_not_end_the_run_again_before_it_continues() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.fail("a", None);
    script.store.may_rewrite = true;
    script.store.run.status = RunStatus::Running;
    script.store.send(request(1, Ask::Retry { from: None, fresh: false }), false);
    script.die_for_version(vec![spec("a", &[]), spec("b", &["a"])]);
    assert!(!script.effects.iter().any(|effect| matches!(effect, Effect::Settled { .. })), "{:?}", script.effects);
    assert_eq!(script.ready(), ["a"]);
    script.complete("a");
    script.complete("b");
    assert_eq!(script.status(), RunStatus::Completed);
}

#[test]
fn what_is_asked_of_a_run_that_ends_as_it_begins_changes_nothing() {
    let only_after_failures = TaskSpec { run_if: RunIf::Failed, ..spec("a", &[]) };
    let mut script = Script::timed(vec![only_after_failures], Some(Time(60_000_000)), None);
    script.store.send(request(1, Ask::Pause), false);
    script.now = Time(60_000_000);
    script.die();
    assert_eq!((script.status(), script.store.run.blocked_by.clone()), (RunStatus::Completed, None));
    let writes = script.batch.iter().filter(|write| matches!(write, Write::Run(_)));
    assert_eq!(writes.count(), 1, "{:?}", script.batch);
}

#[test]
fn what_was_asked_too_late_for_a_run_changes_nothing_when_it_is_retried() {
    for late in [Ask::Pause, Ask::Cancel { force: false }, Ask::Skip { task: "b".into() }] {
        let mut script = Script::new(vec![spec("a", &[]), spec("b", &["a"])]);
        script.enter("a");
        script.fail("a", None);
        script.store.may_rewrite = true;
        script.store.run.status = RunStatus::Running;
        script.store.send(request(1, late), false);
        script.store.send(request(2, Ask::Retry { from: None, fresh: false }), false);
        script.die_for_version(vec![spec("a", &[]), spec("b", &["a"]), spec("c", &[])]);
        assert_eq!(script.ready(), ["c", "a"]);
        ["a", "b", "c"].into_iter().for_each(|name| script.complete(name));
        assert_eq!(script.status(), RunStatus::Completed);
        assert!(script.store.messages.iter().all(|stored| stored.consumed), "acted on");
    }
}

#[test]
fn a_retry_of_a_cancelled_run_forgets_the_clean_up() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.record("a", wait("paid", EntryKind::Step), Ok(Value::NONE));
    script.open("a", condition());
    cancel(&mut script);
    script.record("a", wait("undo", EntryKind::Step), Ok(Value::NONE));
    let failure = Failure::new(FailureKind::Cancelled, "bide.Cancelled", "");
    script.end("a", Outcome::Cancelled { failure }).unwrap();
    script.store.may_rewrite = true;
    script.store.run.status = RunStatus::Running;
    script.store.send(request(1, Ask::Retry { from: None, fresh: false }), false);
    script.die();
    assert_eq!(script.journal("a"), ["paid"]);
    assert_eq!((script.ready(), script.status()), (vec!["a".to_owned()], RunStatus::Running));
    assert!(script.store.run.cancel.is_none());
    script.complete("a");
    assert_eq!(script.status(), RunStatus::Completed);
}

#[test]
fn a_retry_keeps_what_a_task_has_recorded_that_began_after_the_cancellation() {
    let mut script = Script::new(vec![spec("a", &[]), done("tidy", &["a"])]);
    cancel(&mut script);
    script.enter("tidy");
    script.record("tidy", wait("moved", EntryKind::Step), Ok(Value::NONE));
    script.fail("tidy", None);
    assert_eq!(script.status(), RunStatus::Cancelled);
    retry_of_ended(&mut script);
    assert_eq!(script.journal("tidy"), ["moved"]);
}

#[test]
fn a_retry_keeps_what_was_recorded_before_a_cancellation_that_an_earlier_time_is_given() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.store.may_rewrite = true;
    assert_eq!(checkpoint(&mut script), Ok(()));
    script.record("a", wait("paid", EntryKind::Step), Ok(Value::NONE));
    script.die();
    script.now = Time(script.now.0 - 50_000_000);
    cancel(&mut script);
    assert_eq!(script.status(), RunStatus::Cancelled, "a body that has left no row has not begun");
    retry_of_ended(&mut script);
    assert_eq!(script.journal("a"), ["checkpoint", "paid"]);
}

/// The run has ended, and is retried by the next process.
fn retry_of_ended(script: &mut Script) {
    script.store.may_rewrite = true;
    script.store.run.status = RunStatus::Running;
    script.store.send(request(1, Ask::Retry { from: None, fresh: false }), false);
    script.die();
}

/// A script in which the run of a body was cancelled that got that at its checkpoint, and whose process died in a wait of
/// the clean-up.
fn died_cleaning_up() -> Script {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.record("a", wait("paid", EntryKind::Step), Ok(Value::NONE));
    cancel(&mut script);
    assert_eq!(checkpoint(&mut script), Err(Refused::Cancelled));
    script.record("a", wait("undo", EntryKind::Step), Ok(Value::NONE));
    script.open("a", condition());
    script.store.may_rewrite = true;
    script.die();
    script
}

fn checkpoint(script: &mut Script) -> Result<(), Refused> {
    let (task, attempt) = (script.find("a"), script.attempt("a"));
    script.apply(Event::Checkpoint { task, attempt, state: Value::NONE })
}

#[test]
fn a_body_that_got_its_cancellation_at_a_checkpoint_gets_it_there_again() {
    let mut script = died_cleaning_up();
    assert_eq!(script.journal("a"), ["paid", "undo", "arrived"]);
    script.enter("a");
    assert!(matches!(script.recall("a", &wait("paid", EntryKind::Step)), Recall::Satisfied(_)));
    assert_eq!(checkpoint(&mut script), Err(Refused::Cancelled));
    assert!(matches!(script.recall("a", &wait("undo", EntryKind::Step)), Recall::Satisfied(_)));
    let pause = script.recall("a", &condition());
    assert!(matches!(pause, Recall::Ask { .. }), "the wait of the clean-up is not interrupted: {pause:?}");
    assert_eq!(checkpoint(&mut script), Ok(()), "it is told once");
}

#[test]
fn a_retry_forgets_the_clean_up_of_a_body_that_was_cancelled_at_a_checkpoint() {
    let mut script = died_cleaning_up();
    script.enter("a");
    assert_eq!(checkpoint(&mut script), Err(Refused::Cancelled));
    let failure = Failure::new(FailureKind::Cancelled, "bide.Cancelled", "");
    script.end("a", Outcome::Cancelled { failure }).unwrap();
    script.store.run.status = RunStatus::Running;
    script.store.send(request(1, Ask::Retry { from: None, fresh: false }), false);
    script.die();
    assert_eq!(script.journal("a"), ["paid"]);
}

#[test]
fn what_a_task_waits_for_can_be_satisfied_and_given_more_time() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
    script.store.may_rewrite = true;
    script.enter("a");
    script.open("a", Wait { timeout: Some(seconds(10)), ..condition() });
    let before = script.state.deadline(script.find("a"), &key("arrived")).unwrap();
    ask(&mut script, Ask::Extend { task: "a".into(), span: seconds(5) });
    assert_eq!(script.state.deadline(script.find("a"), &key("arrived")), Some(before.after(seconds(5))));
    assert!(script.woken("a"));
    ask(&mut script, Ask::Satisfy { task: "a".into(), value: Value::tagged(b't', b"") });
    assert!(script.woken("a"));
    assert_eq!(script.recall("a", &condition()), Recall::Satisfied(Value::tagged(b't', b"")));
    assert_eq!(script.row("a").sub_status, Some(SubStatus::Active));
    ask(&mut script, Ask::Skip { task: "b".into() });
    assert_eq!(
        (script.row("b").status, script.blocked_by("b")),
        (TaskStatus::Skipped, "skipped on request by ana: too late")
    );
    script.end("a", completed()).unwrap();
    assert_eq!(script.status(), RunStatus::Completed);
}

#[test]
fn a_clock_that_is_set_back_does_not_put_a_body_before_the_cancellation_of_its_run() {
    let mut script = Script::new(vec![spec("a", &[]), done("tidy", &["a"])]);
    script.ready();
    script.now = script.now.after(seconds(100));
    cancel(&mut script);
    script.now = Time(script.now.0 - 50_000_000);
    script.enter("tidy");
    script.open("tidy", condition());
    script.die();
    assert_eq!(script.ready(), ["tidy"]);
    script.enter("tidy");
    script.close("tidy", condition().key, Ok(Value::NONE)).unwrap();
    script.end("tidy", completed()).unwrap();
    assert_eq!(script.row("tidy").status, TaskStatus::Completed, "it began after that, so nothing interrupts it");
}

#[test]
fn a_second_retry_that_comes_while_the_first_is_executed_changes_nothing() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
    script.enter("a");
    script.fail("a", None);
    script.complete("b");
    script.store.may_rewrite = true;
    script.store.run.status = RunStatus::Running;
    script.store.send(request(1, Ask::Retry { from: None, fresh: false }), false);
    script.die();
    assert_eq!(script.ready(), ["a"]);
    script.enter("a");
    ask(&mut script, Ask::Retry { from: Some("b".into()), fresh: false });
    assert_eq!((script.ready(), script.row("b").status), (Vec::new(), TaskStatus::Completed));
    script.end("a", completed()).unwrap();
    assert_eq!(script.status(), RunStatus::Completed);
}

#[test]
fn a_retry_from_one_task_does_what_was_cancelled_too() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[]), spec("c", &["b"])]);
    script.complete("a");
    cancel(&mut script);
    assert_eq!((script.status(), script.row("b").status), (RunStatus::Cancelled, TaskStatus::Cancelled));
    script.store.may_rewrite = true;
    script.store.run.status = RunStatus::Running;
    script.store.send(request(1, Ask::Retry { from: Some("a".into()), fresh: false }), false);
    script.die();
    assert_eq!(script.ready(), ["a", "b"], "the run is not cancelled any more");
}
