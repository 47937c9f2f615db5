//! A run that kills its process is detected, and no other run is suspected.

use bide_core::event::Timer;
use bide_core::record::Mark;
use bide_core::{
    BlockReason, Effect, EntryKind, Event, GateSpec, GateUntil, Operation, Outcome, Refused, RetryPolicy, RunStatus,
    TaskIx, TaskRef, TaskSpec, Value,
};

use crate::script::{RETRY, Script, key, seconds, spec, wait};

/// Enters the body and dies, this many times.
fn die_in(script: &mut Script, name: &str, times: u32) {
    for life in 0..times {
        assert_eq!(script.status(), RunStatus::Running, "paused in life {life}");
        assert!(script.enter(name).mark, "not marked in life {life}");
        script.die();
    }
}

fn assert_paused(script: &mut Script, name: &str) {
    assert_eq!(script.status(), RunStatus::Paused);
    let why = script.store.run.blocked_by.clone().unwrap().to_string();
    assert!(why.contains("died 5 times in a row") && why.contains(&format!("executed '{name}'; ")), "{why}");
    assert!(script.ready().is_empty());
    assert!(script.store.rows.values().all(|row| row.mark.times == 0), "a pause is no crash");
}

#[test]
fn a_run_found_five_times_in_a_row_with_a_mark_is_paused() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
    assert!(!script.enter("a").mark, "only a recovered run's bodies are marked");
    script.die();
    for found in 1..=5 {
        assert_eq!(script.status(), RunStatus::Running);
        assert_eq!(script.ready(), ["a", "b"]);
        assert!(script.enter("a").mark);
        assert!(script.row("a").mark.times > 0);
        script.die();
        assert_eq!(script.store.run.crashes, found % 5);
    }
    assert_paused(&mut script, "a");
}

#[test]
fn of_several_marked_bodies_none_is_blamed() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
    script.die();
    for times in 1..20 {
        script.enter("a");
        script.enter("b");
        assert_eq!(script.row("b").mark, Mark { times, executes: true });
        script.die();
        assert_eq!((script.status(), script.store.run.crashes), (RunStatus::Running, 0));
        assert_eq!(script.row("b").mark, Mark { times, executes: false });
    }
    die_in(&mut script, "a", 5);
    assert_paused(&mut script, "a");
}

#[test]
fn a_suspect_is_cleared_once_by_its_own_actions() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
    let cleared = |script: &mut Script| -> Vec<TaskIx> {
        let cleared = |effect: &Effect| match effect {
            Effect::Cleared { task } => Some(task.ix),
            _ => None,
        };
        let found = script.effects.iter().filter_map(cleared).collect();
        script.effects.retain(|effect| cleared(effect).is_none());
        found
    };
    for end in 0..4 {
        script.die();
        assert_eq!([0, 1].map(|ix| script.state.suspicion(TaskRef::plain(ix))), [Some(0), Some(0)]);
        script.enter("a");
        script.enter("b");
        assert_eq!(script.state.suspicion(TaskRef::plain(0)), None, "it has been entered");
        assert!(cleared(&mut script).is_empty());
        match end {
            0 => script.open("a", wait("file", EntryKind::Condition)),
            1 => script.record("a", wait("step", EntryKind::Step), Ok(Value::NONE)),
            2 => script.end("a", Outcome::Suspended).unwrap(),
            _ => script.end("a", Outcome::Completed { output: Value::NONE, changes: None }).unwrap(),
        }
        assert_eq!(cleared(&mut script), [0], "case {end}");
        script.end("b", Outcome::Suspended).unwrap();
    }
}

#[test]
fn the_next_process_knows_how_often_a_suspect_was_entered() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.die();
    for times in 0..3 {
        assert_eq!(script.state.suspicion(TaskRef::plain(0)), Some(times));
        script.enter("a");
        // Its start is reported once more when it has executed for a while.
        script.apply(Event::Started { task: TaskRef::plain(0), attempt: 1 }).unwrap();
        script.die();
    }
}

#[test]
fn a_body_that_only_queued_for_a_slot_is_not_marked() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
    script.enter("a");
    script.enter("b");
    script.die();
    script.enter("a");
    assert!(script.row("a").mark.times > 0 && !script.store.rows.contains_key(&(101, -1)));
}

#[test]
fn a_pause_resets_the_count() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.die();
    die_in(&mut script, "a", 5);
    assert_paused(&mut script, "a");
    script.store.run.status = RunStatus::Running;
    script.die();
    assert_eq!(script.store.run.blocked_by, None);
    die_in(&mut script, "a", 5);
    assert_paused(&mut script, "a");
}

#[test]
fn a_run_that_merely_waits_is_never_counted() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", wait("file", EntryKind::Condition));
    for _ in 0..20 {
        script.die();
        assert_eq!((script.status(), script.store.run.crashes), (RunStatus::Running, 0));
        script.enter("a");
        assert!(script.row("a").mark.times > 0);
        script.open("a", wait("file", EntryKind::Condition));
        assert!(script.row("a").mark.times == 0, "it deferred");
    }
}

#[test]
fn a_wait_that_is_opened_again_does_not_hide_the_neighbour_that_kills() {
    let mut script = Script::new(vec![spec("waits", &[]), spec("kills", &[])]);
    script.enter("waits");
    script.open("waits", wait("file", EntryKind::Condition));
    script.die();
    for _ in 0..5 {
        script.enter("waits");
        script.open("waits", wait("file", EntryKind::Condition));
        script.enter("kills");
        script.die();
    }
    assert_paused(&mut script, "kills");
}

#[test]
fn a_new_record_resets_the_count() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
    script.die();
    die_in(&mut script, "a", 4);
    assert_eq!(script.store.run.crashes, 4);
    script.enter("a");
    script.enter("b");
    script.record("b", wait("load", EntryKind::Step), Ok(Value::NONE));
    assert_eq!(script.store.run.crashes, 0);
    assert!(
        script.row("a").mark.times == 0 && script.row("b").mark.times == 0,
        "the run makes progress: no mark remains"
    );
    script.die();
    assert_eq!(script.store.run.crashes, 0);
    die_in(&mut script, "a", 5);
    assert_paused(&mut script, "a");
}

#[test]
fn to_record_again_what_cannot_be_compared_is_no_new_record() {
    let mut script = Script::new(vec![spec("a", &[])]);
    let mut asked = wait("lambda", EntryKind::Condition);
    asked.operation = Operation::Condition { proof: None };
    script.enter("a");
    script.record("a", asked.clone(), Ok(Value::NONE));
    script.die();
    for _ in 0..5 {
        script.enter("a");
        script.record("a", asked.clone(), Ok(Value::NONE));
        script.die();
    }
    assert_paused(&mut script, "a");
}

#[test]
fn a_process_that_never_entered_the_body_neither_counts_nor_excuses_it() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.die();
    die_in(&mut script, "a", 4);
    for _ in 0..20 {
        script.die();
    }
    assert_eq!((script.status(), script.store.run.crashes), (RunStatus::Running, 4));
    die_in(&mut script, "a", 1);
    assert_paused(&mut script, "a");
}

#[test]
fn five_times_in_a_row_means_in_a_row() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", wait("file", EntryKind::Condition));
    script.die();
    die_in(&mut script, "a", 4);
    script.enter("a");
    script.open("a", wait("file", EntryKind::Condition));
    script.die();
    die_in(&mut script, "a", 5);
    assert_paused(&mut script, "a");
}

#[test]
fn a_second_attempt_that_kills_is_detected() {
    let retry = RetryPolicy::new(2);
    let mut script = Script::new(vec![TaskSpec { retry, ..spec("a", &[]) }]);
    script.enter("a");
    script.fail("a", RETRY);
    script.due("a", Timer::Retry).unwrap();
    assert!(!script.enter("a").mark);
    script.die();
    script.due("a", Timer::Retry).unwrap();
    assert_eq!(script.enter("a").attempt, 2);
    script.die();
    die_in(&mut script, "a", 4);
    assert_paused(&mut script, "a");
    assert_eq!(script.attempt("a"), 2);
}

#[test]
fn a_body_behind_a_satisfied_gate_that_kills_is_detected() {
    let gate = GateSpec { name: "file".into(), until: GateUntil::Condition, timeout: Some(seconds(60)) };
    let mut script = Script::new(vec![TaskSpec { gate: Some(gate.clone()), ..spec("a", &[]) }]);
    script.close("a", gate.key(), Ok(Value::NONE)).unwrap();
    assert_eq!(script.ready(), ["a"]);
    script.enter("a");
    script.die();
    die_in(&mut script, "a", 5);
    assert_paused(&mut script, "a");
}

#[test]
fn an_orderly_close_takes_the_mark_away() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.die();
    for _ in 0..20 {
        script.enter("a");
        assert!(script.row("a").mark.times > 0);
        script.end("a", Outcome::Suspended).unwrap();
        assert!(script.row("a").mark.times == 0);
        script.die();
    }
    assert_eq!(script.status(), RunStatus::Running);
}

#[test]
fn an_orderly_close_is_no_crash_of_a_marked_queued_body() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
    script.die();
    script.enter("a");
    die_in(&mut script, "b", 1);
    for _ in 0..20 {
        script.enter("a");
        script.end("a", Outcome::Suspended).unwrap();
        assert!(script.row("b").mark.times > 0, "of b nothing new is known");
        script.die();
    }
    assert_eq!(script.status(), RunStatus::Running);
}

#[test]
fn a_paused_run_refuses_everything_and_resumes_where_it_was() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[]), spec("c", &[])]);
    script.die();
    script.enter("a");
    script.enter("b");
    script.record("a", wait("load", EntryKind::Step), Ok(Value::NONE));
    let reason = BlockReason::Mismatch { what: "step 'load' has other arguments".into() };
    script.apply(Event::Block { reason: reason.clone() }).unwrap();
    assert_eq!(script.store.run.blocked_by, Some(reason));
    let done = Outcome::Completed { output: Value::NONE, changes: None };
    for name in ["a", "b"] {
        assert_eq!(script.end(name, done.clone()), Err(Refused::RunOver));
    }
    assert_eq!(script.close("a", key("load"), Ok(Value::NONE)), Err(Refused::RunOver));
    assert_eq!(script.state.enter(TaskRef::plain(2), script.now), None);
    script.store.run.status = RunStatus::Running;
    script.die();
    assert_eq!(script.ready(), ["a", "b", "c"]);
    assert_eq!(script.journal("a"), ["load"]);
}
