//! Limits in worlds.

use std::fmt;

use super::super::rng::Rng;
use super::{Act, Case, TaskPlan};

/// One of the few limits of every world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// One body executes.
    One,
    /// Two attempts are in flight.
    Flight,
    /// Three attempts are in flight, one of which executes.
    Both,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Limit {
    /// How many bodies may execute.
    pub(in super::super) const fn executing(self) -> Option<u32> {
        match self {
            Self::One | Self::Both => Some(1),
            Self::Flight => None,
        }
    }

    /// How many attempts may be in flight.
    pub(in super::super) const fn in_flight(self) -> Option<u32> {
        match self {
            Self::One => None,
            Self::Flight => Some(2),
            Self::Both => Some(3),
        }
    }
}

impl TaskPlan {
    /// Whether others go on if this one keeps its share while it waits.
    fn waits_for_itself(&self) -> bool {
        !self.acts.iter().any(|act| matches!(act, Act::Forever | Act::Starts(_) | Act::Joins(_)))
    }
}

impl Case {
    /// The same world with limits on some of its tasks: not where a run may wait for ever for a share, or end because of
    /// it.
    pub(super) fn limited(mut self, rng: &mut Rng) -> Self {
        if self.limit.is_some() || !rng.one_in(3) {
            return self;
        }
        let kills = self.tasks.iter().flat_map(|task| &task.acts).any(|act| matches!(act, Act::Kills(_)));
        for task in &mut self.tasks {
            let limit = [Limit::One, Limit::Flight, Limit::Both][rng.below(3)];
            let fits = limit.in_flight().is_none() || (!kills && task.waits_for_itself());
            task.limit = Some(limit).filter(|_| fits && !rng.one_in(3));
        }
        self
    }
}
