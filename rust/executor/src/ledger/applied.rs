//! What is counted and told of an event that was applied.

use bide_core::observe::{self, Cause};
use bide_core::record::Write;
use bide_core::{Effect, Pending, RunState, Time};

use super::upcalls::Upcalls;
use super::write::Tagged;
use crate::host::Host;

/// An event was applied to a run: its writes are those from a position on.
#[inline]
pub(super) fn applied<H: Host>(
    engine: &impl Upcalls<H>,
    pending: &mut Pending<Tagged<H>>,
    run: &Tagged<H>,
    state: &RunState,
    from: usize,
    cause: Cause,
    at: Time,
) {
    let mut is_told = false;
    for write in &pending.batch[from..] {
        match write {
            Write::Done(_) => {}
            Write::Task(_) => is_told |= observe::is_failed_attempt(write),
            _ => engine.meter().applied(write, run.0.created_at, at),
        }
    }
    if is_told || engine.is_observed() {
        tell(pending, run, state, from, cause, at);
    }
}

/// Adds what has happened with the writes, for those who observe.
#[cold]
fn tell<H: Host>(
    pending: &mut Pending<Tagged<H>>,
    run: &Tagged<H>,
    state: &RunState,
    from: usize,
    cause: Cause,
    at: Time,
) {
    let happened = observe::happened(&pending.batch[from..], cause, at, |task, map| state.attempt_of(task, map));
    if !happened.is_empty() {
        pending.follow(run, Effect::Happened(happened.into()));
    }
}
