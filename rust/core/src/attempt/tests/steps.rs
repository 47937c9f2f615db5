//! Steps that are begun before they end, tried again, and side by side; checkpoints.

use super::*;
use crate::entry::StepMode;

const COMMITTED: Fed = Fed::Committed { deadline: None };

fn policy(attempts: u32, delay_ms: u64) -> RetryPolicy {
    let delay = Duration::from_millis(delay_ms);
    RetryPolicy { delay, max_delay: Duration::from_secs(9), jitter: 0.0, ..RetryPolicy::new(attempts) }
}

fn step(options: StepOptions) -> Request {
    Request::Step { arguments: StepArguments { advice: "Use key=", ..StepArguments::default() }, options }
}

fn once() -> Request {
    step(StepOptions { once: true, ..StepOptions::PLAIN })
}

fn retried(attempts: u32, delay_ms: u64) -> Request {
    step(StepOptions { retry: Some(policy(attempts, delay_ms)), ..StepOptions::PLAIN })
}

fn keyed() -> Request {
    step(StepOptions { keyed: true, ..StepOptions::PLAIN })
}

fn raised() -> Fed {
    Fed::Raised(boom(), Retry { random: 0.5 })
}

fn at_zero(fed: Vec<Fed>) -> Vec<(i64, Fed)> {
    fed.into_iter().map(|fed| (0, fed)).collect()
}

fn by(caller: Caller) -> Standing {
    Standing { caller, ..Standing::default() }
}

#[test]
fn that_a_step_begins_is_committed_before_it_is_executed_once() {
    let fed = and(unknown(), at_zero(vec![COMMITTED, Fed::Executed(Ok(value())), COMMITTED]));
    plays(once(), fed, &LOOKED, &["Commit Intended", "Execute", "Commit Recorded", "Done shere"]);
    let fed = and(unknown(), at_zero(vec![COMMITTED, Fed::Executed(Err(boom())), COMMITTED]));
    plays(once(), fed, &LOOKED, &["Commit Intended", "Execute", "Commit Recorded failure", "Failed OSError"]);
}

#[test]
fn a_step_that_was_begun_once_is_not_executed_again_and_that_is_recorded() {
    for mode in [StepMode::Once, StepMode::Retried { tries: 1 }, StepMode::Repeatable] {
        let fed = and(look(Recall::Begun { mode, due: None }), at_zero(vec![COMMITTED]));
        plays(once(), fed, &LOOKED, &["Commit Recorded failure", "Failed bide.StepInterrupted"]);
    }
    // Without `once` it may be executed again.
    let fed = and(look(Recall::Begun { mode: StepMode::Once, due: None }), at_zero(vec![Fed::Executed(Ok(value()))]));
    plays(step(StepOptions::PLAIN), fed, &LOOKED, &["Execute", "Commit Recorded"]);
}

#[test]
fn a_step_that_fails_is_tried_again_after_its_delay_without_a_slot() {
    let more = vec![
        (0, raised()),
        (1, COMMITTED),
        (2, Fed::Released),
        (99, Fed::Woken),
        (100, Fed::Woken),
        (101, Fed::Acquired { commit: Ok(()), slot: true }),
        (101, Fed::LeaseHeld),
        (102, Fed::Executed(Ok(value()))),
        (103, COMMITTED),
    ];
    let delayed =
        ["Commit Delayed", "Release", "Until 100", "Until 100", "CommitAndAcquire Resumed", "CheckLease", "Execute"];
    let then = [&["Execute"], &delayed[..], &["Commit Recorded", "Done shere"]].concat();
    plays(retried(3, 100), and(unknown(), more), &LOOKED, &then);
}

#[test]
fn tries_are_counted_over_entries_and_the_last_failure_is_recorded() {
    let begun = |tries| Recall::Begun { mode: StepMode::Retried { tries }, due: None };
    let fed = |tries| and(look(begun(tries)), at_zero(vec![raised(), COMMITTED]));
    plays(retried(3, 0), fed(1), &LOOKED, &["Execute", "Commit Delayed with its slot", "CheckLease"]);
    plays(retried(3, 0), fed(2), &LOOKED, &["Execute", "Commit Recorded failure", "Failed OSError"]);
    // Not covered by the policy.
    let fed = and(look(begun(1)), at_zero(vec![Fed::Executed(Err(boom())), COMMITTED]));
    plays(retried(3, 0), fed, &LOOKED, &["Execute", "Commit Recorded failure", "Failed OSError"]);
}

#[test]
fn a_recorded_delay_stands_and_one_that_is_over_is_not_slept() {
    let begun = |ms| look(Recall::Begun { mode: StepMode::Retried { tries: 1 }, due: Some(Time(ms * MS)) });
    let fed = and(begun(70), at_zero(vec![COMMITTED, Fed::Released]));
    plays(retried(3, 500), fed, &LOOKED, &["Commit Delayed", "Release", "Until 70"]);
    plays(retried(3, 500), begun(-1), &LOOKED, &["Execute"]);
}

#[test]
fn a_delay_ends_when_the_runner_closes_or_the_attempts_time_is_used_up() {
    let delayed = || and(unknown(), at_zero(vec![raised(), COMMITTED]));
    let slept = ["Execute", "Commit Delayed", "Release"];
    let ends = |last: Fed, slept: &[&str], then: &[&str]| {
        let mut fed = delayed();
        if slept.len() > 3 {
            fed.extend(at_zero(vec![Fed::Released]));
        }
        fed.push((1, last));
        plays(retried(3, 100), fed, &LOOKED, &[slept, then].concat());
    };
    ends(Fed::NotReleased, &slept, &["TimedOut"]);
    ends(Fed::Stopped, &[&slept[..], &["Until 100"]].concat(), &["Suspended"]);
    let lost = vec![(0, Fed::Released), (100, Fed::Woken), (100, Fed::Acquired { commit: Ok(()), slot: false })];
    let then = [&slept[..], &["Until 100", "CommitAndAcquire Resumed", "Suspended"]].concat();
    plays(retried(3, 100), and(delayed(), lost), &LOOKED, &then);
}

#[test]
fn a_step_on_another_thread_or_beside_others_keeps_the_slot_of_the_body() {
    let request = || step(StepOptions { keyed: true, retry: Some(policy(3, 100)), ..StepOptions::PLAIN });
    let delays = |one: &mut Attempt, caller: Caller| {
        let mut call = one.begin(&"x".into(), request(), by(caller)).expect("a call");
        let fed = and(unknown(), at_zero(vec![raised(), COMMITTED, Fed::Woken, COMMITTED]));
        let clocks = |fed: &Fed| At { wall: if matches!(fed, Fed::Woken) { 100 * MS } else { 0 }, steady: 0 };
        let mut advance = |fed: Fed| {
            let at = clocks(&fed);
            name(&one.advance(&mut call, fed, &at))
        };
        fed.into_iter().map(|(_, fed)| advance(fed)).collect::<Vec<_>>()
    };
    let keeps = [
        "CheckLease",
        "Recall",
        "Execute",
        "Commit Delayed with its slot",
        "Until 100",
        "Commit Resumed",
        "CheckLease",
    ];
    assert_eq!(delays(&mut attempt(), Caller::Elsewhere), keeps);
    let mut one = attempt();
    one.begin(&"other".into(), keyed(), by(Caller::Elsewhere)).expect("a call");
    assert_eq!(delays(&mut one, Caller::Body), keeps);
}

#[test]
fn an_unrecorded_step_leaves_nothing_behind() {
    let fed = and(unknown(), at_zero(vec![Fed::Unrecorded]));
    plays(step(StepOptions::PLAIN), fed, &LOOKED, &["Execute", "Done n"]);
    let fed = and(unknown(), at_zero(vec![COMMITTED, Fed::Unrecorded, COMMITTED]));
    plays(once(), fed, &LOOKED, &["Commit Intended", "Execute", "Commit Unrecorded", "Done n"]);
    let begun = look(Recall::Begun { mode: StepMode::Retried { tries: 1 }, due: None });
    let fed = and(begun, at_zero(vec![Fed::Unrecorded, COMMITTED]));
    plays(retried(3, 0), fed, &LOOKED, &["Execute", "Commit Unrecorded", "Done n"]);
}

/// Which calls may begin while others are under way: the outer ones, with where each comes from, then the inner one;
/// and what the refusal says.
#[test]
fn only_steps_with_a_key_stand_beside_others_and_within_steps() {
    use Caller::{Body, Elsewhere, Future};
    type Make = fn() -> Request;
    type Row = (&'static [(Make, Caller)], Make, Caller, Option<&'static str>);
    const PLAIN: Make = || step(StepOptions::PLAIN);
    const WAIT: Make = || condition(None);
    const CHECKPOINT: Make = || Request::Checkpoint(Value::NONE);
    const BESIDE: Caller = Future(Within::Body);
    let table: &[Row] = &[
        (&[], keyed, Elsewhere, None),
        (&[], PLAIN, Elsewhere, Some("from another thread than the body's: ")),
        (&[], WAIT, Elsewhere, Some("from another thread than the body's: ")),
        (&[(PLAIN, Body)], keyed, Body, None),
        (&[(PLAIN, Body)], keyed, Elsewhere, None),
        (&[(PLAIN, Body)], PLAIN, Body, Some("inside the step '0': ")),
        (&[(WAIT, Body)], keyed, Body, Some("inside the wait '0': ")),
        (&[(WAIT, Body)], keyed, Elsewhere, None),
        (&[(keyed, Body)], keyed, Body, None),
        (&[(keyed, Body)], PLAIN, Body, Some("inside a step: ")),
        (&[(keyed, Elsewhere)], PLAIN, Body, None),
        (&[(keyed, Elsewhere)], WAIT, Body, None),
        (&[(keyed, Elsewhere)], CHECKPOINT, Body, Some("while steps are under way ('0'): ")),
        (&[(PLAIN, Body)], CHECKPOINT, Body, Some("the checkpoint inside the step '0': ")),
        (&[(WAIT, BESIDE)], CHECKPOINT, BESIDE, Some("the checkpoint beside the wait '0': ")),
        (&[(keyed, BESIDE), (keyed, BESIDE)], keyed, BESIDE, None),
        (&[(PLAIN, BESIDE)], PLAIN, BESIDE, Some("beside the step '0': ")),
        (&[(WAIT, BESIDE)], keyed, BESIDE, None),
        (&[(keyed, BESIDE)], PLAIN, Future(Within::Step), Some("inside a step: ")),
        (&[(WAIT, BESIDE)], keyed, Future(Within::Condition), Some("inside the wait '0': ")),
    ];
    for (at, (outer, make, caller, refused)) in table.iter().enumerate() {
        let mut one = attempt();
        for (n, (make, caller)) in outer.iter().enumerate() {
            one.begin(&n.to_string().into(), make(), by(*caller)).expect("the outer one");
        }
        let inner = one.begin(&"inner".into(), make(), by(*caller));
        match (inner, refused) {
            (Ok(_), None) => {}
            (Err(CallError::Misuse(why)), Some(says)) => assert!(why.contains(says), "row {at}: {why}"),
            (inner, refused) => panic!("row {at}: {inner:?}, not {refused:?}"),
        }
    }
}

/// Calls that are under way, with where each comes from; where something is shown; and the number of its call.
#[test]
fn what_is_shown_names_the_step_or_wait_that_it_is_within() {
    use Caller::{Body, Elsewhere, Future};
    type Make = fn() -> Request;
    const PLAIN: Make = || step(StepOptions::PLAIN);
    const WAIT: Make = || condition(None);
    const BESIDE: Caller = Future(Within::Body);
    const STEP: Caller = Future(Within::Step);
    const CONDITION: Caller = Future(Within::Condition);
    type Row = (&'static [(Make, Caller)], Caller, Option<&'static str>);
    let table: &[Row] = &[
        (&[], Body, None),
        (&[(PLAIN, Body)], Body, Some("0")),
        (&[(PLAIN, Body)], Elsewhere, Some("0")),
        (&[(WAIT, Body)], Body, Some("0")),
        (&[(WAIT, Body)], Elsewhere, None),
        (&[(keyed, Body)], Body, Some("0")),
        (&[(keyed, Body), (keyed, Body)], Body, Some("1")),
        (&[(PLAIN, Body), (keyed, Body)], Body, Some("1")),
        (&[(keyed, Elsewhere)], Body, None),
        (&[(keyed, Elsewhere)], Elsewhere, Some("0")),
        (&[(keyed, Elsewhere), (WAIT, Body)], Elsewhere, Some("0")),
        (&[(keyed, Elsewhere), (WAIT, Body)], Body, Some("1")),
        (&[(keyed, Elsewhere), (keyed, Elsewhere)], Elsewhere, None),
        (&[(PLAIN, BESIDE)], STEP, Some("0")),
        (&[(PLAIN, BESIDE)], BESIDE, None),
        (&[(keyed, BESIDE), (WAIT, BESIDE)], STEP, Some("0")),
        (&[(keyed, BESIDE), (WAIT, BESIDE)], CONDITION, Some("1")),
        (&[(keyed, BESIDE), (PLAIN, BESIDE)], STEP, None),
    ];
    for (at, (calls, caller, within)) in table.iter().enumerate() {
        let mut one = attempt();
        for (n, (make, caller)) in calls.iter().enumerate() {
            one.begin(&n.to_string().into(), make(), by(*caller)).expect("a call");
        }
        assert_eq!(one.may_show(by(*caller)).expect("allowed").as_deref(), *within, "row {at}");
    }
}

#[test]
fn the_refusal_of_a_step_without_a_key_shows_the_remedy() {
    let mut one = attempt();
    one.begin(&"fetch".into(), step(StepOptions::PLAIN), by(Caller::Future(Within::Body))).expect("a call");
    for caller in [Caller::Future(Within::Body), Caller::Elsewhere] {
        let Err(CallError::Misuse(why)) = one.begin(&"fetch".into(), step(StepOptions::PLAIN), by(caller)) else {
            panic!("{caller:?} is allowed")
        };
        assert!(why.ends_with(". Use key="), "{why}");
    }
}

#[test]
fn one_key_is_under_way_once_and_free_again_afterwards() {
    let mut one = attempt();
    let name: Arc<str> = EntryKey::keyed_name("fetch", "a");
    let mut call = one.begin(&name, keyed(), by(Caller::Elsewhere)).expect("a call");
    let Err(CallError::Misuse(why)) = one.begin(&name, keyed(), by(Caller::Elsewhere)) else { panic!("twice") };
    assert!(why.contains("the step 'fetch \"a\"' is under way already"), "{why}");
    let clocks = At { wall: 0, steady: 0 };
    let key = EntryKey { name: Arc::clone(&name), n: EntryKey::KEYED };
    for fed in [Fed::Begin, Fed::LeaseHeld, Fed::Recalled(key, Recall::Satisfied(value()))] {
        one.advance(&mut call, fed, &clocks);
    }
    let again = one.begin(&name, keyed(), by(Caller::Elsewhere)).expect("a call");
    one.abandon(&again);
    one.begin(&name, keyed(), Standing::default()).expect("a call");
}

#[test]
fn a_checkpoint_is_one_commit() {
    let fed = at_zero(vec![Fed::Begin, Fed::LeaseHeld, COMMITTED]);
    plays(Request::Checkpoint(value()), fed, &[], &["CheckLease", "Commit Checkpoint", "Done n"]);
}
