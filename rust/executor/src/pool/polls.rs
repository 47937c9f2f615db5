//! The polls of parked bodies, one after the other: the pacing machine ([`crate::pacer`]) decides, this carries out.

use std::sync::{Arc, Weak};

use super::{Cell, Shared};
use crate::host::Host;
use crate::pacer::STUCK_AFTER;
use crate::timers::Alarm;

/// No poll has handed on for a while.
struct Stuck<H: Host>(Weak<Shared<H>>);

impl<H: Host> Alarm for Stuck<H> {
    fn ring(self: Arc<Self>, ticket: u64) {
        if let Some(shared) = self.0.upgrade() {
            shared.look_for_stuck(ticket, &self);
        }
    }
}

impl<H: Host> Shared<H> {
    /// A parked body is to poll: now, or when those before it have handed on. However early the one that polls now
    /// began, from here on somebody has an eye on it: if it does not hand on in time, others go on beside it.
    pub(super) fn poll_due(self: &Arc<Self>, cell: Arc<Cell<H>>, ticket: u64) {
        let mut state = self.state.lock();
        let next = state.pacer.due((cell, ticket));
        let (handed, waiting) = state.pacer.progress();
        let watch = waiting && !std::mem::replace(&mut state.stuck_alarm, true);
        drop(state);
        self.offer_polls(next);
        if watch {
            self.look_later(Arc::new(Stuck(Arc::downgrade(self))), handed);
        }
    }

    /// A poll has ended: the next one that is due has its turn.
    pub(crate) fn poll_done(&self) {
        let next = self.state.lock().pacer.done();
        self.offer_polls(next);
    }

    fn offer_polls(&self, mut next: Option<(Arc<Cell<H>>, u64)>) {
        while let Some((cell, ticket)) = next {
            if cell.offer(ticket) {
                return;
            }
            next = self.state.lock().pacer.done();
        }
    }

    fn look_later(&self, alarm: Arc<Stuck<H>>, handed: u64) {
        if let Some(timers) = self.timers.get().and_then(Weak::upgrade) {
            timers.after(STUCK_AFTER, alarm, handed);
        }
    }

    /// Looks every [`STUCK_AFTER`] as long as a body waits for its turn.
    fn look_for_stuck(&self, before: u64, alarm: &Arc<Stuck<H>>) {
        let mut state = self.state.lock();
        let (handed, waiting) = state.pacer.progress();
        if !waiting {
            state.stuck_alarm = false;
            return;
        }
        let next = if handed == before { state.pacer.stuck() } else { None };
        let (handed, _) = state.pacer.progress();
        drop(state);
        self.offer_polls(next);
        self.look_later(Arc::clone(alarm), handed);
    }
}
