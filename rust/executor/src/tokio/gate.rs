//! Gates, as a workflow states them: waits that are satisfied before a task's body starts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bide_core::attempt::Polled;
use bide_core::{DefinitionError, GateSpec, GateUntil, PollPolicy, Tolerance};

use super::answer::Answer;
use super::closures::BoxFuture;
use super::codec::stored_time;
use super::context::Scope;

pub(super) type GateCondition = Box<dyn Fn(Scope) -> BoxFuture<'static, Polled> + Send + Sync>;

/// A wait on the task itself, satisfied before its body starts: it costs a row and a timer, no slot.
pub struct Wait {
    /// What ends the wait.
    until: GateUntil,
    /// Its name, if it was given one.
    name: Option<Arc<str>>,
    /// How long it may take.
    timeout: Option<Duration>,
    /// When its condition is polled.
    policy: PollPolicy,
    /// The condition; `None` for a wait for a time.
    condition: Option<GateCondition>,
}

/// A condition, asked every second unless [`every`](Wait::every) says otherwise.
#[must_use]
pub fn until<F, R>(condition: F) -> Wait
where
    F: Fn(Scope) -> R + Send + Sync + 'static,
    R: Future<Output: Answer> + Send + 'static,
{
    let condition = Arc::new(condition);
    let condition: GateCondition = Box::new(move |scope| {
        let condition = Arc::clone(&condition);
        Box::pin(async move { condition(scope).await.polled() })
    });
    Wait::new(GateUntil::Condition, Some(condition))
}

/// A span after the task could have started.
#[must_use]
pub fn after(span: Duration) -> Wait {
    Wait::new(GateUntil::After(span), None)
}

/// A point in time.
#[must_use]
pub fn at(time: SystemTime) -> Wait {
    Wait::new(GateUntil::At(stored_time(time)), None)
}

impl Wait {
    fn new(until: GateUntil, condition: Option<GateCondition>) -> Self {
        Self { until, name: None, timeout: None, policy: PollPolicy::every(Duration::from_secs(1)), condition }
    }

    /// How often the condition is asked.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.policy.every = interval;
        self
    }

    /// How the condition is asked, in full.
    #[must_use]
    pub fn policy(mut self, policy: PollPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// What happens when the condition fails.
    #[must_use]
    pub fn on_error(mut self, tolerate: Tolerance) -> Self {
        self.policy.tolerate = tolerate;
        self
    }

    /// How long it may stay shut: then the task fails (and is retried if its policy covers that).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Its name in the journal, instead of `gate`.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    pub(super) fn validate(&self) -> Result<(), DefinitionError> {
        self.policy.validate()
    }

    pub(super) fn into_parts(self) -> (GateSpec, Option<GateCondition>, PollPolicy) {
        let name = self.name.unwrap_or_else(|| "gate".into());
        (GateSpec { name, until: self.until, timeout: self.timeout }, self.condition, self.policy)
    }
}
