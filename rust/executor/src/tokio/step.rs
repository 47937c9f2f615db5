//! Steps and checkpoints of a body, as it states them; `body.rs` drives them.

use std::sync::Arc;

use bide_core::attempt::{Action, CallError, Fed, Request, StepOptions, Within};
use bide_core::event::Retry;
use bide_core::{EntryKey, Failure, RetryPolicy, StepArguments, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::body::BodyState;
use super::closures::Closures;
use super::codec::{encode, serialization_failure};
use super::handle::TaskHandle;
use super::task_error::{BodyEnd, Skip, TaskError};
use super::within;
use crate::host::Host;

/// How a step is found and executed, if otherwise than by [`TaskHandle::step`].
#[derive(Clone, Debug, Default)]
#[must_use = "settings do nothing by themselves"]
pub struct StepSettings {
    /// The caller's key.
    key: Option<Arc<str>>,
    /// It is executed at most once.
    once: bool,
    /// When it is tried again.
    retry: Option<RetryPolicy>,
}

impl StepSettings {
    /// Those of [`TaskHandle::step`].
    pub fn new() -> Self {
        Self::default()
    }

    /// The key says what is the same, instead of the arguments and the order of uses. Steps with different keys may be
    /// under way side by side, and within a step.
    pub fn key(self, key: impl Into<Arc<str>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Executes the step at most once: that it begins is committed first. If the process dies in the middle of it, the
    /// body gets an error when it is entered again, see [`TaskError::is_step_interrupted`].
    pub fn once(self) -> Self {
        Self { once: true, ..self }
    }

    /// Executes the step again after it has failed. The slot is released during the delays. Attempts and delays survive
    /// a restart. Not together with [`StepSettings::once`]; `fresh` has no meaning here.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        Self { retry: Some(policy), ..self }
    }
}

impl TaskHandle {
    /// Executes something once: what it returned (or how it failed) is recorded and never executed again, unless the
    /// task is retried after it failed. `args` is all that it depends on: if they differ from the recorded ones, the
    /// result does not belong to this call, and the run is paused.
    ///
    /// # Errors
    /// What the step failed with; or the body is to return.
    pub async fn step<A, F, R, T>(&self, name: impl Into<Arc<str>>, args: &A, step: F) -> Result<T, TaskError>
    where
        A: Serialize + ?Sized,
        F: FnOnce() -> R,
        R: Future<Output = Result<T, TaskError>>,
        T: Serialize + DeserializeOwned,
    {
        let name = name.into();
        let arguments = self.arguments(&name, args)?;
        let request = Request::Step { arguments, options: StepOptions::PLAIN };
        let mut call = self.0.begin(&name, request).map_err(TaskError::of_call)?;
        if let Some(value) = self.0.begin_step(&mut call).await.map_err(TaskError::of_call)? {
            return self.decoded(&name, &value);
        }
        let result = self.ended(&name, within::run(Within::Step, step).await)?;
        let ended = self.0.end_step(&mut call, Fed::Executed(result)).await.map_err(TaskError::of_call)?;
        self.decoded(&name, &ended.unwrap_or(Value::NONE))
    }

    /// The same with a key, at most once, or tried again after it has failed. With a key `args` is not compared.
    ///
    /// # Errors
    /// What the step failed with; or the settings contradict each other; or the body is to return.
    pub async fn step_with<A, F, R, T>(
        &self,
        settings: StepSettings,
        name: impl Into<Arc<str>>,
        args: &A,
        mut step: F,
    ) -> Result<T, TaskError>
    where
        A: Serialize + ?Sized,
        F: FnMut() -> R,
        R: Future<Output = Result<T, TaskError>>,
        T: Serialize + DeserializeOwned,
    {
        let StepSettings { key, once, retry } = settings;
        let name = name.into();
        if once && retry.is_some() {
            let why = format!("step '{name}': one that is executed at most once cannot be tried again");
            return Err(TaskError::definition(&why));
        }
        if let Some(policy) = &retry {
            policy.validate().map_err(|error| TaskError::definition(&format!("step '{name}': {}", error.0)))?;
        }
        let arguments = if key.is_some() { StepArguments::default() } else { self.arguments(&name, args)? };
        let options = StepOptions { keyed: key.is_some(), once, retry };
        let name = key.map_or_else(|| Arc::clone(&name), |key| EntryKey::keyed_name(&name, &key));
        let mut call = self.0.begin(&name, Request::Step { arguments, options }).map_err(TaskError::of_call)?;
        let mut recorded = self.0.begin_step(&mut call).await;
        loop {
            if let Some(value) = recorded.map_err(TaskError::of_call)? {
                return self.decoded(&name, &value);
            }
            let fed = match self.ended(&name, within::run(Within::Step, &mut step).await)? {
                Err(failure) if retry.is_some() => Fed::Raised(failure, Retry { random: self.0.engine().random() }),
                result => Fed::Executed(result),
            };
            recorded = self.0.end_step(&mut call, fed).await;
        }
    }

    /// Records a state and forgets the steps and waits that the body has recorded until now, in one commit. A body that
    /// loops for long keeps the journal of one turn.
    ///
    /// # Errors
    /// The state cannot be stored; another call is under way; or the body is to return.
    pub async fn checkpoint<T: Serialize + ?Sized>(&self, state: &T) -> Result<(), TaskError> {
        let state = encode(state).map_err(|why| {
            let task = self.task_name();
            TaskError::failed(serialization_failure(&format!("task '{task}': a checkpoint cannot be stored: {why}")))
        })?;
        self.0.checkpoint(state).await.map_err(TaskError::of_call)
    }

    /// The state of the last checkpoint, if there was one.
    ///
    /// # Errors
    /// It does not read back as what is asked for.
    pub fn last_checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, TaskError> {
        self.0.last_checkpoint().map(|state| self.decoded("checkpoint", &state)).transpose()
    }

    fn arguments<A: Serialize + ?Sized>(&self, name: &str, args: &A) -> Result<StepArguments, TaskError> {
        let proof = encode(args).map_err(|why| TaskError::failed(self.refused("the arguments", name, &why)))?;
        let advice = <Closures as Host>::STEP_ADVICE;
        Ok(StepArguments { proof: Some(proof.as_bytes().into()), older: None, advice })
    }

    fn refused(&self, what: &str, name: &str, why: &str) -> Failure {
        let task = self.task_name();
        serialization_failure(&format!("task '{task}': {what} of the step '{name}' cannot be stored: {why}"))
    }

    /// What is recorded of a step that was executed; an error leaves it unrecorded.
    fn ended<T: Serialize>(
        &self,
        name: &str,
        returned: Result<T, TaskError>,
    ) -> Result<Result<Value, Failure>, TaskError> {
        match returned {
            Ok(value) => Ok(encode(&value).map_err(|why| self.refused("what it returned", name, &why))),
            Err(error) => match error.end() {
                BodyEnd::Failed(failure) => Ok(Err(failure)),
                BodyEnd::Skipped(reason) => Err(Skip(reason).into()),
                BodyEnd::Unwound => Err(TaskError::of_call(self.0.suspend())),
            },
        }
    }
}

impl BodyState {
    async fn checkpoint(&self, state: Value) -> Result<(), CallError> {
        let mut call = self.begin(&"checkpoint".into(), Request::Checkpoint(state))?;
        match self.drive(&mut call, Fed::Begin).await {
            Action::Done(result) => result.map(drop),
            action => unreachable!("{action:?} of a checkpoint"),
        }
    }
}
