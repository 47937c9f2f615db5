//! Where a thread of the pool sleeps: until it gets a slot, until its poll's turn, until a time, until the close.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Pool, Shared};
use crate::counts;
use crate::slots::SlotNo;
use crate::sync::{Condvar, Mutex};
use crate::upcalls::{Alarm, Upcalls};

/// Where a thread of the pool sleeps. One for each thread.
pub struct Parker<E: Upcalls> {
    /// What the thread waits for, and what has come.
    pub(super) state: Mutex<ParkerState>,
    /// Notified when something has come.
    changed: Condvar,
    /// The pool, for an alarm that makes a poll due.
    shared: Weak<Shared<E>>,
}

#[derive(Default)]
pub(super) struct ParkerState {
    /// A slot that was assigned to the thread and that it has not taken yet.
    slot: Option<SlotNo>,
    /// The number of the poll or time that the thread waits for. A ring with another one comes too late.
    pub(super) ticket: u64,
    /// The thread waits for a ring, or is about to.
    waiting: bool,
    /// The ring has come.
    pub(super) rung: bool,
    /// The thread waits for the ring: all that comes before that is done.
    pub(super) asleep: bool,
    /// The thread is not one of the pool's.
    pub(super) enlisted: bool,
    /// The pool closes, or the thread is not needed any more.
    pub(super) closed: bool,
    /// The thread is not needed any more, and is not counted.
    ended: bool,
    /// The body on this thread is to unwind: its run belongs to another runner now.
    pub(super) suspended: bool,
}

/// Why a parked body wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// What it waited for has come.
    Rung,
    /// The pool closes, or the body is to unwind for another reason.
    Closed,
}

impl<E: Upcalls> Pool<E> {
    /// A parker for the calling thread, which is to work for the pool.
    #[must_use]
    pub fn new_parker(&self) -> Arc<Parker<E>> {
        Arc::new(Parker {
            state: Mutex::new(ParkerState::default()),
            changed: Condvar::new(),
            shared: Arc::downgrade(&self.shared),
        })
    }
}

impl<E: Upcalls> Parker<E> {
    /// Announces the next wait. Its ticket is for the alarm that ends it.
    pub(super) fn next_ticket(&self) -> u64 {
        let mut state = self.state.lock();
        state.ticket += 1;
        state.waiting = true;
        state.rung = false;
        state.ticket
    }

    /// Waits until `span` has passed, without being late, or for the close. Blocks.
    pub(super) fn sleep(&self, span: Duration) -> Woken {
        be_punctual();
        let mut state = self.state.lock();
        let over = self.changed.wait_while_for(&mut state, |state| !state.closed && !state.suspended, span);
        if over.timed_out() { Woken::Rung } else { Woken::Closed }
    }

    /// Waits for the ring or the close. Blocks.
    pub(super) fn park(&self) -> Woken {
        let mut state = self.state.lock();
        state.asleep = true;
        while !state.rung && !state.closed && !state.suspended {
            self.changed.wait(&mut state);
        }
        (state.waiting, state.asleep) = (false, false);
        if std::mem::take(&mut state.rung) { Woken::Rung } else { Woken::Closed }
    }

    /// A body begins on this thread. If the one before was suspended, this one is not.
    pub(super) fn begin_body(&self) {
        self.state.lock().suspended = false;
    }

    /// The body on this thread is to unwind, as when the pool closes; other bodies may follow.
    pub(super) fn suspend(&self) {
        self.state.lock().suspended = true;
        self.changed.notify_one();
    }

    /// The thread is not one of the pool's.
    pub(super) fn set_enlisted(&self) {
        self.state.lock().enlisted = true;
    }

    /// Waits for a slot or the close. Blocks.
    pub(super) fn await_slot(&self) -> Option<SlotNo> {
        let mut state = self.state.lock();
        loop {
            if let Some(slot) = state.slot.take() {
                return Some(slot);
            }
            if state.closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Wakes the thread if it still waits with this ticket; false if it does not.
    pub(super) fn unpark(&self, ticket: u64) -> bool {
        let waits = {
            let mut state = self.state.lock();
            let waits = state.waiting && state.ticket == ticket && !state.closed && !state.suspended;
            state.rung |= waits;
            waits
        };
        if waits {
            counts::add_wake();
            self.changed.notify_one();
        }
        waits
    }

    /// Assigns a slot to the thread and wakes it.
    pub(super) fn assign(&self, slot: SlotNo) {
        self.state.lock().slot = Some(slot);
        counts::add_wake();
        self.changed.notify_one();
    }

    /// The pool closes.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    /// The thread, which waits for a slot, is not needed any more, and is not counted.
    pub(super) fn end(&self) {
        {
            let mut state = self.state.lock();
            (state.closed, state.ended) = (true, true);
        }
        self.changed.notify_one();
    }

    /// Whether [`Parker::end`] was called.
    pub(super) fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// Waits for a time. `set_alarm` gets the alarm that ends the wait, and its ticket. Blocks.
    pub fn park_until(self: &Arc<Self>, set_alarm: impl FnOnce(Arc<dyn Alarm>, u64)) -> Woken {
        let ticket = self.next_ticket();
        set_alarm(Arc::new(TimeReached(Arc::clone(self))), ticket);
        self.park()
    }
}

/// A poll of a parked body is due. The thread is woken when it is its turn.
impl<E: Upcalls> Alarm for Parker<E> {
    fn ring(self: Arc<Self>, ticket: u64) {
        if let Some(shared) = self.shared.upgrade() {
            shared.poll_due(self, ticket);
        }
    }
}

/// The time has come that a parked body waits for. There is no turn to wait for, because nothing is polled.
struct TimeReached<E: Upcalls>(Arc<Parker<E>>);

impl<E: Upcalls> Alarm for TimeReached<E> {
    fn ring(self: Arc<Self>, ticket: u64) {
        let _ = self.0.unpark(ticket);
    }
}

/// Has the calling thread woken on time. The system may otherwise let it sleep 50 µs longer, to wake several at once.
pub fn be_punctual() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}
