//! The waits of a body, as it states them; `body.rs` drives them.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bide_core::attempt::{Action, CallError, Fed, Request, Within, now_value, read_now};
use bide_core::{PollPolicy, Time, Tolerance, Value};
use serde::Serialize;

use super::answer::Answer;
use super::body::BodyState;
use super::closures::BoxFuture;
use super::codec::{encode, stored_time};
use super::handle::TaskHandle;
use super::task_error::TaskError;
use super::within;

/// A wait for a condition, to be awaited.
#[must_use = "a wait does nothing unless it is awaited"]
pub struct DeferUntil<'a, F> {
    /// The handle of the body that waits.
    handle: TaskHandle,
    /// What is polled.
    condition: F,
    /// When it is polled.
    policy: PollPolicy,
    /// How long the wait may take.
    timeout: Option<Duration>,
    /// The name under which the wait is recorded.
    name: Arc<str>,
    /// `None`: never provably the same. Awaiting the wait returns its error.
    proof: Option<Result<Value, String>>,
    /// The condition may borrow from its body.
    borrows: PhantomData<&'a ()>,
}

impl<F> DeferUntil<'_, F> {
    /// How long it may stay open, from when it was first opened: a restart does not extend it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The factor by which each further interval grows, and the longest interval.
    pub fn backoff(mut self, factor: f64, max_every: Duration) -> Self {
        self.policy.backoff = factor;
        self.policy.max_every = max_every;
        self
    }

    /// The share of an interval by which it is varied.
    pub fn jitter(mut self, share: f64) -> Self {
        self.policy.jitter = share;
        self
    }

    /// What happens when the condition fails.
    pub fn on_error(mut self, tolerate: Tolerance) -> Self {
        self.policy.tolerate = tolerate;
        self
    }

    /// Its name in the journal, instead of the closure's type. With a name the record survives moving the code.
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// All that the condition depends on. A satisfied wait is reused on re-entry only if this is what it was then;
    /// without it the condition is asked again.
    pub fn given<T: Serialize + ?Sized>(mut self, captured: &T) -> Self {
        self.proof = Some(encode(captured));
        self
    }
}

impl<'a, F, R> IntoFuture for DeferUntil<'a, F>
where
    F: FnMut() -> R + Send + 'a,
    R: Future<Output: Answer> + Send + 'a,
{
    type Output = Result<<R::Output as Answer>::Value, TaskError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { handle, mut condition, policy, timeout, name, proof, .. } = self;
            policy.validate().map_err(|error| TaskError::definition(&format!("'{name}': {}", error.0)))?;
            let proof = proof.transpose().map_err(|why| {
                TaskError::definition(&format!("'{name}': what the condition depends on cannot be stored: {why}"))
            })?;
            let proof = proof.map(|value| Arc::from(value.as_bytes()));
            let request = Request::Condition { proof, policy, timeout };
            let waited = handle.0.wait_condition(&name, request, &mut condition).await;
            handle.decoded(&name, &waited.map_err(TaskError::of_call)?)
        })
    }
}

impl TaskHandle {
    /// Waits until a condition holds, without a slot: other tasks execute meanwhile. It is asked once at once, then at
    /// this interval. Returns what it answered: `true`, or the value that its `Option` had.
    ///
    /// Limit it with [`timeout`](DeferUntil::timeout) rather than by dropping it: a body that drops an open wait goes
    /// on without a slot until its next wait has ended.
    pub fn defer_until<'a, F, R>(&self, condition: F, poll_interval: Duration) -> DeferUntil<'a, F>
    where
        F: FnMut() -> R + Send + 'a,
        R: Future<Output: Answer> + Send + 'a,
    {
        DeferUntil {
            handle: self.clone(),
            condition,
            policy: PollPolicy::every(poll_interval),
            timeout: None,
            name: std::any::type_name::<F>().into(),
            proof: None,
            borrows: PhantomData,
        }
    }

    /// Sleeps without a slot. The time is recorded: a restart neither shortens nor extends it.
    ///
    /// # Errors
    /// The body is to return.
    pub async fn sleep(&self, span: Duration) -> Result<(), TaskError> {
        self.0.wait_time("sleep", Request::After(span)).await.map_err(TaskError::of_call)
    }

    /// Sleeps without a slot until a point in time.
    ///
    /// # Errors
    /// The body is to return.
    pub async fn sleep_until(&self, time: SystemTime) -> Result<(), TaskError> {
        let request = Request::Until(stored_time(time));
        self.0.wait_time("sleep_until", request).await.map_err(TaskError::of_call)
    }

    /// The time, as recorded when the body first asked: the same on re-entry.
    ///
    /// # Errors
    /// The body is to return; or what is recorded is no time.
    pub async fn now(&self) -> Result<SystemTime, TaskError> {
        let body = &self.0;
        let recorded =
            body.record("now", Value::NONE.as_bytes().into(), || now_value(body.engine().clock().now())).await;
        let time = recorded.and_then(|value| read_now(body.task_name(), &value)).map_err(TaskError::of_call)?;
        Ok(UNIX_EPOCH + time.since(Time(0)))
    }
}

impl BodyState {
    async fn wait_condition<F, R>(
        &self,
        name: &Arc<str>,
        request: Request,
        condition: &mut F,
    ) -> Result<Value, CallError>
    where
        F: FnMut() -> R,
        R: Future<Output: Answer>,
    {
        let mut call = self.begin(name, request)?;
        let mut fed = Fed::Begin;
        loop {
            fed = match self.drive(&mut call, fed).await {
                Action::Ask => Fed::Asked(within::run(Within::Condition, &mut *condition).await.polled()),
                // What proves it is a value that was stated before.
                Action::Prove => Fed::Proved(true),
                Action::Done(result) => return result,
                action => unreachable!("{action:?} of a wait for a condition"),
            };
        }
    }

    async fn wait_time(&self, name: &str, request: Request) -> Result<(), CallError> {
        let mut call = self.begin(&name.into(), request)?;
        match self.drive(&mut call, Fed::Begin).await {
            Action::Done(result) => result.map(drop),
            action => unreachable!("{action:?} of a wait for a time"),
        }
    }
}
