//! When the alarms of an engine ring next: for who moves a clock by hand.

use std::time::Duration;

/// What an alarm is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmKind {
    /// It ends something: a wait, the delay of a retry.
    Ending,
    /// It polls a wait without a deadline.
    Endless,
    /// It comes again and again, whether or not anything waits: the tick of a schedule, the poll of a watch.
    Recurring,
}

impl AlarmKind {
    /// That of a poll.
    pub(crate) const fn of_poll(is_endless: bool) -> Self {
        if is_endless { Self::Endless } else { Self::Ending }
    }
}

/// What rings next, by the steady clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Due {
    /// The first alarm that ends something.
    pub ending: Option<Duration>,
    /// The first and the last poll of waits without a deadline.
    pub endless: Option<(Duration, Duration)>,
    /// The first and the last alarm that comes again and again.
    pub recurring: Option<(Duration, Duration)>,
}

impl Due {
    /// Adds an alarm.
    pub fn add(&mut self, due: Duration, kind: AlarmKind) {
        let several = match kind {
            AlarmKind::Ending => {
                self.ending = Some(self.ending.map_or(due, |first| first.min(due)));
                return;
            }
            AlarmKind::Endless => &mut self.endless,
            AlarmKind::Recurring => &mut self.recurring,
        };
        let (first, last) = several.unwrap_or((due, due));
        *several = Some((first.min(due), last.max(due)));
    }

    /// Adds those of another engine.
    pub fn merge(&mut self, other: Self) {
        other.ending.into_iter().for_each(|due| self.add(due, AlarmKind::Ending));
        for (several, kind) in [(other.endless, AlarmKind::Endless), (other.recurring, AlarmKind::Recurring)] {
            several.into_iter().flat_map(|(first, last)| [first, last]).for_each(|due| self.add(due, kind));
        }
    }

    /// The first of all that ends or polls a wait.
    #[must_use]
    pub fn first_of_waits(&self) -> Option<Duration> {
        self.ending.into_iter().chain(self.endless.map(|(first, _)| first)).min()
    }

    /// The first of all.
    #[must_use]
    pub fn first(&self) -> Option<Duration> {
        self.first_of_waits().into_iter().chain(self.recurring.map(|(first, _)| first)).min()
    }
}
