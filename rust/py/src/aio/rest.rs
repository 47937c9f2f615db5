//! Waits between two polls, as the loop keeps them. What is asked of them: `poll.rs`.

use bide_executor::place_of;

use crate::gil::Kept;

/// A wait that rests.
pub(super) struct Resting {
    /// The `PyCall`.
    pub(super) call: Kept,
    /// The `asyncio.Future` that is completed when its task is to continue. `None`: its body has no task.
    pub(super) future: Option<Kept>,
}

/// All of a loop, by the places in their tickets.
#[derive(Default)]
pub(super) struct AllResting(Vec<Option<Resting>>);

impl AllResting {
    pub(super) fn keep(&mut self, ticket: u64, resting: Resting) -> Option<Resting> {
        let place = place_of(ticket);
        if place >= self.0.len() {
            self.0.reserve_exact(if place < self.0.capacity() { 0 } else { place / 8 + 64 });
            self.0.resize_with(place + 1, || None);
        }
        self.0[place].replace(resting)
    }

    pub(super) fn take(&mut self, ticket: u64) -> Option<Resting> {
        self.0.get_mut(place_of(ticket))?.take()
    }

    pub(super) fn get(&self, ticket: u64) -> Option<&Resting> {
        self.0.get(place_of(ticket))?.as_ref()
    }
}
