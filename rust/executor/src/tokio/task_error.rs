//! Why a body did not return a value.

use std::fmt;
use std::sync::Arc;

use bide_core::attempt::{CallError, Polled};
use bide_core::{Failure, FailureKind};

use super::error::RunFailed;

/// Why a body did not return a value. Any error turns into one by `?`.
pub struct TaskError(Box<Why>);

enum Why {
    Skip(Arc<str>),
    Failed(Failure),
    /// A child run has failed.
    ChildFailed(Failure, RunFailed),
    /// The body is to unwind; what it returns is discarded.
    Unwind(CallError),
}

/// The task skips itself and its dependents, without failing the run: `Err(Skip("nothing new").into())`.
#[derive(Clone, Debug)]
pub struct Skip<S: Into<Arc<str>>>(pub S);

impl TaskError {
    /// A failure in words.
    #[must_use]
    pub fn new(message: impl fmt::Display) -> Self {
        Self::failed(Failure::new(FailureKind::Raised, "bide.TaskError", &message.to_string()))
    }

    pub(super) fn failed(failure: Failure) -> Self {
        Self(Box::new(Why::Failed(failure)))
    }

    pub(super) fn child_failed(failed: RunFailed) -> Self {
        let failure = Failure::new(FailureKind::ChildFailed, "bide.RunFailed", &failed.to_string());
        Self(Box::new(Why::ChildFailed(failure, failed)))
    }

    pub(super) fn definition(message: &str) -> Self {
        Self::failed(Failure::new(FailureKind::Definition, "bide.DefinitionError", message))
    }

    /// The failure as it will be stored; `None` for a skip and while the body is suspended.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match &*self.0 {
            Why::Failed(failure) | Why::ChildFailed(failure, _) => Some(failure),
            Why::Skip(_) | Why::Unwind(_) => None,
        }
    }

    /// Whether a wait has timed out.
    #[must_use]
    pub fn is_wait_timeout(&self) -> bool {
        self.failure().is_some_and(|failure| failure.kind == FailureKind::WaitTimeout)
    }

    /// Whether the run was cancelled: the body gets that once, and can clean up before it returns it.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.failure().is_some_and(|failure| failure.kind == FailureKind::Cancelled)
    }

    /// Whether a step that may be executed only once was begun, by an earlier entry of the body, and has no result. It
    /// is not executed again: the body decides.
    #[must_use]
    pub fn is_step_interrupted(&self) -> bool {
        self.failure().is_some_and(|failure| failure.kind == FailureKind::StepInterrupted)
    }

    /// Whether somebody has rejected the callback that the body waited for; the failure's message is the reason.
    #[must_use]
    pub fn is_callback_rejected(&self) -> bool {
        self.failure().is_some_and(|failure| failure.kind == FailureKind::CallbackRejected)
    }

    /// The child run that the body waited for, if that has failed.
    #[must_use]
    pub fn run_failed(&self) -> Option<&RunFailed> {
        match &*self.0 {
            Why::ChildFailed(_, failed) => Some(failed),
            _ => None,
        }
    }

    /// Whether the body is being suspended, or its attempt or run is over: it is to return. What it returns is
    /// discarded, and every further use of the handle answers the same.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        matches!(&*self.0, Why::Unwind(_))
    }

    /// How a body that returned this has ended.
    pub(super) fn end(self) -> BodyEnd {
        match *self.0 {
            Why::Skip(reason) => BodyEnd::Skipped(reason),
            Why::Failed(failure) | Why::ChildFailed(failure, _) => BodyEnd::Failed(failure),
            Why::Unwind(_) => BodyEnd::Unwound,
        }
    }

    /// What a condition that returned this is taken for.
    pub(super) fn polled(self) -> Polled {
        match *self.0 {
            Why::Failed(failure) if failure.kind == FailureKind::Definition => Polled::Broken(failure),
            Why::Failed(failure) | Why::ChildFailed(failure, _) => Polled::Raised(failure),
            Why::Skip(reason) => Polled::Broken(Failure::new(
                FailureKind::Definition,
                "bide.DefinitionError",
                &format!("a condition cannot skip its task ({reason})"),
            )),
            Why::Unwind(_) => Polled::False,
        }
    }
}

/// How a body ended that returned an error.
pub(super) enum BodyEnd {
    Skipped(Arc<str>),
    Failed(Failure),
    Unwound,
}

impl<E: std::error::Error> From<E> for TaskError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self::failed(Failure::new(FailureKind::Raised, std::any::type_name::<E>(), &message))
    }
}

impl<S: Into<Arc<str>>> From<Skip<S>> for TaskError {
    fn from(skip: Skip<S>) -> Self {
        Self(Box::new(Why::Skip(skip.0.into())))
    }
}

impl TaskError {
    /// The error that a call of the handle returns when it has no value.
    pub(super) fn of_call(error: CallError) -> Self {
        match error {
            CallError::Failed(failure) => Self::failed(failure),
            CallError::Misuse(message) => Self::definition(&message),
            CallError::Mismatch(message) => {
                Self::failed(Failure::new(FailureKind::ReplayMismatch, "bide.ReplayMismatch", &message))
            }
            CallError::TimedOut(message) => {
                Self::failed(Failure::new(FailureKind::TaskTimeout, "bide.TaskTimeout", &message))
            }
            CallError::Suspended | CallError::Over(_) => Self(Box::new(Why::Unwind(error))),
        }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Why::Skip(reason) => write!(f, "skipped: {reason}"),
            Why::Failed(failure) | Why::ChildFailed(failure, _) => failure.fmt(f),
            Why::Unwind(CallError::Over(refused)) => refused.fmt(f),
            Why::Unwind(_) => f.write_str("the runner closes: the body is suspended and will be entered again"),
        }
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskError({self})")
    }
}
