//! The polls of parked bodies, one after the other: the pacing machine ([`crate::pacer`]) decides, this carries out.

use std::sync::{Arc, Weak};

use super::{Cell, Shared};
use crate::host::Host;
use crate::pacer::STUCK_AFTER;
use crate::timers::{Alarm, Timers};

/// No poll has handed on for a while.
struct Stuck<H: Host>(Weak<Shared<H>>, Weak<Timers>);

impl<H: Host> Alarm for Stuck<H> {
    fn ring(self: Arc<Self>, ticket: u64) {
        if let (Some(shared), Some(timers)) = (self.0.upgrade(), self.1.upgrade()) {
            shared.look_for_stuck(ticket, &timers, &self);
        }
    }
}

impl<H: Host> Shared<H> {
    pub(super) fn poll_due(self: &Arc<Self>, cell: Arc<Cell<H>>, ticket: u64) {
        let next = self.state.lock().pacer.due((cell, ticket));
        self.offer_polls(next);
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

    /// Has an eye on a poll that begins: if it does not hand on in time, others go on beside it.
    pub(crate) fn watch_polls(self: &Arc<Self>, timers: &Arc<Timers>) {
        let handed = {
            let mut state = self.state.lock();
            let (handed, waiting) = state.pacer.progress();
            if !waiting || std::mem::replace(&mut state.stuck_alarm, true) {
                return;
            }
            handed
        };
        let alarm = Arc::new(Stuck(Arc::downgrade(self), Arc::downgrade(timers)));
        timers.after(STUCK_AFTER, alarm, handed);
    }

    fn look_for_stuck(&self, before: u64, timers: &Arc<Timers>, alarm: &Arc<Stuck<H>>) {
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
        timers.after(STUCK_AFTER, Arc::clone(alarm) as Arc<dyn Alarm>, handed);
    }
}
