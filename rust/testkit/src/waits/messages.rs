//! Waits that the run machine closes, and what they are for: one rule a row.

use super::Case;
use super::cases::{case, closes, life};
use super::script::{callback, signal};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a wait for a message that does not come ends at its deadline, without a slot until then",
            [life([signal().timeout(1500)])],
            "0 slot: open go; 1500: record go: WaitTimeout task 't0' waited for 'go' until its deadline passed; 1500 \
                slot: fails: WaitTimeout task 't0' waited for 'go' until its deadline passed",
        ),
        case(
            "a callback is recorded once, and the slot is never released",
            [life([callback(), closes()]), life([callback()])],
            "0 slot: record paid, returns, ask closes, open closes; 1000: ask closes, suspended; 1000 slot: returns",
        ),
    ]
}
