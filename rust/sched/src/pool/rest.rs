//! Whether the pool is at rest: no body executes or is about to, and each parked one sleeps. For clocks that are moved
//! by hand, which are moved only then.

use std::sync::Weak;

use super::{Parker, Pool};
use crate::sync::atomic::Ordering;
use crate::upcalls::Upcalls;

/// Numbers that change whenever a thread of the pool has something to do.
pub type RestMark = (u64, u64);

impl<E: Upcalls> Pool<E> {
    /// `None` if it is not. If it answers the same mark twice, it was at rest all the time in between.
    #[must_use]
    pub fn rest(&self) -> Option<RestMark> {
        let shared = &self.shared;
        let state = shared.state.lock();
        let (_, poll_waits) = state.pacer.progress();
        let is_busy = state.threads > state.idle.len()
            || state.slots.resumed() > 0
            || poll_waits
            || shared.announced.load(Ordering::SeqCst) > 0
            || shared.has_jobs();
        if is_busy {
            return None;
        }
        let (mut asleep, mut tickets) = (0, 0);
        for parker in state.bodies.iter().filter_map(Weak::upgrade) {
            let (is_asleep, ticket) = parker.rest();
            asleep += usize::from(is_asleep);
            tickets += ticket;
        }
        (asleep == state.parked).then(|| (state.changes, tickets))
    }
}

impl<E: Upcalls> Parker<E> {
    /// Whether its thread is one of the pool's and sleeps until something comes, and which wait that is.
    fn rest(&self) -> (bool, u64) {
        let state = self.state.lock();
        let is_woken = state.rung || state.closed || state.suspended;
        (state.asleep && !is_woken && !state.enlisted, state.ticket)
    }
}
