//! What a coroutine shows while it lives: events and progress. Legal within steps and conditions.

use bide_core::attempt::{CallError, Caller};
use bide_core::{Channel, Origin, Progress, Value};

use super::body::CoroutineBody;
use crate::engine::show::{Room, publish};
use crate::host::Host;

impl<H: Host> CoroutineBody<H> {
    /// Emits an event to a channel of the run: it is committed soon, and before anything that the body records later.
    ///
    /// # Errors
    /// See [`CallError`]; `Misuse` if the run has used the channel with another type.
    pub fn emit(&self, channel: &Channel, value: &Value) -> Result<(), CallError> {
        let origin = self.origin()?;
        if self.engine().emit(self.run(), channel, origin, value)? == Room::Full {
            // It does not wait for that: a loop must not be blocked.
            self.engine().enqueue(std::sync::Arc::clone(self.run()), publish());
        }
        Ok(())
    }

    /// Says how far the task has come: written once a second at most.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn progress(&self, done: f64, total: Option<f64>, message: Option<&str>) -> Result<(), CallError> {
        let attempt = self.origin()?.attempt;
        let progress = Progress { done, total, message: message.map(Into::into), said_at: self.engine().now() };
        self.engine().progress(self.run(), self.task(), attempt, progress);
        Ok(())
    }

    fn origin(&self) -> Result<Origin, CallError> {
        let standing = self.standing(Caller::Body);
        self.with_attempt(|attempt| {
            Ok(Origin { entry: attempt.may_show(standing)?, task: self.task(), attempt: attempt.number() })
        })
    }
}
