//! How slots move between threads: a worker acquires one, yields it, or releases it because there is nothing to do; a
//! body releases its slot and resumes. `slots.rs` decides which one gets a slot.

use std::sync::Arc;

use super::{Parker, Permit, Shared, State};
use crate::slots::{HandOff, SlotNo};
use crate::spin;
use crate::sync::atomic::{Ordering, fence};
use crate::upcalls::Upcalls;

/// Threads without a slot, beyond the number of slots, that are kept for the next bodies that park. To start one takes
/// longer than a whole run, so that a chain of children, each of which waits for the next, would mostly start threads.
const SPARE: usize = 16;

/// How many surplus threads a sweep ends. The end of a thread is half of the work of a parked body's end: if thousands of
/// bodies end at once, it is left until after that.
const END_AT_ONCE: usize = 32;

impl<E: Upcalls> Shared<E> {
    fn permit(&self, slot: SlotNo) -> Permit<E> {
        let side = &self.sides[slot as usize];
        let deque = side.deque.lock().take().unwrap_or_else(|| unreachable!("slot {slot} is held twice"));
        Permit { slot, deque, group: Arc::clone(&side.group) }
    }

    fn deposit(&self, permit: Permit<E>) -> SlotNo {
        *self.sides[permit.slot as usize].deque.lock() = Some(permit.deque);
        permit.slot
    }

    /// A worker without a slot waits for one. `None`: the thread is to end. Blocks.
    pub(super) fn acquire(&self, parker: &Arc<Parker<E>>) -> Option<Permit<E>> {
        {
            let mut state = self.state.lock();
            if self.is_closing() {
                self.thread_ends(&mut state);
                return None;
            }
            state.idle.push(Arc::clone(parker));
            fence(Ordering::SeqCst);
            if self.has_jobs()
                && let Some(slot) = state.slots.acquire()
            {
                state.idle.pop();
                self.copy_counts(&mut state);
                return Some(self.permit(slot));
            }
        }
        match parker.await_slot() {
            Some(slot) => {
                spin::until(|| self.announced.load(Ordering::SeqCst) == 0 || self.has_jobs());
                Some(self.permit(slot))
            }
            None => {
                if !parker.has_ended() {
                    self.thread_ends(&mut self.state.lock());
                }
                None
            }
        }
    }

    /// Ends some of the threads that are not needed, those that have waited longest.
    pub(super) fn end_surplus(&self) {
        let surplus: Vec<_> = {
            let mut state = self.state.lock();
            let surplus = state.idle.len().saturating_sub(state.slots.total() as usize + SPARE).min(END_AT_ONCE);
            // Here, not when they wake: until then others would count on them.
            state.threads -= surplus;
            state.changes += surplus as u64;
            state.idle.drain(..surplus).collect()
        };
        if !surplus.is_empty() {
            self.emptied.notify_all();
        }
        surplus.iter().for_each(|parker| parker.end());
    }

    /// A thread of the pool ends, or was not started.
    pub(super) fn thread_ends(&self, state: &mut State<E>) {
        state.threads -= 1;
        state.changes += 1;
        self.emptied.notify_all();
    }

    /// A worker has found no job: its slot goes to a body or worker that can use it. `Some`: to the worker itself.
    pub(super) fn release_idle(&self, permit: Permit<E>) -> Option<Permit<E>> {
        let slot = self.deposit(permit);
        self.searching.store(false, Ordering::SeqCst);
        let mut state = self.state.lock();
        let new_waits = !self.is_closing() && self.has_jobs();
        let hand_off = state.slots.release(slot, new_waits);
        self.copy_counts(&mut state);
        match hand_off {
            HandOff::New => return Some(self.permit(slot)),
            HandOff::Resumed(parker) => {
                drop(state);
                parker.assign(slot);
            }
            HandOff::Free => {}
        }
        None
    }

    /// Whether resumed bodies wait for a slot.
    pub(super) fn is_resumption_waiting(&self) -> bool {
        self.resumed.load(Ordering::Relaxed) > 0
    }

    /// Between two bodies: hands the slot to a resumed body if it is its turn, else returns it.
    pub(super) fn yield_to_resumed(&self, permit: Permit<E>) -> Option<Permit<E>> {
        let slot = permit.slot;
        let resumed = {
            let mut state = self.state.lock();
            let resumed = state.slots.yield_to_resumed(slot);
            self.copy_counts(&mut state);
            resumed
        };
        let Some(parker) = resumed else { return Some(permit) };
        let slot = self.deposit(permit);
        parker.assign(slot);
        // This worker may have been woken to search and does not do so: another one has to.
        self.searching.store(false, Ordering::SeqCst);
        self.wake_one();
        None
    }

    /// A body defers and releases its slot. True if there should be one thread more for it.
    pub(super) fn release(&self, permit: Permit<E>) -> bool {
        let slot = self.deposit(permit);
        let mut state = self.state.lock();
        state.threads -= 1;
        state.parked += 1;
        let new_waits = !self.is_closing() && self.has_jobs() && !state.idle.is_empty();
        let parker = match state.slots.release(slot, new_waits) {
            HandOff::Resumed(parker) => Some(parker),
            HandOff::New => state.idle.pop(),
            HandOff::Free => None,
        };
        self.copy_counts(&mut state);
        let needs_spare = state.needs_spare();
        drop(state);
        match parker {
            Some(parker) => parker.assign(slot),
            None => self.wake_if_jobs(),
        }
        needs_spare
    }

    /// A slot is free, and the thread that freed it does not look for jobs afterwards. A job that arrived after the
    /// last look, and before the slot was seen to be free, has woken no thread: so look once more.
    fn wake_if_jobs(&self) {
        fence(Ordering::SeqCst);
        if self.has_jobs() {
            self.wake_one();
        }
    }

    /// A deferred body waits for a slot; what `waits` returns is kept as long as it does. `None` if the pool closes first.
    /// Blocks.
    pub(super) fn resume<W>(
        &self,
        parker: &Arc<Parker<E>>,
        priority: i32,
        waits: impl FnOnce() -> W,
    ) -> Option<Permit<E>> {
        let at_once = {
            let mut state = self.state.lock();
            let at_once = state.slots.resume_ranked(Arc::clone(parker), priority);
            self.copy_counts(&mut state);
            at_once
        };
        let slot = match at_once {
            Some((slot, _)) => Some(slot),
            None => {
                let _waits = waits();
                parker.await_slot()
            }
        };
        let mut state = self.state.lock();
        state.threads += 1;
        state.parked -= 1;
        match slot {
            Some(slot) => Some(self.permit(slot)),
            None => {
                state.slots.withdraw(|other| Arc::ptr_eq(other, parker));
                self.copy_counts(&mut state);
                None
            }
        }
    }

    /// A body that was suspended while it was parked unwinds without a slot.
    pub(super) fn unpark_without_slot(&self) {
        let mut state = self.state.lock();
        state.threads += 1;
        state.parked -= 1;
        state.changes += 1;
    }
}
