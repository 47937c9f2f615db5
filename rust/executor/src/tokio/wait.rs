//! The waits of a body, as it states them; `body.rs` drives them.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bide_core::attempt::{Action, CallError, Fed, Polled, Request, Within, now_value, read_now};
use bide_core::{DefinitionError, Failure, FailureKind, PollPolicy, RunId, Time, Tolerance, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answer::Answer;
use super::body::BodyState;
use super::closures::BoxFuture;
use super::codec::{encode, stored_time};
use super::combine::Waits;
use super::context::Scope;
use super::handle::TaskHandle;
use super::kinds::{IntoWait, Kind, Outcome, Outcomes, Wait, signal};
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

/// A wait of a body, to be awaited.
#[must_use = "a wait does nothing unless it is awaited"]
pub struct Waiting<'a, T> {
    /// The handle of the body that waits.
    handle: TaskHandle,
    /// What it waits for.
    wait: Wait<'a, T>,
}

impl<T> Waiting<'_, T> {
    /// As [`Wait::timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { wait: self.wait.timeout(timeout), ..self }
    }

    /// As [`Wait::named`].
    pub fn named(self, name: impl Into<Arc<str>>) -> Self {
        Self { wait: self.wait.named(name), ..self }
    }
}

impl<'a, T: 'a> IntoFuture for Waiting<'a, T> {
    type Output = Result<T, TaskError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { handle, wait } = self;
            let body = &handle.0;
            let refused = |why: &str| TaskError::definition(&format!("task '{}': {why}", body.task_name()));
            wait.validate().map_err(|DefinitionError(why)| refused(&why))?;
            let outcomes = body.wait_parts(&wait).await?;
            let (task, of_body) = (body.task_name(), || handle.clone());
            let error = match (wait.finish)(&Outcomes { task, parts: &outcomes, handle: &of_body }) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            body.refuse_unread(&wait, &outcomes, &error).await;
            Err(error)
        })
    }
}

impl TaskHandle {
    /// Waits for anything that can be waited for, without a slot. See [`wait_any`](Self::wait_any) and
    /// [`wait_all`](Self::wait_all) for several at once.
    pub fn wait<'a, W: IntoWait<'a>>(&self, wait: W) -> Waiting<'a, W::Value> {
        Waiting { handle: self.clone(), wait: wait.into_wait() }
    }

    /// Waits for a signal of this name to the run, without a slot; returns its value. Short for
    /// `handle.wait(signal(name))`.
    pub fn wait_for<'a, T: DeserializeOwned + 'a>(&self, name: impl Into<Arc<str>>) -> Waiting<'a, T> {
        self.wait(signal(name))
    }

    /// Waits for the first of several, without a slot. Which one came is decided once, in one commit; the others are
    /// withdrawn, and a signal that comes for one of them later is kept for another wait.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use bide_executor::{TaskContext, TaskError, after, signal};
    /// # async fn body(cx: TaskContext) -> Result<String, TaskError> {
    /// let day = Duration::from_secs(86_400);
    /// match cx.handle().wait_any((signal::<String>("decision"), after(day))).await? {
    ///     (Some(decision), _) => Ok(decision),
    ///     _ => Ok("nobody has decided".to_owned()),
    /// }
    /// # }
    /// ```
    pub fn wait_any<'a, W: Waits<'a>>(&self, waits: W) -> Waiting<'a, W::Any> {
        self.wait(waits.any())
    }

    /// Waits for all of several at once, without a slot; returns their values. The first one that fails ends it.
    pub fn wait_all<'a, W: Waits<'a>>(&self, waits: W) -> Waiting<'a, W::All> {
        self.wait(waits.all())
    }

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

    /// Waits for these parts. Returns what became of each.
    async fn wait_parts<T>(&self, wait: &Wait<'_, T>) -> Result<Vec<Outcome>, TaskError> {
        let (requests, before) = wait.requests();
        self.run.check_declared(self.task.ix, &requests).map_err(TaskError::of_call)?;
        self.check_children(wait).map_err(TaskError::of_call)?;
        let names: Vec<_> = requests.iter().map(|part| Arc::clone(&part.name)).collect();
        let mut call = self.begin(&names[0], Request::of_parts(requests)).map_err(TaskError::of_call)?;
        let mut fed = Fed::Begin;
        let waited = loop {
            fed = match self.drive(&mut call, fed).await {
                Action::Ask => Fed::Asked(self.ask(wait, 0).await),
                Action::AskPart(part) => Fed::Asked(self.ask(wait, part - before).await),
                // What proves it is a value that was stated before.
                Action::Prove | Action::ProvePart(_) => Fed::Proved(true),
                Action::Done(result) => break result,
                action => unreachable!("{action:?} of a wait"),
            };
        };
        let ends = call.outcomes(&self.run.state.lock());
        let ends = match waited {
            Ok(value) if ends.is_empty() => vec![Some(Ok(value))],
            Ok(_) => ends,
            Err(CallError::Failed(failure)) => {
                if let Some(error) = all_failed(wait, &names, &ends) {
                    return Err(error);
                }
                let ends = if ends.is_empty() { vec![Some(Err(failure.clone()))] } else { ends };
                return Err(match failed_child(wait, &ends, &failure) {
                    Some(child) => self.child_failed(child).await,
                    None => TaskError::failed(failure),
                });
            }
            Err(error) => return Err(TaskError::of_call(error)),
        };
        let mut outcomes = Vec::with_capacity(wait.parts.len());
        for ((name, end), part) in names.into_iter().zip(ends).skip(before).zip(&wait.parts) {
            let value = end.and_then(Result::ok);
            let child = match part.kind {
                Kind::Child(run) if value.is_some() => Some(self.child_result(run).await?),
                _ => None,
            };
            outcomes.push(Outcome { name, value, child });
        }
        Ok(outcomes)
    }

    async fn ask<T>(&self, wait: &Wait<'_, T>, part: usize) -> Polled {
        match &wait.parts[part].kind {
            Kind::Condition(condition) => {
                let scope = Scope::new(&self.run, self.task);
                within::run(Within::Condition, || (condition.ask)(scope)).await
            }
            _ => unreachable!("only a condition is asked"),
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

/// The child run whose failure is that of a wait.
fn failed_child<T>(wait: &Wait<'_, T>, ends: &[Option<Result<Value, Failure>>], failure: &Failure) -> Option<RunId> {
    wait.parts.iter().zip(ends).find_map(|(part, end)| match (&part.kind, end) {
        (Kind::Child(run), Some(Err(of))) if of.kind == FailureKind::ChildFailed && of == failure => Some(*run),
        _ => None,
    })
}

/// The failure of a wait for the first of several that have all failed: it says how each of them did.
fn all_failed<T>(wait: &Wait<'_, T>, names: &[Arc<str>], ends: &[Option<Result<Value, Failure>>]) -> Option<TaskError> {
    let Kind::Any(members) = &wait.parts[0].kind else { return None };
    let failed = members.iter().map(|member| match ends.get(*member)? {
        Some(Err(failure)) => Some(format!("'{}': {failure}", names[*member])),
        _ => None,
    });
    let failed: Vec<_> = failed.collect::<Option<_>>()?;
    let message = format!("all {} waits of '{}' failed: {}", failed.len(), names[0], failed.join("; "));
    Some(TaskError::failed(Failure::new(FailureKind::Raised, "bide.TaskError", &message)))
}
