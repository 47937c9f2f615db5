//! Waits between two polls, as the loop keeps them. What is asked of them: `poll.rs`.

use bide_executor::place_of;

use crate::gil::Kept;

/// A wait that rests.
pub(super) struct Resting {
    /// The `PyCall`.
    pub(super) call: Kept,
    /// The `asyncio.Future` that is completed when its task is to continue.
    pub(super) future: Kept,
    /// Its condition, a coroutine function.
    pub(super) condition: Kept,
}

/// All of a loop, by the places in their tickets.
#[derive(Default)]
pub(super) struct AllResting(Vec<Option<(u32, Resting)>>);

impl AllResting {
    pub(super) fn keep(&mut self, ticket: u64, resting: Resting) -> Option<(u32, Resting)> {
        let place = place_of(ticket);
        if place >= self.0.len() {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place].replace(((ticket >> 32) as u32, resting))
    }

    pub(super) fn take(&mut self, ticket: u64) -> Option<Resting> {
        let place = self.0.get_mut(place_of(ticket))?;
        place.take_if(|(generation, _)| u64::from(*generation) == ticket >> 32).map(|(_, resting)| resting)
    }

    pub(super) fn get(&self, ticket: u64) -> Option<&Resting> {
        let (generation, resting) = self.0.get(place_of(ticket))?.as_ref()?;
        (u64::from(*generation) == ticket >> 32).then_some(resting)
    }
}
