//! What a body can do while it executes: record steps, ask where it is; `wait.rs`: wait. How a call is driven is in
//! `body.rs`.

use std::sync::Arc;

use bide_core::attempt::Request;
use bide_core::{Failure, FailureKind, RunId, StepArguments, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::body::BodyState;
use super::closures::Closures;
use super::codec::{decode, encode, serialization_failure};
use super::task_error::{BodyEnd, Skip, TaskError};
use crate::host::Host;

/// What a body uses to talk to the executor. Clones are the same handle; it is of no use once its body has returned.
#[derive(Clone)]
pub struct TaskHandle(pub(super) Arc<BodyState>);

impl TaskHandle {
    /// The run's id.
    #[must_use]
    pub fn run_id(&self) -> RunId {
        self.0.run.id
    }

    /// The task's name.
    #[must_use]
    pub fn task_name(&self) -> &str {
        self.0.task_name()
    }

    /// Which try this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt()
    }

    /// Whether the body holds a slot: not while a wait of it is open.
    #[must_use]
    pub fn is_slot_held(&self) -> bool {
        !self.0.has_ended() && self.0.lane.holds_slot(self.0.turn)
    }

    /// Whether the body is being suspended: it is to return, and will be entered again.
    #[must_use]
    pub fn suspending(&self) -> bool {
        self.0.suspending() || self.0.engine().is_closing()
    }

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
        let body = &self.0;
        let name = name.into();
        let refused = |what: &str, why: &str| {
            let message = format!("task '{}': {what} of the step '{name}' cannot be stored: {why}", body.task_name());
            serialization_failure(&message)
        };
        let proof: Arc<[u8]> =
            encode(args).map_err(|why| TaskError::failed(refused("the arguments", &why)))?.as_bytes().into();
        let advice = <Closures as Host>::STEP_ADVICE;
        let request = Request::Step(StepArguments { proof: Some(proof), older: None, advice });
        let mut call = body.begin(&name, request).map_err(TaskError::of_call)?;
        if let Some(value) = body.begin_step(&mut call).await.map_err(TaskError::of_call)? {
            return self.decoded(&name, &value);
        }
        let result = match step().await {
            Ok(value) => encode(&value).map_err(|why| refused("what it returned", &why)),
            Err(error) => match error.end() {
                BodyEnd::Failed(failure) => Err(failure),
                BodyEnd::Skipped(reason) => return Err(Skip(reason).into()),
                BodyEnd::Unwound => return Err(TaskError::of_call(body.suspend())),
            },
        };
        let value = body.end_step(&mut call, result).await.map_err(TaskError::of_call)?;
        self.decoded(&name, &value)
    }

    pub(super) fn decoded<T: DeserializeOwned>(&self, name: &str, value: &Value) -> Result<T, TaskError> {
        decode(value).map_err(|why| {
            let message = format!(
                "task '{}': the recorded value of '{name}' does not read back as what is asked for: {why}",
                self.0.task_name()
            );
            TaskError::failed(Failure::new(FailureKind::Serialization, "bide.SerializationError", &message))
        })
    }
}
