//! Lines for the host's log.

/// Where lines for the host's log go. Called on any thread; must not block.
pub type Log = Box<dyn Fn(Level, &str) + Send + Sync>;

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something the user should change.
    Warning,
    /// Something went wrong.
    Error,
    /// A body does not return; the host can tell where it is.
    Stuck {
        /// The host's name of the thread.
        thread: u64,
    },
}
