//! A body's way through a wait, as far as its thread and slot are concerned: release the slot, park, poll, resume. The
//! engine decides when the wait is recorded in between.

use std::sync::Arc;
use std::time::Duration;

use super::{Parker, Permit, PollNo, Pool, Woken};
use crate::upcalls::{Alarm, Upcalls};

/// A thread sleeps with a timeout for up to this long, which saves the wake-up by the timer thread. For longer spans it
/// is woken: if many threads had timeouts of their own they would all wake, only to wait for their turn.
const SHORT: Duration = Duration::from_millis(20);

impl<E: Upcalls> Pool<E> {
    /// A body defers: releases its slot. If this is true, [`Pool::keep_spare`] is to be called afterwards, on a thread
    /// that may start threads: none is there to use the slot, and another one may have taken the last in between.
    #[must_use]
    pub fn release(&self, permit: Permit<E>) -> bool {
        self.body_stops(&permit);
        self.shared.release(permit)
    }

    /// Parks a body that has no slot until its next poll: `span` from now, and when it is its turn. `endless`: it is
    /// polled for ever if its condition goes on answering as it has. `last` is the poll before, which ends with this.
    /// `set_alarm` gets an alarm that makes it due sooner, and its ticket. Blocks.
    pub fn park_until_poll(
        &self,
        engine: &Arc<E>,
        parker: &Arc<Parker<E>>,
        (span, endless): (Duration, bool),
        last: Option<PollNo>,
        set_alarm: impl FnOnce(Arc<dyn Alarm>, u64),
    ) -> Woken {
        self.shared.end_poll(last);
        let ticket = parker.next_ticket();
        if span > SHORT || engine.is_manual() {
            set_alarm(Arc::clone(parker) as _, ticket);
            engine.ring_poll(span, endless, Arc::clone(parker) as _, ticket);
        } else if parker.sleep(span) == Woken::Rung {
            self.shared.poll_due(Arc::clone(parker), ticket);
        }
        parker.park()
    }

    /// A poll starts on its body's own thread, which may start threads.
    pub fn begin_poll(&self, engine: &Arc<E>, body: E::Body, condition: Arc<str>) -> PollNo {
        // If no thread could be started when the body was parked, there may be one by now.
        self.keep_spare(engine);
        self.shared.begin_poll(engine.steady(), body, condition)
    }

    /// A poll has ended, if there was one: the next one that is due has its turn.
    pub fn end_poll(&self, poll: Option<PollNo>) {
        self.shared.end_poll(poll);
    }

    /// The wait of a body is over: waits for a slot, which bodies with a higher priority get first. If none is free, what
    /// `waits` returns is kept until there is one. `None` if the pool closes first. Blocks.
    #[must_use]
    pub fn resume<W>(&self, parker: &Arc<Parker<E>>, priority: i32, waits: impl FnOnce() -> W) -> Option<Permit<E>> {
        self.shared.resume(parker, priority, waits)
    }

    /// A body that is suspended while it is parked unwinds, without a slot.
    pub fn unpark_without_slot(&self) {
        self.shared.unpark_without_slot();
    }
}
