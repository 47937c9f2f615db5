//! Lines for the host's log.

use std::sync::Arc;

/// Where lines for the host's log go. Called on any thread; must not block.
pub type Log = Box<dyn Fn(Level, &str) + Send + Sync>;

/// The log, for the several parts of an engine that write to it.
pub(crate) type SharedLog = Arc<dyn Fn(Level, &str) + Send + Sync>;

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something the user should change.
    Warning,
    /// Something went wrong.
    Error,
    /// A body does not return; the host can look up where it is.
    Stuck {
        /// The host's name of the thread.
        thread: u64,
    },
}
