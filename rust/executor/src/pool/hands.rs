//! Slots changing hands: a worker waits for one, hands its own on, has found nothing; a body defers and resumes. Who
//! gets a slot is decided in `slots.rs`.

use std::sync::Arc;

use bide_sync::atomic::{Ordering, fence};

use super::{Cell, Held, Shared, State};
use crate::host::Host;
use crate::slots::{HandOver, SlotNo};
use crate::spin;

/// Threads without a slot beyond the number of slots, kept for the next body that parks.
const SPARE: usize = 2;

impl<H: Host> Shared<H> {
    fn hold(&self, no: SlotNo) -> Held<H> {
        let side = &self.sides[no as usize];
        let deque = side.deque.lock().take().unwrap_or_else(|| unreachable!("slot {no} is held twice"));
        Held { no, deque, group: Arc::clone(&side.group) }
    }

    fn put_down(&self, held: Held<H>) -> SlotNo {
        *self.sides[held.no as usize].deque.lock() = Some(held.deque);
        held.no
    }

    /// A worker without a slot waits for one. `None`: the thread is to end. Blocks.
    pub(crate) fn idle(&self, cell: &Arc<Cell<H>>) -> Option<Held<H>> {
        {
            let mut state = self.state.lock();
            let surplus = state.idle.len() >= state.slots.total() as usize + SPARE;
            if self.is_closing() || surplus {
                self.leave(&mut state);
                drop(state);
                self.look_again();
                return None;
            }
            state.idle.push(Arc::clone(cell));
            fence(Ordering::SeqCst);
            if self.has_work()
                && let Some(slot) = state.slots.take_new()
            {
                state.idle.pop();
                self.hint(&state);
                return Some(self.hold(slot));
            }
        }
        match cell.await_slot() {
            Some(slot) => {
                spin::until(|| self.coming.load(Ordering::SeqCst) == 0 || self.has_work());
                Some(self.hold(slot))
            }
            None => {
                self.leave(&mut self.state.lock());
                None
            }
        }
    }

    /// A worker has panicked. What it had in its hands, a slot too, is lost with it.
    pub(crate) fn gone(&self) {
        self.leave(&mut self.state.lock());
    }

    pub(super) fn leave(&self, state: &mut State<H>) {
        state.threads -= 1;
        self.emptied.notify_all();
    }

    /// A worker has found nothing: its slot goes to whoever can use it. True if that is the worker itself.
    pub(crate) fn nothing_found(&self, held: Held<H>) -> Option<Held<H>> {
        let no = self.put_down(held);
        self.searching.store(false, Ordering::SeqCst);
        let mut state = self.state.lock();
        let work = !self.is_closing() && self.has_work();
        let over = state.slots.give_back(no, work);
        self.hint(&state);
        match over {
            HandOver::New => return Some(self.hold(no)),
            HandOver::Resumed(cell) => {
                drop(state);
                cell.give(no);
            }
            HandOver::Free => {}
        }
        None
    }

    /// Whether resumed bodies wait for a slot.
    pub(crate) fn someone_resumes(&self) -> bool {
        self.resumed.load(Ordering::Relaxed) > 0
    }

    /// Between two bodies: hands the slot to a resumed body if it is its turn, else returns it.
    pub(crate) fn between(&self, held: Held<H>) -> Option<Held<H>> {
        let no = held.no;
        let cell = {
            let mut state = self.state.lock();
            let cell = state.slots.between(no);
            self.hint(&state);
            cell
        };
        let Some(cell) = cell else { return Some(held) };
        let no = self.put_down(held);
        cell.give(no);
        // It may have been woken to search, and does not.
        self.searching.store(false, Ordering::SeqCst);
        self.wake_one();
        None
    }

    /// A body defers: its slot is handed on.
    pub(crate) fn give_back(&self, held: Held<H>) {
        let no = self.put_down(held);
        let mut state = self.state.lock();
        state.threads -= 1;
        state.parked += 1;
        let work = !self.is_closing() && self.has_work() && !state.idle.is_empty();
        let over = state.slots.give_back(no, work);
        let cell = match over {
            HandOver::Resumed(cell) => Some(cell),
            HandOver::New => state.idle.pop(),
            HandOver::Free => None,
        };
        self.hint(&state);
        drop(state);
        match cell {
            Some(cell) => cell.give(no),
            None => self.look_again(),
        }
    }

    /// A slot has become free whose holder does not look for work afterwards. Work that came after it had looked, and
    /// before it was seen to be free, has woken nobody.
    fn look_again(&self) {
        fence(Ordering::SeqCst);
        if self.has_work() {
            self.wake_one();
        }
    }

    /// A deferred body wants to go on. `None` if the runner closes first. Blocks.
    pub(crate) fn resume(&self, cell: &Arc<Cell<H>>) -> Option<Held<H>> {
        let now = {
            let mut state = self.state.lock();
            let now = state.slots.resume(Arc::clone(cell));
            self.hint(&state);
            now
        };
        let slot = match now {
            Some((slot, _)) => Some(slot),
            None => cell.await_slot(),
        };
        let mut state = self.state.lock();
        state.threads += 1;
        state.parked -= 1;
        match slot {
            Some(slot) => Some(self.hold(slot)),
            None => {
                state.slots.forget(|other| Arc::ptr_eq(other, cell));
                self.hint(&state);
                None
            }
        }
    }

    /// A body that was suspended while it was parked unwinds without a slot.
    pub(crate) fn unpark_without_slot(&self) {
        let mut state = self.state.lock();
        state.threads += 1;
        state.parked -= 1;
    }
}
