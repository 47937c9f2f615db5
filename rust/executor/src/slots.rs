//! The slot machine: who may execute now. No I/O, threads or clock; the pool and the async dispatcher carry out what
//! it decides, and a simulator can too.
//!
//! | what happens                        | what is decided                                                     |
//! |-------------------------------------|---------------------------------------------------------------------|
//! | a new body wants a slot             | a free one, unless resumed bodies wait; else it stays queued        |
//! | a deferred body's wait is satisfied | a free slot at once, else it queues, first come first served         |
//! | a slot is given back                | handed on: to a resumed body, every eighth time to a new one; else free |
//! | a holder is between two bodies      | keeps its slot, unless a resumed body waits and it is not the eighth |
//!
//! Slots are numbered; the number moves with the right, so that what belongs to a slot (its deque, its gathered
//! results) is never touched by two threads. Resumed bodies go first so that finished waits do not queue behind new
//! work; one in [`NEW_EVERY`] is new so that new work never starves.

use std::collections::VecDeque;

/// One hand-over in so many goes to new work while resumed bodies wait.
pub const NEW_EVERY: u32 = 8;

/// A slot's number.
pub type SlotNo = u32;

/// The slot machine. `B` names a deferred body.
#[derive(Debug)]
pub struct Slots<B> {
    free: Vec<SlotNo>,
    total: u32,
    resumed: VecDeque<B>,
    /// Hand-overs to resumed bodies since the last to new work.
    streak: u32,
}

/// Where a slot goes that is given back.
#[derive(Debug, PartialEq, Eq)]
pub enum HandOver<B> {
    /// To this resumed body.
    Resumed(B),
    /// To the next new body.
    New,
    /// To nobody: it is free now.
    Free,
}

impl<B> Slots<B> {
    /// A machine with so many slots, all free.
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
    pub fn take_new(&mut self) -> Option<SlotNo> {
        self.free.pop()
    }

    /// A deferred body wants to go on: a slot now, or its place in the queue.
    pub fn resume(&mut self, body: B) -> Option<(SlotNo, B)> {
        if let Some(slot) = self.free.pop() {
            return Some((slot, body));
        }
        self.resumed.push_back(body);
        None
    }

    /// A slot is given back; `new_waits` says whether a new body could use it.
    pub fn give_back(&mut self, slot: SlotNo, new_waits: bool) -> HandOver<B> {
        let turn_of_new = self.streak + 1 >= NEW_EVERY;
        if !(turn_of_new && new_waits)
            && let Some(body) = self.resumed.pop_front()
        {
            self.streak = self.streak.saturating_add(1);
            return HandOver::Resumed(body);
        }
        if new_waits {
            self.streak = 0;
            return HandOver::New;
        }
        self.free.push(slot);
        HandOver::Free
    }

    /// A holder has ended one body and would take a new one: whether it hands its slot to a resumed body instead.
    pub fn between(&mut self, slot: SlotNo) -> Option<B> {
        if self.resumed.is_empty() {
            return None;
        }
        match self.give_back(slot, true) {
            HandOver::Resumed(body) => Some(body),
            HandOver::New | HandOver::Free => None,
        }
    }

    /// Takes a resumed body out of the queue (it is suspended). True if it was there.
    pub fn forget(&mut self, is: impl Fn(&B) -> bool) -> bool {
        let before = self.resumed.len();
        self.resumed.retain(|body| !is(body));
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
        let slot = slots.take_new().unwrap();
        assert_eq!(slots.take_new(), None);
        assert_eq!(slots.resume('a'), None);
        assert_eq!(slots.resume('b'), None);
        assert_eq!(slots.give_back(slot, true), HandOver::Resumed('a'));
        assert_eq!(slots.give_back(slot, true), HandOver::Resumed('b'));
        assert_eq!(slots.give_back(slot, true), HandOver::New);
        assert_eq!(slots.give_back(slot, false), HandOver::Free);
        assert_eq!(slots.resume('c'), Some((slot, 'c')));
    }

    #[test]
    fn one_hand_over_in_eight_is_new_work_while_resumed_bodies_wait() {
        let mut slots = Slots::new(1);
        let slot = slots.take_new().unwrap();
        for body in 0..100 {
            assert_eq!(slots.resume(body), None);
        }
        let order: Vec<bool> = (0..32).map(|_| slots.between(slot).is_none()).collect();
        let expected: Vec<bool> = (0..32).map(|n| n % 8 == 7).collect();
        assert_eq!(order, expected);
    }

    #[test]
    fn slots_are_neither_lost_nor_made() {
        let mut slots: Slots<u32> = Slots::new(3);
        let taken: Vec<_> = std::iter::from_fn(|| slots.take_new()).collect();
        assert_eq!(taken.len(), 3);
        for slot in taken {
            assert_eq!(slots.give_back(slot, false), HandOver::Free);
        }
        assert_eq!((slots.free(), slots.total()), (3, 3));
    }
}
