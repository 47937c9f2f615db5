//! Runs that a watch starts, in worlds.

use super::super::rng::Rng;
use super::Case;

impl Case {
    /// The same world with a watch, which finds the items of some runs: perhaps nobody else calls for them.
    pub(super) fn watched(mut self, rng: &mut Rng) -> Self {
        if !rng.one_in(4) {
            return self;
        }
        self.watched = self.calls.iter().map(|_| (!rng.one_in(4)).then(|| rng.below(40_000) as u64)).collect();
        for (calls, item) in self.calls.iter_mut().zip(&self.watched) {
            if item.is_some() && !rng.one_in(3) {
                *calls = 0;
            }
        }
        self
    }

    /// Whether there is a watch.
    pub(in super::super) fn has_watch(&self) -> bool {
        self.watched.iter().any(Option::is_some)
    }

    /// Whether the watch finds the item of a run.
    pub(in super::super) fn is_watched(&self, run: usize) -> bool {
        self.watched.get(run).is_some_and(Option::is_some)
    }
}
