//! What a runner refuses, as exceptions: calls after its close, and runs that were not created.

use bide_executor::{Settlement, SubmitError};
use pyo3::prelude::*;

use crate::errors;

/// The message for a call after the close.
pub(crate) const CLOSED: &str = "this runner is closed: create a new one";

/// The same of a client.
pub(crate) const CLIENT_CLOSED: &str = "this client is closed: create a new one";

/// `many` is for the words: which of them was refused.
pub(crate) fn refused(py: Python<'_>, workflow: &str, error: &SubmitError, many: bool) -> PyErr {
    match error {
        SubmitError::Store(error) => errors::store(py, error),
        SubmitError::Stopped(Settlement::Closed) => errors::closed(py, CLOSED),
        SubmitError::Stopped(settlement) => errors::settlement(py, settlement),
        SubmitError::Refused(why) => errors::definition(py, &why.0),
        SubmitError::OtherInputs { index, earlier, run, key, inputs } => {
            let names: Vec<String> = inputs.iter().map(|name| format!("'{name}'")).collect();
            let names = names.join(", ");
            let why = match earlier {
                None => format!(
                    "key '{key}' of workflow '{workflow}' belongs to run {run}, which has other inputs ({names} \
                     differs): give this run another key"
                ),
                Some(earlier) => format!(
                    "key '{key}' of workflow '{workflow}' is also keys[{earlier}], with other inputs ({names} \
                     differs): give each of the two a key of its own"
                ),
            };
            let which = if many { format!("keys[{index}]: {why}. Nothing was submitted") } else { why };
            errors::definition(py, &which)
        }
    }
}
