//! What the server's errors mean to a user.

use postgres::error::SqlState;

use crate::StoreError;

/// Why something with a connection did not succeed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server, or the way to it.
    Server(postgres::Error),
    /// Something else, which is explained already.
    Store(StoreError),
}

impl From<postgres::Error> for Failed {
    fn from(error: postgres::Error) -> Self {
        Self::Server(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether the server broke it off because of others, and the same again may succeed.
pub(super) fn is_repeatable(error: &postgres::Error) -> bool {
    matches!(error.code(), Some(code) if *code == SqlState::T_R_DEADLOCK_DETECTED || *code == SqlState::T_R_SERIALIZATION_FAILURE)
}

/// Translates an error.
pub(super) fn explain(name: &str, error: &postgres::Error) -> StoreError {
    if error.is_closed() || error.as_db_error().is_none() {
        return StoreError::Disconnected { store: name.to_owned(), why: error.to_string() };
    }
    let why = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
    StoreError::Unavailable(format!("{name}: the server reports: {why}"))
}

/// The same of what did not succeed.
pub(super) fn explained(name: &str, failed: Failed) -> StoreError {
    match failed {
        Failed::Server(error) => explain(name, &error),
        Failed::Store(error) => error,
    }
}
