//! How often a task is tried again and after what delay. Which failures are retried is the host language's decision.

use std::time::Duration;

use crate::definition::DefinitionError;

/// A task's attempts and the delays between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included; 1 is no retry, and [`RetryPolicy::FOREVER`] has no end.
    pub attempts: u32,
    /// Delay before the second attempt.
    pub delay: Duration,
    /// Factor by which each further delay grows.
    pub backoff: f64,
    /// No delay is longer.
    pub max_delay: Duration,
    /// Share of a delay by which it is varied, both ways: 0 not at all, 1 wholly.
    pub jitter: f64,
    /// A retry starts with an empty journal.
    pub fresh: bool,
}

impl RetryPolicy {
    /// This number of attempts is no limit.
    pub const FOREVER: u32 = u32::MAX;

    /// No retry: the default of a task.
    pub const NONE: Self =
        Self { attempts: 1, delay: Duration::ZERO, backoff: 1.0, max_delay: Duration::ZERO, jitter: 0.0, fresh: false };

    /// This many attempts in all, with delays of 1 s, 2 s, 4 s and so on up to a minute, varied by a quarter.
    #[must_use]
    pub const fn new(attempts: u32) -> Self {
        Self {
            attempts,
            delay: Duration::from_secs(1),
            backoff: 2.0,
            max_delay: Duration::from_secs(60),
            jitter: 0.25,
            fresh: false,
        }
    }

    /// Whether another attempt may follow this one (attempts count from 1).
    #[must_use]
    pub const fn allows_after(&self, attempt: u32) -> bool {
        attempt < self.attempts || self.attempts == Self::FOREVER
    }

    /// Checks that the policy can work.
    ///
    /// # Errors
    /// Names the field and its value.
    pub fn validate(&self) -> Result<(), DefinitionError> {
        if self.attempts == 0 {
            return Err(DefinitionError("retry: attempts must be at least 1, the first one included".to_owned()));
        }
        growth("retry", self.backoff, self.jitter)?;
        if self.max_delay < self.delay {
            return Err(DefinitionError(format!(
                "retry: max_delay ({:?}) is shorter than delay ({:?})",
                self.max_delay, self.delay
            )));
        }
        Ok(())
    }

    /// The delay before this attempt: none before the first, `delay` before the second, then growing.
    ///
    /// `random` lies in `0.0..1.0`.
    #[must_use]
    pub fn delay_before(&self, attempt: u32, random: f64) -> Duration {
        if attempt <= 1 {
            return Duration::ZERO;
        }
        grown(self.delay, self.backoff, attempt - 2, self.max_delay, self.jitter, random)
    }
}

/// Checks a factor and a jitter; `whose` begins the message.
pub(crate) fn growth(whose: &str, backoff: f64, jitter: f64) -> Result<(), DefinitionError> {
    if !(backoff.is_finite() && backoff >= 1.0) {
        return Err(DefinitionError(format!("{whose}: backoff must be a finite number of at least 1, not {backoff}")));
    }
    if !(0.0..=1.0).contains(&jitter) {
        return Err(DefinitionError(format!("{whose}: jitter must lie between 0 and 1, not {jitter}")));
    }
    Ok(())
}

/// A span that has grown `times` times, capped and varied; shared by retries and polls.
///
/// A span that the jitter would lift above `max` is mirrored below it, so that the cap holds and spans at the cap still
/// differ from each other.
pub(crate) fn grown(first: Duration, factor: f64, times: u32, max: Duration, jitter: f64, random: f64) -> Duration {
    if first.is_zero() {
        return Duration::ZERO;
    }
    let cap = max.as_secs_f64();
    // An exponent that is cut off or a product that is infinite is far above any cap.
    let base = (first.as_secs_f64() * factor.powi(i32::try_from(times).unwrap_or(i32::MAX))).min(cap);
    let varied = base * (1.0 + jitter * (2.0 * random - 1.0));
    let held = if varied > cap { 2.0 * cap - varied } else { varied };
    Duration::try_from_secs_f64(held.max(0.0)).unwrap_or(max).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let policy = RetryPolicy { jitter: 0.0, max_delay: Duration::from_secs(6), ..RetryPolicy::new(9) };
        let delays: Vec<u64> = (1..=6).map(|attempt| policy.delay_before(attempt, 0.9).as_secs()).collect();
        assert_eq!(delays, [0, 1, 2, 4, 6, 6]);
        assert_eq!(policy.delay_before(u32::MAX, 0.0), Duration::from_secs(6));
    }

    #[test]
    fn no_retry_allows_one_attempt_and_never_delays() {
        assert_eq!(RetryPolicy::NONE.validate(), Ok(()));
        assert!(!RetryPolicy::NONE.allows_after(1));
        assert!(RetryPolicy::new(2).allows_after(1) && !RetryPolicy::new(2).allows_after(2));
        assert_eq!(RetryPolicy::NONE.delay_before(u32::MAX, 0.5), Duration::ZERO);
    }

    #[test]
    fn a_policy_without_end_allows_every_attempt() {
        let policy = RetryPolicy::new(RetryPolicy::FOREVER);
        assert!(policy.allows_after(1) && policy.allows_after(u32::MAX));
        assert!(policy.delay_before(u32::MAX, 0.5) <= policy.max_delay);
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let good = RetryPolicy::new(3);
        let bad = [
            (RetryPolicy { attempts: 0, ..good }, "attempts"),
            (RetryPolicy { backoff: 0.5, ..good }, "backoff"),
            (RetryPolicy { backoff: f64::NAN, ..good }, "backoff"),
            (RetryPolicy { backoff: f64::INFINITY, ..good }, "backoff"),
            (RetryPolicy { jitter: -0.1, ..good }, "jitter"),
            (RetryPolicy { jitter: 1.1, ..good }, "jitter"),
            (RetryPolicy { jitter: f64::NAN, ..good }, "jitter"),
            (RetryPolicy { max_delay: Duration::from_millis(1), ..good }, "max_delay"),
        ];
        for (policy, field) in bad {
            let refused = policy.validate().is_err_and(|error| error.0.starts_with(&format!("retry: {field} ")));
            assert!(refused, "{policy:?}");
        }
    }

    proptest! {
        #[test]
        fn no_attempt_overflows_and_no_delay_leaves_its_bounds(
            attempt: u32,
            first in 0..=u64::MAX,
            more: u64,
            backoff in 1.0..1e300f64,
            jitter in 0.0..=1.0f64,
            random in 0.0..1.0f64,
        ) {
            let delay = Duration::from_micros(first);
            let policy = RetryPolicy {
                attempts: 1, delay, backoff, max_delay: delay.saturating_add(Duration::from_secs(more)), jitter,
                fresh: false,
            };
            prop_assert_eq!(policy.validate(), Ok(()));
            let got = policy.delay_before(attempt, random);
            prop_assert!(got <= policy.max_delay);
            if attempt > 1 {
                // A nanosecond and the rounding of large spans aside.
                let least = delay.as_secs_f64() * (1.0 - jitter) * (1.0 - 1e-9) - 2e-9;
                prop_assert!(got.as_secs_f64() >= least, "{got:?} {least}");
            }
        }

        #[test]
        fn jitter_spreads_both_ways_and_below_the_cap(random in 0.0..1.0f64) {
            let policy = RetryPolicy { jitter: 0.5, max_delay: Duration::from_secs(2), ..RetryPolicy::new(3) };
            let second = policy.delay_before(2, random).as_secs_f64();
            prop_assert!((second - (0.5 + random)).abs() < 1e-6);
            prop_assert!(policy.delay_before(9, random) <= Duration::from_secs(2));
            prop_assert!(policy.delay_before(9, random) >= Duration::from_secs(1));
        }
    }
}
