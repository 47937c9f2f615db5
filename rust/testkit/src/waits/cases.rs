//! The waits and steps of a body: one rule a row.

use std::time::Duration;

use super::Case;
use super::script::Meanwhile::{
    HandleIsCalled, LossIsNoticed, RunIsLost, RunnerCloses, StoreFails, StoreFailsLater, TimersRing,
};
use super::script::Says::{No, Raises, Unstorable, Yes};
use super::script::{Answer, Call, Life, condition, now, sleep, sleep_until, step};
use crate::fault::Fault::{CrashAfter, CrashBefore};

pub(super) const YES: Answer = Yes.at_once();
pub(super) const NO: Answer = No.at_once();
pub(super) const RAISES: Answer = Raises.at_once();

const STATED_BEFORE: (&str, &str) = ("closures", "what proves a condition is a value that the body states before");
pub(super) const DROPPED: (&str, &str) = ("closures", "a body whose time is used up is dropped");

pub(super) fn life<const N: usize>(calls: [Call; N]) -> Life {
    Life { calls: calls.into(), ..Life::default() }
}

/// A wait that is open when the runner closes.
pub(super) fn closes() -> Call {
    condition(1000, &[NO, NO.while_(RunnerCloses)]).named("closes")
}

pub(super) fn case<const N: usize>(name: &'static str, lives: [Life; N], seen: &'static str) -> Case {
    Case { name, lives: lives.into(), seen, not: &[] }
}

pub(super) fn cases() -> Vec<Case> {
    [order(), deadlines(), leases(), reentries(), refusals()].into_iter().flatten().collect()
}

/// In which order things happen, and when.
fn order() -> Vec<Case> {
    vec![
        case(
            "a condition that holds at once is recorded, and the slot is never released",
            [life([condition(1000, &[YES])])],
            "0 slot: ask w, record w, returns",
        ),
        case(
            "a wait is committed before its slot is released, and closed before one is acquired",
            [life([condition(1000, &[NO, YES])])],
            "0 slot: ask w, open w; 1000: ask w, record w; 1000 slot: returns",
        ),
        case(
            "the interval counts from the last answer",
            [Life {
                commit_takes: Duration::from_millis(200),
                ..life([condition(1000, &[NO, No.at_once().takes(300), YES])])
            }],
            "0 slot: ask w, open w; 1000: ask w; 2300: ask w, record w; 2500 slot: returns",
        ),
        case(
            "errors in a row end a wait, and an answer forgives them",
            [life([condition(1000, &[RAISES, NO, RAISES, RAISES]).tolerate(2)])],
            "0 slot: ask w, open w; 1000: ask w; 2000: ask w; 3000: ask w, record w: Raised boom; 3000 slot: \
                fails: Raised boom",
        ),
        case(
            "a value that cannot be stored ends a wait at once",
            [life([condition(1000, &[NO, Unstorable.at_once()])])],
            "0 slot: ask w, open w; 1000: ask w, record w: Serialization; 1000 slot: fails: Serialization",
        ),
        Case {
            not: &[STATED_BEFORE],
            ..case(
                "a condition that changes what proves it leaves no proof",
                [life([condition(1000, &[YES]).changing(), condition(1000, &[NO, YES]).changing().named("v")])],
                "0 slot: ask w, record w without a proof, returns, ask v, open v; 1000: ask v, record v without a \
                proof; 1000 slot: returns",
            )
        },
        case(
            "a sleep ends at its time and asks nothing, not even about the lease",
            [life([sleep(20_000)])],
            "0 slot: open sleep; 20000: record sleep; 20000 slot: returns",
        ),
        case(
            "a time that has been reached is recorded, and the slot is never released",
            [life([sleep_until(0)])],
            "0 slot: record sleep_until, returns",
        ),
        case(
            "the recorded time is the same on re-entry",
            [life([now(), closes()]), life([now()])],
            "0 slot: record now, returns 0, ask closes, open closes; 1000: ask closes, suspended; 1000 slot: \
                returns 0",
        ),
    ]
}

/// What a deadline means.
fn deadlines() -> Vec<Case> {
    vec![
        case(
            "at its deadline a condition is asked for the last time",
            [life([condition(1000, &[NO]).timeout(1500)])],
            "0 slot: ask w, open w; 1000: ask w; 1500: ask w, record w: WaitTimeout task 't0' waited for 'w' \
                until its deadline passed; 1500 slot: fails: WaitTimeout task 't0' waited for 'w' until its \
                deadline passed",
        ),
        case(
            "a condition that holds when it is asked at its deadline ends the wait well",
            [life([condition(1000, &[NO, NO, YES]).timeout(1500)])],
            "0 slot: ask w, open w; 1000: ask w; 1500: ask w, record w; 1500 slot: returns",
        ),
        case(
            "the deadline is compared with the time after the answer",
            [life([condition(1000, &[NO, No.at_once().takes(300)]).timeout(1200)])],
            "0 slot: ask w, open w; 1000: ask w; 1300: record w: WaitTimeout task 't0' waited for 'w' until \
                its deadline passed; 1300 slot: fails: WaitTimeout task 't0' waited for 'w' until its deadline \
                passed",
        ),
        case(
            "a condition that answers after its deadline that it holds ends the wait well",
            [life([condition(1000, &[NO, Yes.at_once().takes(300)]).timeout(1200)])],
            "0 slot: ask w, open w; 1000: ask w; 1300: record w; 1300 slot: returns",
        ),
    ]
}

/// The lease, and a run that is lost.
fn leases() -> Vec<Case> {
    let late = || step(YES.takes(20_000));
    vec![
        case(
            "the lease is checked before each poll",
            [life([condition(20_000, &[NO, YES])])],
            "0 slot: ask w, open w; 20000: lease, ask w, record w; 20000 slot: returns",
        ),
        case(
            "the lease is checked before the first poll",
            [life([late(), condition(1000, &[YES])])],
            "0 slot: ask s; 20000 slot: record s, returns; 20000: lease; 20000 slot: ask w, record w, returns",
        ),
        case(
            "the lease is checked before a step",
            [life([late(), step(YES).named("t")])],
            "0 slot: ask s; 20000 slot: record s, returns; 20000: lease; 20000 slot: ask t, record t, returns",
        ),
        case(
            "the lease is checked before a sleep",
            [life([late(), sleep(1000)])],
            "0 slot: ask s; 20000 slot: record s, returns; 20000: lease; 20000 slot: open sleep; 21000: record \
                sleep; 21000 slot: returns",
        ),
        case(
            "a run that is lost during a poll is suspended before the next",
            [life([condition(1000, &[NO, NO.while_(RunIsLost), YES])])],
            "0 slot: ask w, open w; 1000: ask w; 18000: lease, suspended",
        ),
        case(
            "a run that is lost before its wait is opened is suspended",
            [life([condition(1000, &[NO.while_(RunIsLost), YES])])],
            "0 slot: ask w; 16000: lease; 16000 slot: suspended",
        ),
        case(
            "a run that is lost as its condition begins to hold is suspended",
            [life([condition(1000, &[NO, YES.while_(RunIsLost)])])],
            "0 slot: ask w, open w; 1000: ask w; 17000: lease; 17000 slot: suspended",
        ),
        case(
            "the refused commit of a lost run suspends",
            [life([condition(1000, &[YES.while_(LossIsNoticed)])])],
            "0 slot: ask w; 16000: lease; 16000 slot: suspended",
        ),
        case(
            "the refused close of a lost run suspends",
            [life([condition(1000, &[NO, YES.while_(LossIsNoticed)])])],
            "0 slot: ask w, open w; 1000: ask w; 17000: lease; 17000 slot: suspended",
        ),
        case(
            "the refused step of a lost run suspends",
            [life([step(YES.while_(LossIsNoticed))])],
            "0 slot: ask s; 16000: lease; 16000 slot: suspended",
        ),
    ]
}

/// A body that is entered again finds the wait or step in each state.
fn reentries() -> Vec<Case> {
    let dies = |answer: Answer| answer.while_(StoreFails(CrashBefore));
    vec![
        case(
            "a wait that was not opened begins anew",
            [life([condition(1000, &[dies(NO)]).timeout(1500)]), life([condition(1000, &[NO, YES]).timeout(1500)])],
            "0 slot: ask w, suspended, ask w, open w; 1000: ask w, record w; 1000 slot: returns",
        ),
        case(
            "an open wait is asked at once and keeps its deadline",
            [
                life([condition(1000, &[NO, NO.while_(RunnerCloses)]).timeout(2500)]),
                life([condition(1000, &[NO]).timeout(2500)]),
            ],
            "0 slot: ask w, open w; 1000: ask w, suspended; 1000 slot: ask w, open w; 2000: ask w; 2500: ask \
                w, record w: WaitTimeout task 't0' waited for 'w' until its deadline passed; 2500 slot: fails: \
                WaitTimeout task 't0' waited for 'w' until its deadline passed",
        ),
        case(
            "a deadline that passed while no process ran grants one more poll",
            [
                life([condition(1000, &[NO, NO.takes(9000).while_(RunnerCloses)]).timeout(20_000)]),
                life([step(YES.takes(15_000)), condition(1000, &[NO]).timeout(20_000)]),
            ],
            "0 slot: ask w, open w; 1000: ask w; 10000: suspended; 10000 slot: ask s; 25000 slot: record s, \
                returns; 25000: lease; 25000 slot: ask w, record w: WaitTimeout task 't0' waited for 'w' until \
                its deadline passed, fails: WaitTimeout task 't0' waited for 'w' until its deadline passed",
        ),
        case(
            "a satisfied wait is not asked again",
            [life([condition(1000, &[NO, YES]), closes()]), life([condition(1000, &[NO]), step(YES)])],
            "0 slot: ask w, open w; 1000: ask w, record w; 1000 slot: returns, ask closes, open closes; 2000: \
                ask closes, suspended; 2000 slot: returns, ask s, record s, returns",
        ),
        case(
            "a satisfied wait that is not provably the same is asked again",
            [
                life([condition(1000, &[YES]), condition(1000, &[YES]).proof(None).named("v"), closes()]),
                life([
                    condition(1000, &[YES]).proof(Some("other code")),
                    condition(1000, &[YES]).proof(None).named("v"),
                ]),
            ],
            "0 slot: ask w, record w, returns, ask v, record v without a proof, returns, ask closes, open \
                closes; 1000: ask closes, suspended; 1000 slot: ask w, record w, returns, ask v, record v without \
                a proof, returns",
        ),
        case(
            "a wait that timed out fails again without being asked",
            [life([condition(1000, &[NO]).timeout(500), closes()]), life([condition(1000, &[YES]).timeout(500)])],
            "0 slot: ask w, open w; 500: ask w, record w: WaitTimeout task 't0' waited for 'w' until its \
                deadline passed; 500 slot: fails: WaitTimeout task 't0' waited for 'w' until its deadline passed, \
                ask closes, open closes; 1500: ask closes, suspended; 1500 slot: fails: WaitTimeout task 't0' \
                waited for 'w' until its deadline passed",
        ),
        case(
            "a sleep that is still open ends at its recorded time, before its body is entered again",
            [
                life([step(YES.takes(2000).while_(StoreFailsLater(CrashAfter))), sleep(5000)]),
                life([step(YES), sleep(9000)]),
            ],
            "0 slot: ask s; 2000 slot: record s, returns, open sleep, suspended; 7000: record sleep; 7000 \
                slot: returns, returns",
        ),
        case(
            "a recorded step is not executed again, however it ended",
            [
                life([step(YES), step(RAISES).named("t"), step(dies(YES)).named("u")]),
                life([step(YES), step(YES).named("t"), step(YES).named("u")]),
            ],
            "0 slot: ask s, record s, returns, ask t, record t: Raised boom, fails: Raised boom, ask u, \
                suspended, returns, fails: Raised boom, ask u, record u, returns",
        ),
        case(
            "a step whose commit was not confirmed is looked up",
            [life([step(YES.while_(StoreFails(CrashAfter)))]), life([step(YES)])],
            "0 slot: ask s, record s, suspended, returns",
        ),
    ]
}

/// What is refused.
fn refusals() -> Vec<Case> {
    vec![
        case(
            "a call within a step is refused",
            [life([step(YES.while_(HandleIsCalled))])],
            "0 slot: ask s, within: misuse: task 't0': the step 'inner' inside the step 's': a body waits or \
                records a step one after the other, and never within a step or a condition, record s, returns",
        ),
        case(
            "a call within a condition is refused",
            [life([condition(1000, &[YES.while_(HandleIsCalled)])])],
            "0 slot: ask w, within: misuse: task 't0': the step 'inner' inside the wait 'w': a body waits or \
                records a step one after the other, and never within a step or a condition, record w, returns",
        ),
        case(
            "what does not match its record pauses the run, with a reason that names the task",
            [life([step(YES).named("x"), closes()]), life([condition(1000, &[YES]).named("x")])],
            "0 slot: ask x, record x, returns, ask closes, open closes; 1000: ask closes, suspended; 1000 \
                slot: paused: replay mismatch: task 't0': 'x' (use 1) was recorded as a step and is now a \
                condition, mismatch: task 't0': 'x' (use 1) was recorded as a step and is now a condition",
        ),
        Case {
            not: &[DROPPED],
            ..case(
                "the result of a step is refused if its attempt has failed meanwhile",
                [Life { limit: Some(Duration::from_secs(1)), ..life([step(YES.takes(2000).while_(TimersRing))]) }],
                "0 slot: ask s; 2000 slot: over: the run is over",
            )
        },
        Case {
            not: &[DROPPED],
            ..case(
                "a wait of an attempt that has failed meanwhile is not opened",
                [Life {
                    limit: Some(Duration::from_secs(1)),
                    ..life([condition(1000, &[NO.takes(2000).while_(TimersRing)])])
                }],
                "0 slot: ask w; 2000 slot: over: the run is over",
            )
        },
        case(
            "a recorded time that is none is an error",
            [life([Call { what: super::Operation::Step(""), ..step(YES).named("now") }, closes()]), life([now()])],
            "0 slot: ask now, record now, returns, ask closes, open closes; 1000: ask closes, suspended; 1000 \
                slot: fails: task 't0': what is recorded as the time of handle.now() is not a time",
        ),
    ]
}
