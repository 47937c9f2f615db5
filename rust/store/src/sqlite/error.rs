//! What SQLite's errors mean to a user: one place that names the file, the cause and the remedy.

use std::io;
use std::time::Duration;

use rusqlite::{Error, ErrorCode};

use super::system;
use crate::StoreError;

/// A store's identity, for messages: its file and its busy timeout.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// The path, as the user gave it.
    pub(super) name: String,
    /// How long a file that another process has locked is tried.
    pub(super) busy_timeout: Duration,
}

impl Identity {
    /// Translates an error after which nothing was written.
    pub(super) fn error(&self, error: &Error) -> StoreError {
        let name = &self.name;
        let Some(code) = error.sqlite_error_code() else {
            return StoreError::Corrupt(format!("{name}: {error}; the file was changed by another program"));
        };
        let cause = system::cause();
        match code {
            ErrorCode::CannotOpen | ErrorCode::SystemIoFailure | ErrorCode::DiskFull
                if let Some(what) = cause.as_ref().and_then(used_up) =>
            {
                self.unavailable(&what)
            }
            _ if is_busy(error) => StoreError::Busy { store: name.clone(), waited: self.busy_timeout },
            ErrorCode::DiskFull => self.unavailable(FULL),
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

    /// Translates an error of the system's; `what` says what failed.
    pub(super) fn system_error(&self, what: &str, error: &io::Error, remedy: &str) -> StoreError {
        let why = used_up(error).unwrap_or_else(|| format!("{what} ({error}){remedy}"));
        self.unavailable(&why)
    }

    pub(super) fn unavailable(&self, what: &str) -> StoreError {
        StoreError::Unavailable(format!("{}: {what}", self.name))
    }
}

/// A resource that is used up, and what to do about it: the same text for every call that meets it.
pub(crate) fn used_up(error: &io::Error) -> Option<String> {
    match error.raw_os_error()? {
        libc::EMFILE => Some(format!(
            "this process has too many files open{}; close what it does not need (files, sockets, runners), or raise the \
             limit (ulimit -n, or LimitNOFILE= of its service)",
            limit().map_or_else(String::new, |most| format!(" (its limit is {most})"))
        )),
        libc::ENFILE => Some("this system has too many files open; close some, or raise fs.file-max (sysctl)".into()),
        libc::ENOSPC => Some(FULL.into()),
        libc::EFBIG => Some(
            "a file is as large as this process (ulimit -f) or the file system allows; raise the limit, or make space, \
             and start again"
                .into(),
        ),
        libc::EDQUOT => Some("the disk quota is used up; free space and start again".into()),
        _ => None,
    }
}

const FULL: &str = "the disk is full; free space and start again";

/// How many files this process may have open.
fn limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live local of the type that the call fills in.
    (unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0).then_some(limit.rlim_cur)
}

/// Whether an error says that another connection holds the file.
pub(super) fn is_busy(error: &Error) -> bool {
    use ErrorCode::{DatabaseBusy, DatabaseLocked, FileLockingProtocolFailed};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked | FileLockingProtocolFailed))
}

/// Whether an error says that a row with this key exists.
pub(super) fn is_conflict(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ConstraintViolation))
}
