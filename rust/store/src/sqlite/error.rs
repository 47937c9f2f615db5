//! What SQLite's errors mean to a user: one place that names the file, the cause and the remedy.

use std::time::Duration;

use rusqlite::{Error, ErrorCode};

use crate::StoreError;

/// Who is speaking in a message: the store's file, and how patient it is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The path, as the user gave it.
    pub(super) name: String,
    /// How long a busy file is tried.
    pub(super) patience: Duration,
}

impl Place {
    /// Translates an error that left nothing written.
    pub(super) fn error(&self, error: &Error) -> StoreError {
        let name = &self.name;
        let Some(code) = error.sqlite_error_code() else {
            return StoreError::Corrupt(format!("{name}: {error}; the file was changed by other hands"));
        };
        match code {
            _ if is_busy(error) => StoreError::Busy { store: name.clone(), waited: self.patience },
            ErrorCode::DiskFull => self.unavailable("the disk is full; free space and start again"),
            _ if error.sqlite_extended_error_code() == Some(rusqlite::ffi::SQLITE_READONLY_DBMOVED) => {
                self.unavailable("the file was deleted or replaced while it was open; start again")
            }
            ErrorCode::ReadOnly => self.unavailable("it is read-only; make the file and its directory writable"),
            ErrorCode::NotADatabase => {
                self.unavailable("it is not a database; name another path or move that file away")
            }
            ErrorCode::CannotOpen | ErrorCode::PermissionDenied => {
                self.unavailable(&format!("it cannot be opened ({error}); check the rights of file and directory"))
            }
            ErrorCode::SystemIoFailure => {
                self.unavailable(&format!("reading or writing failed ({error}); check the disk and its free space"))
            }
            ErrorCode::DatabaseCorrupt => {
                StoreError::Corrupt(format!("{name} is damaged ({error}); restore it from a backup"))
            }
            _ => self.unavailable(&format!("SQLite reports: {error}")),
        }
    }

    pub(super) fn unavailable(&self, what: &str) -> StoreError {
        StoreError::Unavailable(format!("{}: {what}", self.name))
    }
}

/// Whether an error says that somebody else holds the file.
pub(super) fn is_busy(error: &Error) -> bool {
    use ErrorCode::{DatabaseBusy, DatabaseLocked, FileLockingProtocolFailed};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked | FileLockingProtocolFailed))
}

/// Whether an error says that a row with this key exists.
pub(super) fn is_conflict(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ConstraintViolation))
}
