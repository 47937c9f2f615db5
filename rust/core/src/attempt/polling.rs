//! Judges the poll of a condition, for a body's wait and for a gate.

use std::time::Duration;

use super::Clocks;
use crate::entry::EntryKey;
use crate::failure::{Failure, FailureKind};
use crate::poll::{Poll, PollPolicy, Progress};
use crate::time::Time;
use crate::value::Value;

/// What a poll of a condition found.
#[derive(Clone, Debug)]
pub enum Polled {
    /// It holds; its value.
    True(Value),
    /// It does not hold yet.
    False,
    /// It raised.
    Raised(Failure),
    /// Its value cannot be encoded, or it asked for something that a condition must not: the wait fails at once.
    Broken(Failure),
}

/// The polls of one open wait.
#[derive(Clone, Debug)]
pub struct Polling {
    /// The policy, and the polls so far.
    poll: Poll,
    /// When the wait times out. Absolute; [`Time::NEVER`] for one that does not: many wait at once.
    deadline: Time,
    /// When the last answer came, in nanoseconds by the steady clock: the next interval starts there.
    answered: u64,
    /// What the condition raised at the last poll, if the wait continues.
    error: Option<Box<Failure>>,
}

/// The polls of an open wait, for those who look.
#[derive(Clone, Debug)]
pub struct PollReport {
    /// The key of its entry.
    pub key: EntryKey,
    /// How many polls there were.
    pub polls: u32,
    /// When the next one is due, by the steady clock. `None`: it is due when its driver wakes.
    pub due: Option<Duration>,
    /// What the last one raised.
    pub error: Option<Failure>,
}

impl Polling {
    /// How the polls stand, for those who look.
    #[must_use]
    pub fn report(&self, key: &EntryKey, due: Option<Duration>) -> PollReport {
        let (key, polls, error) = (key.clone(), self.progress().polls(), self.error().cloned());
        PollReport { key, polls, due, error }
    }

    /// Before the first poll.
    #[must_use]
    pub fn new(policy: PollPolicy, deadline: Option<Time>) -> Self {
        Self { poll: Poll::new(policy), deadline: or_never(deadline), answered: 0, error: None }
    }

    /// Continues a wait whose progress the caller has kept.
    #[must_use]
    pub fn with_progress(policy: PollPolicy, deadline: Option<Time>, progress: Progress) -> Self {
        Self { poll: Poll::with_progress(policy, progress), deadline: or_never(deadline), answered: 0, error: None }
    }

    /// To be passed to [`Polling::with_progress`].
    #[must_use]
    pub const fn progress(&self) -> Progress {
        self.poll.progress()
    }

    /// How many polls there were, with the one that ends the wait.
    #[must_use]
    pub const fn asked(&self) -> u32 {
        self.progress().polls().saturating_add(1)
    }

    /// Whether it is polled for ever if its condition goes on answering as it has at the last poll.
    #[must_use]
    pub fn is_endless(&self) -> bool {
        self.deadline == Time::NEVER && !self.poll.is_failing()
    }

    /// Sets the deadline that was committed with the wait.
    pub fn set_deadline(&mut self, deadline: Option<Time>) {
        self.deadline = or_never(deadline);
    }

    /// What the condition raised at the last poll, if the wait continues.
    #[must_use]
    pub fn error(&self) -> Option<&Failure> {
        self.error.as_deref()
    }

    /// Judges a poll: the result of the wait, or `None` if it continues. A wait times out only if a poll that ended
    /// after the deadline did not satisfy it.
    pub fn judge(
        &mut self,
        polled: Polled,
        clocks: &dyn Clocks,
        timed_out: impl FnOnce() -> Failure,
    ) -> Option<Result<Value, Failure>> {
        clocks.polled();
        let answered = clocks.steady();
        self.answered = nanos(answered);
        self.error = None;
        match polled {
            Polled::True(value) => return Some(Ok(value)),
            Polled::Broken(failure) => return Some(Err(failure)),
            Polled::False => self.poll.ok(),
            Polled::Raised(failure) if self.poll.failed(answered) => return Some(Err(failure)),
            Polled::Raised(failure) => self.error = Some(Box::new(failure)),
        }
        let late = self.deadline < Time::NEVER && clocks.wall() >= self.deadline;
        late.then(|| Err(timed_out()))
    }

    /// As [`Polling::judge`] and [`Polling::next`] for a poll that has answered no, if that changes nothing else: else
    /// `None`, and nothing was done.
    pub fn not_yet(&mut self, clocks: &dyn Clocks) -> Option<Duration> {
        if self.error.is_some() || (self.deadline < Time::NEVER && clocks.wall() >= self.deadline) {
            return None;
        }
        clocks.polled();
        self.answered = nanos(clocks.steady());
        self.poll.ok();
        Some(self.next(clocks))
    }

    /// How long to sleep until the next poll: the interval counts from the last answer.
    pub fn next(&mut self, clocks: &dyn Clocks) -> Duration {
        // Only the span matters, unless there is a deadline.
        let deadline = Some(self.deadline).filter(|deadline| *deadline < Time::NEVER);
        let wall = if deadline.is_some() { clocks.wall() } else { Time::default() };
        let answered = wall.before(clocks.steady().saturating_sub(Duration::from_nanos(self.answered)));
        let random = if self.poll.is_random() { clocks.random() } else { 0.0 };
        self.poll.next(answered, deadline, random).since(wall)
    }
}

fn or_never(deadline: Option<Time>) -> Time {
    deadline.unwrap_or(Time::NEVER)
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// The failure of a wait whose deadline has passed.
#[must_use]
pub fn timed_out(task: &str, wait: &str) -> Failure {
    let message = format!("task '{task}' waited for '{wait}' until its deadline passed");
    Failure::new(FailureKind::WaitTimeout, "bide.WaitTimeout", &message)
}
