//! Where a thread of the pool waits: for a slot, for its poll's turn, for a time, for the close.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bide_sync::{Condvar, Mutex};

use super::Shared;
use crate::counts;
use crate::host::Host;
use crate::slots::SlotNo;
use crate::timers::{Alarm, be_punctual};

/// Where a thread of the pool waits.
pub(crate) struct Cell<H: Host> {
    state: Mutex<CellState>,
    changed: Condvar,
    shared: Weak<Shared<H>>,
}

#[derive(Default)]
struct CellState {
    slot: Option<SlotNo>,
    /// The poll or time that the thread waits for; a ring with another ticket comes too late.
    ticket: u64,
    waits: bool,
    rung: bool,
    close: bool,
    /// The run of the body that the thread executes belongs to another runner now.
    lost: bool,
}

/// Why a parked body goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// What it waited for has come.
    Rung,
    /// The runner closes, or has lost the run.
    Closed,
}

impl<H: Host> Cell<H> {
    pub(crate) fn new(shared: &Arc<Shared<H>>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(CellState::default()),
            changed: Condvar::new(),
            shared: Arc::downgrade(shared),
        })
    }

    /// Announces what is waited for next, so that the alarm can carry its ticket.
    pub(crate) fn next_ticket(&self) -> u64 {
        let mut state = self.state.lock();
        state.ticket += 1;
        state.waits = true;
        state.rung = false;
        state.ticket
    }

    /// Waits until a span has passed, punctually, or for the close. Blocks.
    pub(crate) fn sleep(&self, span: Duration) -> Woken {
        be_punctual();
        let mut state = self.state.lock();
        let over = self.changed.wait_while_for(&mut state, |state| !state.close && !state.lost, span);
        if over.timed_out() { Woken::Rung } else { Woken::Closed }
    }

    /// Waits for the ring or the close. Blocks.
    pub(crate) fn park(&self) -> Woken {
        let mut state = self.state.lock();
        while !state.rung && !state.close && !state.lost {
            self.changed.wait(&mut state);
        }
        state.waits = false;
        if std::mem::take(&mut state.rung) { Woken::Rung } else { Woken::Closed }
    }

    /// A body begins on this thread: what was lost was the one before.
    pub(super) fn begin(&self) {
        self.state.lock().lost = false;
    }

    /// The body on this thread is to unwind, as when the runner closes; other bodies may follow.
    pub(super) fn lose(&self) {
        self.state.lock().lost = true;
        self.changed.notify_one();
    }

    /// Waits for a slot or the close. Blocks.
    pub(super) fn await_slot(&self) -> Option<SlotNo> {
        let mut state = self.state.lock();
        loop {
            if let Some(slot) = state.slot.take() {
                return Some(slot);
            }
            if state.close {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    pub(super) fn offer(&self, ticket: u64) -> bool {
        let wanted = {
            let mut state = self.state.lock();
            let wanted = state.waits && state.ticket == ticket && !state.close && !state.lost;
            state.rung |= wanted;
            wanted
        };
        if wanted {
            counts::wakes();
            self.changed.notify_one();
        }
        wanted
    }

    pub(super) fn give(&self, slot: SlotNo) {
        self.state.lock().slot = Some(slot);
        counts::wakes();
        self.changed.notify_one();
    }

    pub(super) fn close(&self) {
        self.state.lock().close = true;
        self.changed.notify_one();
    }

    /// Rings without waiting for a turn: for times, where nothing has to be asked.
    pub(crate) fn ring_now(&self, ticket: u64) {
        let _ = self.offer(ticket);
    }
}

/// A poll of a parked body is due: it is woken when it is its turn.
impl<H: Host> Alarm for Cell<H> {
    fn ring(self: Arc<Self>, ticket: u64) {
        if let Some(shared) = self.shared.upgrade() {
            shared.poll_due(self, ticket);
        }
    }
}

/// The time that a parked body waited for has come.
pub(crate) struct TimeReached<H: Host>(pub(crate) Arc<Cell<H>>);

impl<H: Host> Alarm for TimeReached<H> {
    fn ring(self: Arc<Self>, ticket: u64) {
        self.0.ring_now(ticket);
    }
}
