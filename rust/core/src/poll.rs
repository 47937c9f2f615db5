//! When a condition is polled next, and when its errors end the wait. The executor polls it.

use std::time::Duration;

use crate::definition::DefinitionError;
use crate::retry::{grown, growth};
use crate::time::Time;

/// What a wait does with exceptions of its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// The first one ends the wait.
    Raise,
    /// They count as "not yet".
    Ignore,
    /// This many in a row end the wait with the last, once this span has passed since the first of them.
    Tolerate(u32, Duration),
}

impl Tolerance {
    /// The fifth error in a row, if half a minute has passed since the first: a short outage is survived however often
    /// it is polled.
    pub const DEFAULT: Self = Self::Tolerate(5, Duration::from_secs(30));
}

impl Default for Tolerance {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How often a condition is polled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PollPolicy {
    /// From the first check to the second.
    pub every: Duration,
    /// Factor by which each further interval grows.
    pub backoff: f64,
    /// No interval is longer.
    pub max_every: Duration,
    /// Share of an interval by which it is varied, both ways: 0 not at all, 1 wholly.
    pub jitter: f64,
    /// What happens when the condition raises.
    pub tolerate: Tolerance,
}

impl PollPolicy {
    /// A steady poll, without jitter.
    #[must_use]
    pub const fn every(every: Duration) -> Self {
        Self { every, backoff: 1.0, max_every: Duration::MAX, jitter: 0.0, tolerate: Tolerance::DEFAULT }
    }

    /// Checks that the policy can work.
    ///
    /// # Errors
    /// Names the field and its value.
    pub fn validate(&self) -> Result<(), DefinitionError> {
        if self.every.is_zero() {
            return Err(DefinitionError("poll: every must be more than zero".to_owned()));
        }
        growth("poll", self.backoff, self.jitter)?;
        if self.max_every < self.every {
            return Err(DefinitionError(format!(
                "poll: max_every ({:?}) is shorter than every ({:?})",
                self.max_every, self.every
            )));
        }
        if matches!(self.tolerate, Tolerance::Tolerate(0, _)) {
            return Err(DefinitionError("poll: tolerate must be at least 1; to tolerate none, raise".to_owned()));
        }
        Ok(())
    }
}

/// One wait's polls.
#[derive(Clone, Debug)]
pub struct Poll {
    /// From the first check to the second.
    every: Duration,
    /// When to poll, and which exceptions to tolerate; `None` if that is as in [`PollPolicy::every`]: many wait at once.
    policy: Option<Box<PollPolicy>>,
    /// The polls so far.
    progress: Progress,
}

/// What has to be kept between two polls of one wait by a caller that keeps the policy elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Polls so far.
    asked: u32,
    /// Polls in a row, up to the last, that raised.
    errors: u32,
    /// When the first of them raised, by the steady clock in microseconds.
    failing_since: u64,
}

impl Progress {
    /// How many polls there were.
    #[must_use]
    pub const fn polls(self) -> u32 {
        self.asked
    }
}

impl Poll {
    /// Before the first check.
    #[must_use]
    pub fn new(policy: PollPolicy) -> Self {
        Self::with_progress(policy, Progress { asked: 0, errors: 0, failing_since: 0 })
    }

    /// Continues the polls of a wait.
    #[must_use]
    pub fn with_progress(policy: PollPolicy, progress: Progress) -> Self {
        let every = policy.every;
        let policy = (policy != PollPolicy::every(every)).then(|| Box::new(policy));
        Self { every, policy, progress }
    }

    fn policy(&self) -> PollPolicy {
        self.policy.as_deref().copied().unwrap_or(PollPolicy::every(self.every))
    }

    /// To be passed to [`Poll::with_progress`].
    #[must_use]
    pub const fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether [`Poll::next`] uses its random number.
    #[must_use]
    pub fn is_random(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.jitter > 0.0)
    }

    /// When to poll again, after a poll that has just ended without satisfying the wait.
    ///
    /// Never later than the deadline, so that the condition is polled one last time when it is reached. A poll that
    /// ends at the deadline or later was the last one: the wait has timed out. `random` lies in `0.0..1.0`.
    pub fn next(&mut self, now: Time, deadline: Option<Time>, random: f64) -> Time {
        let PollPolicy { every, backoff, max_every, jitter, .. } = self.policy();
        let interval = grown(every, backoff, self.progress.asked, max_every, jitter, random);
        self.progress.asked = self.progress.asked.saturating_add(1);
        let due = now.after(interval.max(Duration::from_micros(1)));
        deadline.map_or(due, |deadline| due.min(deadline))
    }

    /// The condition raised at this time of the steady clock; true if that ends the wait.
    #[must_use]
    pub fn failed(&mut self, steady: Duration) -> bool {
        let now = u64::try_from(steady.as_micros()).unwrap_or(u64::MAX);
        if self.progress.errors == 0 {
            self.progress.failing_since = now;
        }
        self.progress.errors = self.progress.errors.saturating_add(1);
        match self.policy().tolerate {
            Tolerance::Raise => true,
            Tolerance::Ignore => false,
            Tolerance::Tolerate(most, span) => {
                let failing = now.saturating_sub(self.progress.failing_since);
                self.progress.errors >= most && Duration::from_micros(failing) >= span
            }
        }
    }

    /// Whether it has raised at the last poll, and will end the wait if it goes on raising.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.progress.errors > 0 && matches!(self.policy().tolerate, Tolerance::Tolerate(..))
    }

    /// The condition returned something: the count of errors in a row starts again from zero.
    pub fn ok(&mut self) {
        self.progress.errors = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn dues(policy: PollPolicy, deadline: Option<Time>, count: usize) -> Vec<i64> {
        let (mut poll, mut now) = (Poll::new(policy), Time(0));
        (0..count)
            .map(|_| {
                now = poll.next(now, deadline, 0.5);
                now.0 / 1000
            })
            .collect()
    }

    #[test]
    fn a_steady_poll_is_steady_and_its_last_check_is_at_the_deadline() {
        assert_eq!(dues(PollPolicy::every(SECOND), None, 3), [1000, 2000, 3000]);
        assert_eq!(dues(PollPolicy::every(SECOND), Some(Time(2_500_000)), 3), [1000, 2000, 2500]);
    }

    #[test]
    fn intervals_grow_up_to_the_longest() {
        let policy = PollPolicy { backoff: 2.0, max_every: 3 * SECOND, ..PollPolicy::every(SECOND) };
        assert_eq!(dues(policy, None, 4), [1000, 3000, 6000, 9000]);
        let unlimited = PollPolicy { backoff: 1e9, jitter: 1.0, ..PollPolicy::every(SECOND) };
        assert_eq!(
            Poll::with_progress(unlimited, Progress { asked: u32::MAX, ..Progress::default() }).next(
                Time(5),
                None,
                0.9
            ),
            Time::NEVER
        );
    }

    #[test]
    fn only_errors_in_a_row_end_the_wait() {
        let tolerate = Tolerance::Tolerate(2, Duration::ZERO);
        let mut poll = Poll::new(PollPolicy { tolerate, ..PollPolicy::every(SECOND) });
        assert!(!poll.failed(SECOND));
        poll.ok();
        assert!(!poll.failed(SECOND) && poll.failed(SECOND));
        assert!(Poll::new(PollPolicy { tolerate: Tolerance::Raise, ..PollPolicy::every(SECOND) }).failed(SECOND));
        let mut patient = Poll::new(PollPolicy { tolerate: Tolerance::Ignore, ..PollPolicy::every(SECOND) });
        assert!((0..100).all(|_| !patient.failed(SECOND)));
    }

    #[test]
    fn errors_end_the_wait_once_enough_have_come_for_long_enough() {
        let mut poll = Poll::new(PollPolicy::every(SECOND));
        assert!((100..130).all(|second| !poll.failed(second * SECOND)), "thirty errors in 29 s are an outage");
        assert!(poll.failed(130 * SECOND), "30 s after the first");
        poll.ok();
        assert!((0..4).all(|hour| !poll.failed(hour * 3600 * SECOND)), "four errors in four hours are too few");
        assert!(poll.failed(4 * 3600 * SECOND));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let good = PollPolicy::every(SECOND);
        assert_eq!(good.validate(), Ok(()));
        let bad = [
            (PollPolicy { every: Duration::ZERO, ..good }, "every"),
            (PollPolicy { backoff: 0.9, ..good }, "backoff"),
            (PollPolicy { jitter: 2.0, ..good }, "jitter"),
            (PollPolicy { max_every: SECOND / 2, ..good }, "max_every"),
            (PollPolicy { tolerate: Tolerance::Tolerate(0, SECOND), ..good }, "tolerate"),
        ];
        for (policy, field) in bad {
            let refused = policy.validate().is_err_and(|error| error.0.starts_with(&format!("poll: {field} ")));
            assert!(refused, "{policy:?}");
        }
    }

    proptest! {
        #[test]
        fn a_poll_is_always_ahead_and_never_behind_the_deadline(
            every in 1u64.., backoff in 1.0..10.0f64, jitter in 0.0..=1.0f64, random in 0.0..1.0f64, asked: u32,
            now in 0i64..1 << 60, left in 0i64..1 << 60,
        ) {
            let policy = PollPolicy { backoff, jitter, ..PollPolicy::every(Duration::from_micros(every)) };
            let mut poll = Poll::with_progress(policy, Progress { asked, ..Progress::default() });
            let (now, deadline) = (Time(now), Time(now + left));
            let due = poll.next(now, Some(deadline), random);
            prop_assert!(due <= deadline && (due > now || due == deadline));
            prop_assert!(poll.next(now, None, random) > now);
        }
    }
}
