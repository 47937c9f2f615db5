//! Steps that are begun before they end, and checkpoints: one rule a row.

use super::Case;
use super::cases::{NO, RAISES, YES, case, closes, life};
use super::script::Meanwhile::{RunIsLost, RunnerCloses, StoreFails};
use super::script::{Life, checkpoint, condition, once, retried, sleep, step};
use crate::fault::Fault::{CrashAfter, CrashBefore};

pub(super) fn cases() -> Vec<Case> {
    [begun(), tried_again(), checkpoints()].into_iter().flatten().collect()
}

/// Steps that are executed at most once.
fn begun() -> Vec<Case> {
    vec![
        case(
            "that a step begins is committed before it is executed once",
            [life([once(YES)])],
            "0 slot: open pay, ask pay, record pay, returns",
        ),
        case(
            "a step that failed once has failed",
            [life([once(RAISES), closes()]), life([once(YES)])],
            "0 slot: open pay, ask pay, record pay: Raised boom, fails: Raised boom, ask closes, open closes; 1000: ask \
                closes, suspended; 1000 slot: fails: Raised boom",
        ),
        case(
            "a step whose result is lost is not executed again, and that is recorded",
            [life([once(YES.while_(StoreFails(CrashBefore)))]), life([once(YES), once(YES)])],
            "0 slot: open pay, ask pay, suspended, record pay: StepInterrupted task 't0': the step 'pay' was \
                begun and has no result, because the process or the attempt ended in the middle of it. It may be \
                executed only once and is not called again: find out whether it took effect, and go on with what \
                you find, or call it again under another name or key, fails: StepInterrupted task 't0': the step \
                'pay' was begun and has no result, because the process or the attempt ended in the middle of it. \
                It may be executed only once and is not called again: find out whether it took effect, and go on \
                with what you find, or call it again under another name or key, open pay, ask pay, record pay, \
                returns",
        ),
        case(
            "a step whose result is committed before the crash is not executed again",
            [life([once(YES.while_(StoreFails(CrashAfter)))]), life([once(YES)])],
            "0 slot: open pay, ask pay, record pay, suspended, returns",
        ),
        case(
            "a step of a run that was lost in the middle keeps its intent",
            [life([once(YES.while_(RunIsLost))]), life([once(YES)])],
            "0 slot: open pay, ask pay; 16000: lease; 16000 slot: suspended, record pay: StepInterrupted task \
                't0': the step 'pay' was begun and has no result, because the process or the attempt ended in \
                the middle of it. It may be executed only once and is not called again: find out whether it took \
                effect, and go on with what you find, or call it again under another name or key, fails: \
                StepInterrupted task 't0': the step 'pay' was begun and has no result, because the process or \
                the attempt ended in the middle of it. It may be executed only once and is not called again: \
                find out whether it took effect, and go on with what you find, or call it again under another \
                name or key",
        ),
    ]
}

/// Steps with a retry.
fn tried_again() -> Vec<Case> {
    vec![
        case(
            "a step that fails is tried again after its delay, without a slot meanwhile",
            [life([retried(3, &[RAISES, RAISES, YES])])],
            "0 slot: ask s, open s; 1000: open s; 1000 slot: ask s, open s; 3000: open s; 3000 slot: ask s, \
                record s, returns",
        ),
        case(
            "the last try counts",
            [life([retried(2, &[RAISES, RAISES]), closes()]), life([retried(2, &[YES])])],
            "0 slot: ask s, open s; 1000: open s; 1000 slot: ask s, record s: Raised boom, fails: Raised \
                boom, ask closes, open closes; 2000: ask closes, suspended; 2000 slot: fails: Raised boom",
        ),
        case(
            "a delay goes on while no process lives, and tries are counted over processes",
            [life([retried(3, &[RAISES, RAISES.while_(RunnerCloses)])]), life([retried(3, &[RAISES])])],
            "0 slot: ask s, open s; 1000: open s; 1000 slot: ask s, open s; 1000: suspended; 3000: open s; \
                3000 slot: ask s, record s: Raised boom, fails: Raised boom",
        ),
        case(
            "a crash in the middle of a try is no try",
            [life([retried(2, &[RAISES, YES.while_(StoreFails(CrashBefore))])]), life([retried(2, &[YES])])],
            "0 slot: ask s, open s; 1000: open s; 1000 slot: ask s, suspended, ask s, record s, returns",
        ),
        case(
            "a crash before the failure is recorded is no try",
            [life([retried(2, &[RAISES.while_(StoreFails(CrashBefore))])]), life([retried(2, &[RAISES, YES])])],
            "0 slot: ask s, suspended, ask s, open s; 1000: open s; 1000 slot: ask s, record s, returns",
        ),
        Case {
            not: &[super::cases::DROPPED],
            ..case(
                "the delay is no execution time",
                [Life { limit: Some(std::time::Duration::from_millis(500)), ..life([retried(3, &[RAISES, YES])]) }],
                "0 slot: ask s, open s; 1000: open s; 1000 slot: ask s, record s, returns",
            )
        },
    ]
}

/// Checkpoints.
fn checkpoints() -> Vec<Case> {
    vec![
        case(
            "a checkpoint stands for the journal, in one commit, and uses start anew",
            [
                life([step(YES), sleep(10), checkpoint(), step(YES), closes()]),
                life([step(YES), condition(1000, &[NO, YES])]),
            ],
            "0 slot: ask s, record s, returns, open sleep; 10: record sleep; 10 slot: returns, drop s sleep, \
                record checkpoint, returns, ask s, record s, returns, ask closes, open closes; 1010: ask closes, \
                suspended; 1010 slot: returns, ask w, open w; 2010: ask w, record w; 2010 slot: returns",
        ),
        case(
            "a checkpoint whose commit is lost leaves the journal as it was",
            [life([step(YES.while_(StoreFails(CrashBefore))), checkpoint()]), life([step(YES), checkpoint()])],
            "0 slot: ask s, suspended, ask s, record s, returns, drop s, record checkpoint, returns",
        ),
    ]
}
