//! Why nobody here executes a run, in words.

use std::fmt;

use bide_core::fit::Misfit;

/// Why a run is not executed by a runner: its workflow is not registered there, or only in another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRegistered {
    /// The run's workflow and version, as messages show them.
    pub wanted: String,
    /// The version that is registered, as messages show it, if any is.
    pub have: Option<String>,
    /// Why the run cannot continue with that.
    pub why: Option<Misfit>,
}

impl fmt::Display for NotRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not registered here", self.wanted)?;
        self.have.as_ref().map_or(Ok(()), |have| write!(f, " (have {have})"))?;
        self.why
            .as_ref()
            .map_or(Ok(()), |why| write!(f, ": {why}; runner.adopt(run, workflow) continues it all the same"))
    }
}
