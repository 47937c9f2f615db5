//! When the alarms of an engine ring next: for who moves a clock by hand.

use std::time::Duration;

/// What rings next, by the steady clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Due {
    /// The first alarm that is not the poll of a wait without a deadline.
    pub ending: Option<Duration>,
    /// The first and the last poll of waits without a deadline.
    pub endless: Option<(Duration, Duration)>,
}

impl Due {
    /// Adds an alarm.
    pub fn add(&mut self, due: Duration, is_endless: bool) {
        if is_endless {
            let (first, last) = self.endless.unwrap_or((due, due));
            self.endless = Some((first.min(due), last.max(due)));
        } else {
            self.ending = Some(self.ending.map_or(due, |first| first.min(due)));
        }
    }

    /// Adds those of another engine.
    pub fn merge(&mut self, other: Self) {
        other.ending.into_iter().for_each(|due| self.add(due, false));
        other.endless.into_iter().flat_map(|(first, last)| [first, last]).for_each(|due| self.add(due, true));
    }

    /// The first of all.
    #[must_use]
    pub fn first(&self) -> Option<Duration> {
        self.ending.into_iter().chain(self.endless.map(|(first, _)| first)).min()
    }
}
