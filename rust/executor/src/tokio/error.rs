//! What goes wrong with a runner ([`Error`]) and in a run ([`RunFailed`]).

use bide_core::{DefinitionError, RunId};
use bide_store::StoreError;

use super::result::RunResult;
use crate::runs::settled::Settlement;
use crate::runs::submit::SubmitError;

/// Why a runner did not do what it was asked, or a run did not complete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The definition or the inputs cannot work; the message names the culprit.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// The run has ended, and at least one of its tasks failed.
    #[error(transparent)]
    Failed(Box<RunFailed>),
    /// The run does not continue here as it is; holds the reason.
    #[error("{0}")]
    Blocked(String),
    /// A value does not read back as what was asked for.
    #[error("{0}")]
    Serialization(String),
    /// The run does not take the signal, request or answer: it has ended, its workflow does not declare it, or the
    /// callback has an answer already.
    #[error("{0}")]
    SignalRejected(String),
    /// The body has refused the request, or no body answers it any more; holds the reason.
    #[error("{0}")]
    RequestRefused(String),
    /// What was waited for has not come in time.
    #[error("{0}")]
    TimedOut(String),
    /// The run has ended, or has not: what was asked of it cannot be done.
    #[error("{0}")]
    TooLate(String),
    /// There is no such task or run.
    #[error("{0}")]
    Unknown(String),
    /// The runner was closed. The next runner on the store continues the run.
    #[error("the runner is closed")]
    Closed,
    /// The store could not be used; the runner has stopped.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Closed { .. }) { Self::Closed } else { Self::Store(error) }
    }
}

/// A run that has ended with a failure.
#[derive(Clone, Debug, thiserror::Error)]
#[error("run {} of '{}' {}", .result.id, .result.workflow, .result.how_ended())]
pub struct RunFailed {
    /// All that is known of the run.
    pub result: RunResult,
}

impl Error {
    /// The failed run, if that is what it is.
    #[must_use]
    pub fn run_failed(&self) -> Option<&RunFailed> {
        match self {
            Self::Failed(failed) => Some(failed),
            _ => None,
        }
    }

    pub(super) fn unknown_run(id: RunId) -> Self {
        Self::Unknown(format!("there is no run {id} (any more)"))
    }

    pub(super) fn settled(settlement: Settlement) -> Self {
        match settlement {
            Settlement::Broken(error) => Self::from(*error),
            Settlement::NotHere(why) => Self::Blocked(why),
            Settlement::Panicked(why) => Self::Store(bide_store::StoreError::Unavailable(why.to_string())),
            Settlement::Run(_) | Settlement::Closed | Settlement::Elsewhere => Self::Closed,
        }
    }
}

impl From<SubmitError> for Error {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Stopped(settlement) => Self::settled(settlement),
            SubmitError::Store(error) => Self::from(error),
            SubmitError::Refused(why) => Self::Definition(why),
            SubmitError::OtherInputs { run, key, inputs, .. } => Self::Definition(DefinitionError(format!(
                "the key '{key}' belongs to run {run}, which has other inputs (they differ in {}); take another key",
                inputs.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}
