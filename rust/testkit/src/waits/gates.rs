//! Conditions of gates: one rule a row. A gate has no slot, no steps and no handle, and nothing is executed again for
//! it: an open gate is polled by the runner that has the run.

use super::Case;
use super::script::Meanwhile::{LossIsNoticed, RunIsLost, RunnerCloses, StoreFailsLater};
use super::script::Says::{No, Raises, Unstorable, Yes};
use super::script::{Answer, Call, Life, condition};
use crate::fault::Fault::CrashBefore;

const YES: Answer = Yes.at_once();
const NO: Answer = No.at_once();
const RAISES: Answer = Raises.at_once();

fn case<const N: usize>(name: &'static str, lives: [Call; N], seen: &'static str) -> Case {
    let lives = lives.into_iter().map(|gate| Life { calls: vec![gate.named("gate")], ..Life::default() }).collect();
    Case { name, lives, seen, not: &[] }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a gate is polled at once and at its interval, from the last answer",
            [condition(1000, &[NO, NO.takes(300), YES])],
            "0: open gate, ask gate; 1000: ask gate; 2300: ask gate, record gate",
        ),
        case(
            "at its deadline a gate is asked for the last time",
            [condition(1000, &[NO]).timeout(1500)],
            "0: open gate, ask gate; 1000: ask gate; 1500: ask gate, record gate: WaitTimeout task 't0' waited \
                for 'gate' until its deadline passed",
        ),
        case(
            "a gate that holds when it is asked at its deadline is satisfied",
            [condition(1000, &[NO, NO, YES]).timeout(1500)],
            "0: open gate, ask gate; 1000: ask gate; 1500: ask gate, record gate",
        ),
        case(
            "a gate's deadline is compared with the time after the answer",
            [condition(1000, &[NO, NO.takes(300)]).timeout(1200)],
            "0: open gate, ask gate; 1000: ask gate; 1300: record gate: WaitTimeout task 't0' waited for \
                'gate' until its deadline passed",
        ),
        case(
            "a gate that answers after its deadline that it holds is satisfied",
            [condition(1000, &[NO, YES.takes(300)]).timeout(1200)],
            "0: open gate, ask gate; 1000: ask gate; 1300: record gate",
        ),
        case(
            "errors in a row end a gate, and an answer forgives them",
            [condition(1000, &[RAISES, NO, RAISES, RAISES]).tolerate(2)],
            "0: open gate, ask gate; 1000: ask gate; 2000: ask gate; 3000: ask gate, record gate: Raised boom",
        ),
        case(
            "a gate's value that cannot be stored fails it at once",
            [condition(1000, &[NO, Unstorable.at_once()])],
            "0: open gate, ask gate; 1000: ask gate, record gate: Serialization",
        ),
        case(
            "the lease is checked before each poll of a gate",
            [condition(20_000, &[NO, YES])],
            "0: open gate, ask gate; 20000: lease, ask gate, record gate",
        ),
        case(
            "a gate of a run that is lost is not polled again",
            [condition(1000, &[NO.while_(RunIsLost), YES])],
            "0: open gate, ask gate",
        ),
        case(
            "a gate of a run whose loss was noticed is not polled again",
            [condition(1000, &[NO.while_(LossIsNoticed), YES])],
            "0: open gate, ask gate",
        ),
        case(
            "the answer of a gate whose run was lost changes nothing",
            [condition(1000, &[YES.while_(RunIsLost)])],
            "0: open gate, ask gate",
        ),
        case(
            "the refused answer of a gate whose run was lost changes nothing",
            [condition(1000, &[YES.while_(LossIsNoticed)])],
            "0: open gate, ask gate",
        ),
        case(
            "an open gate is polled at once by the next process and keeps its deadline",
            [condition(1000, &[NO, NO.while_(RunnerCloses)]).timeout(2500), condition(1000, &[NO]).timeout(2500)],
            "0: open gate, ask gate; 1000: ask gate, ask gate; 2000: ask gate; 2500: ask gate, record gate: \
                WaitTimeout task 't0' waited for 'gate' until its deadline passed",
        ),
        case(
            "a satisfied gate is not polled again",
            [condition(1000, &[YES.while_(StoreFailsLater(CrashBefore))]), condition(1000, &[NO])],
            "0: open gate, ask gate, record gate",
        ),
    ]
}
