//! The slot machine: decides which body may execute. No I/O, threads or clock; the pool, the async dispatcher and the
//! simulator carry out what it decides.
//!
//! | event                               | decision                                                                  |
//! |-------------------------------------|---------------------------------------------------------------------------|
//! | a new body wants a slot             | a free slot, if there is one; else the body stays queued                  |
//! | a deferred body's wait is satisfied | a free slot, if there is one; else it queues by priority, then first in first out |
//! | a slot is released                  | given to a resumed body, every eighth time to a new one; else it is free  |
//! | a holder is between two bodies      | it keeps its slot, unless a resumed body waits and it is not the eighth   |
//!
//! Slots are numbered, and the number moves with the permit to execute: so what belongs to a slot (its deque, its
//! results) is never touched by two threads. Resumed bodies go first, so that finished waits do not queue behind new
//! work; one hand-off in [`NEW_EVERY`] goes to a new body, so that new work never starves.

use std::collections::VecDeque;

/// While resumed bodies wait, one hand-off in this many goes to new work.
pub const NEW_EVERY: u32 = 8;

/// A slot's number.
pub type SlotNo = u32;

/// The slot machine. `B` names a deferred body.
#[derive(Debug)]
pub struct Slots<B> {
    /// Slots without a holder.
    free: Vec<SlotNo>,
    /// How many slots there are.
    total: u32,
    /// Deferred bodies whose wait is over and that wait for a slot, with their priorities: the highest first, and of
    /// equal ones the longest waiting.
    resumed: VecDeque<(i32, B)>,
    /// Hand-offs to resumed bodies since the last one to new work.
    streak: u32,
}

/// Where a released slot goes.
#[derive(Debug, PartialEq, Eq)]
pub enum HandOff<B> {
    /// To this resumed body.
    Resumed(B),
    /// To the next new body.
    New,
    /// Nowhere: it is free now.
    Free,
}

impl<B> Slots<B> {
    /// A machine with `total` slots, all free.
    #[must_use]
    pub fn new(total: u32) -> Self {
        Self { free: (0..total).rev().collect(), total, resumed: VecDeque::new(), streak: 0 }
    }

    /// How many slots there are.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total
    }

    /// How many are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// How many resumed bodies wait for one.
    #[must_use]
    pub fn resumed(&self) -> usize {
        self.resumed.len()
    }

    /// A new body wants a slot.
    pub fn acquire(&mut self) -> Option<SlotNo> {
        self.free.pop()
    }

    /// A deferred body of the usual priority resumes: it gets a slot now, or queues for one.
    pub fn resume(&mut self, body: B) -> Option<(SlotNo, B)> {
        self.resume_ranked(body, 0)
    }

    /// A deferred body resumes: it gets a slot now, or queues for one.
    pub fn resume_ranked(&mut self, body: B, priority: i32) -> Option<(SlotNo, B)> {
        if let Some(slot) = self.free.pop() {
            return Some((slot, body));
        }
        let before = self.resumed.iter().rposition(|(other, _)| *other >= priority);
        self.resumed.insert(before.map_or(0, |at| at + 1), (priority, body));
        None
    }

    /// A slot is released; `new_waits` says whether a new body could use it.
    pub fn release(&mut self, slot: SlotNo, new_waits: bool) -> HandOff<B> {
        let turn_of_new = self.streak + 1 >= NEW_EVERY;
        if !(turn_of_new && new_waits)
            && let Some((_, body)) = self.resumed.pop_front()
        {
            self.streak = self.streak.saturating_add(1);
            return HandOff::Resumed(body);
        }
        if new_waits {
            self.streak = 0;
            return HandOff::New;
        }
        self.free.push(slot);
        HandOff::Free
    }

    /// A holder is between two bodies: the resumed body that gets its slot, if it is the turn of one.
    pub fn yield_to_resumed(&mut self, slot: SlotNo) -> Option<B> {
        if self.resumed.is_empty() {
            return None;
        }
        match self.release(slot, true) {
            HandOff::Resumed(body) => Some(body),
            HandOff::New | HandOff::Free => None,
        }
    }

    /// Takes resumed bodies out of the queue, because they are suspended. True if there was one.
    pub fn withdraw(&mut self, is: impl Fn(&B) -> bool) -> bool {
        let before = self.resumed.len();
        self.resumed.retain(|(_, body)| !is(body));
        self.resumed.len() < before
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_released_slot_goes_to_the_body_that_waited_longest() {
        let mut slots = Slots::new(1);
        let slot = slots.acquire().unwrap();
        assert_eq!(slots.acquire(), None);
        assert_eq!(slots.resume('a'), None);
        assert_eq!(slots.resume('b'), None);
        assert_eq!(slots.release(slot, true), HandOff::Resumed('a'));
        assert_eq!(slots.release(slot, true), HandOff::Resumed('b'));
        assert_eq!(slots.release(slot, true), HandOff::New);
        assert_eq!(slots.release(slot, false), HandOff::Free);
        assert_eq!(slots.resume('c'), Some((slot, 'c')));
    }

    #[test]
    fn a_higher_priority_goes_first_and_equal_ones_keep_their_order() {
        let mut slots = Slots::new(1);
        let slot = slots.acquire().unwrap();
        for (body, priority) in [('a', 0), ('b', 5), ('c', 0), ('d', -1), ('e', 5), ('f', 0)] {
            assert_eq!(slots.resume_ranked(body, priority), None);
        }
        let order: Vec<_> = std::iter::from_fn(|| slots.yield_to_resumed(slot)).collect();
        assert_eq!(order, ['b', 'e', 'a', 'c', 'f', 'd']);
    }

    #[test]
    fn one_hand_off_in_eight_is_new_work_while_resumed_bodies_wait() {
        let mut slots = Slots::new(1);
        let slot = slots.acquire().unwrap();
        for body in 0..100 {
            assert_eq!(slots.resume(body), None);
        }
        let order: Vec<bool> = (0..32).map(|_| slots.yield_to_resumed(slot).is_none()).collect();
        let expected: Vec<bool> = (0..32).map(|n| n % 8 == 7).collect();
        assert_eq!(order, expected);
    }

    #[test]
    fn slots_are_neither_lost_nor_made() {
        let mut slots: Slots<u32> = Slots::new(3);
        let taken: Vec<_> = std::iter::from_fn(|| slots.acquire()).collect();
        assert_eq!(taken.len(), 3);
        for slot in taken {
            assert_eq!(slots.release(slot, false), HandOff::Free);
        }
        assert_eq!((slots.free(), slots.total()), (3, 3));
    }
}
