//! What a body shows while it lives: events and progress. Legal within steps and conditions, and on any thread.

use bide_core::attempt::CallError;
use bide_core::{Channel, Origin, Progress, Value};

use super::BodyCx;
use crate::engine::show::{Room, publish};
use crate::host::{Attached, Host};
use crate::ledger::Lost;
use crate::threads::pool::Pool;

impl<H: Host<Dispatch = Pool<H>>> BodyCx<H> {
    /// Emits an event to a channel of the run: it is committed soon, and before anything that the body records later.
    /// Blocks only if many wait to be committed.
    ///
    /// # Errors
    /// See [`CallError`]; `Misuse` if the run has used the channel with another type.
    pub fn emit(&self, at: &mut dyn Attached, channel: &Channel, value: &Value) -> Result<(), CallError> {
        let origin = self.origin()?;
        if self.engine.emit(&self.run, channel, origin, value)? == Room::Full {
            return self.publish(at);
        }
        Ok(())
    }

    /// Says how far the task has come: written once a second at most.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn progress(&self, done: f64, total: Option<f64>, message: Option<&str>) -> Result<(), CallError> {
        let attempt = self.origin()?.attempt;
        let progress = Progress { done, total, message: message.map(Into::into), said_at: self.engine.now() };
        self.engine.progress(&self.run, self.task, attempt, progress);
        Ok(())
    }

    fn origin(&self) -> Result<Origin, CallError> {
        let standing = self.standing();
        let mut attempt = self.attempt.lock();
        Ok(Origin { entry: attempt.may_show(standing)?, task: self.task, attempt: attempt.number() })
    }

    #[cold]
    fn publish(&self, at: &mut dyn Attached) -> Result<(), CallError> {
        match at.detach(|| self.engine.commit_own(None, &self.run, publish())) {
            Ok(()) => Ok(()),
            Err(Lost::Refused(refused)) if !self.run.is_lost() => Err(CallError::Over(refused)),
            Err(_) => Err(self.attempt.lock().suspend()),
        }
    }
}
