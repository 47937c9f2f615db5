//! Why a call of a store fails.

use std::time::Duration;

/// Why a store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The lease was lost: another runner may have the runs. Nothing was written.
    #[error("another runner has claimed its runs: the lease of runner {runner} was lost")]
    Fenced {
        /// Whose lease.
        runner: i64,
    },
    /// The store was busy for longer than its busy timeout. Nothing was written.
    #[error("{store} was locked by another process for {waited:?}; nothing was written")]
    Busy {
        /// The store, as the user named it (redacted).
        store: String,
        /// How long it was tried.
        waited: Duration,
    },
    /// The store cannot be opened or used as it is; the message says what to do. Nothing was written.
    #[error("{0}")]
    Unavailable(String),
    /// The runner that used the store is closed. Nothing was written.
    #[error("the runner on {store} is closed")]
    Closed {
        /// The store, as the user named it (redacted).
        store: String,
    },
    /// A row does not read back: the file was changed by another program or is damaged.
    #[error("{0}")]
    Corrupt(String),
    /// The connection to the store was lost. Whether the call was carried out is not known, but it can be made again:
    /// see [`Store::may_repeat`].
    #[error("the connection to {store} was lost ({why})")]
    Disconnected {
        /// The store, as the user named it (redacted).
        store: String,
        /// What the system or the server reported.
        why: String,
    },
    /// Whether the batch is committed is not known, and another try would not show it: reload before continuing.
    #[error("the outcome of a commit is unknown: {0}")]
    Unknown(String),
}
