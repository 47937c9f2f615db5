//! What a body can do while it executes: ask where it is; `step.rs`: record steps; `wait.rs`: wait. How a call is
//! driven is in `body.rs`.

use std::sync::Arc;

use bide_core::{Failure, FailureKind, RunId, Value};
use serde::de::DeserializeOwned;

use super::body::BodyState;
use super::codec::decode;
use super::task_error::TaskError;

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

    /// Whether the body only reads what an earlier entry of it has recorded: there are records that it has not come to.
    #[must_use]
    pub fn is_replaying(&self) -> bool {
        self.0.is_replaying()
    }

    /// Whether the body is being suspended: it is to return, and will be entered again.
    #[must_use]
    pub fn suspending(&self) -> bool {
        self.0.suspending() || self.0.engine().is_closing()
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
