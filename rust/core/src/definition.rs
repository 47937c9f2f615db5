//! The one error of everything a user defines: a workflow, a policy, an input.

use std::fmt;

/// A definition that cannot work, in words that name the culprit and say what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionError(pub String);

impl fmt::Display for DefinitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DefinitionError {}
