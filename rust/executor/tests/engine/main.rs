//! The engine without bodies: a test takes the turns of its threads, and lets its store fail.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bide_executor::core::PollPolicy;
use bide_executor::{Host, Pool, Source};

mod group_commit;
mod mail;
mod many_workflows;
mod schedules;
mod watches;

/// Nothing here takes this long unless it hangs.
const HANG: Duration = Duration::from_secs(20);

/// A host that executes nothing.
struct Idle;

impl Host for Idle {
    type Body = ();
    type Local = ();
    type Dispatch = Pool<Self>;

    fn sources(_body: &()) -> &[Source] {
        &[]
    }

    fn gate_policy(_body: &(), _part: u16) -> PollPolicy {
        PollPolicy::every(HANG)
    }
}
