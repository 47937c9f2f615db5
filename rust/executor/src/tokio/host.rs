//! The [`Host`](crate::host::Host) of async closures.

use bide_core::{Failure, PollPolicy};

use super::closures::Closures;
use super::dispatch::OnTokio;
use super::kinds::EVERY;
use super::workflow::ClosureBody;
use crate::host::{Host, Source};

impl Host for Closures {
    type Body = ClosureBody;
    type Local = ();
    type Dispatch = OnTokio;

    fn sources(_body: &ClosureBody) -> &[Source] {
        &[]
    }

    fn retries_gate_timeout(body: &ClosureBody, failure: &Failure) -> bool {
        Self::no_panic(|| body.retries(failure)).unwrap_or(false)
    }

    fn gate_policy(body: &ClosureBody, part: u16) -> PollPolicy {
        body.gate_condition(part).map_or(PollPolicy::every(EVERY), |condition| condition.policy)
    }
}
