//! Opening a connection to the file, and its settings.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::error::{Identity, is_busy};
use super::{Options, busy, checkpoint, schema};
use crate::{Durability, StoreError};

pub(super) fn level(durability: Durability) -> &'static str {
    match durability {
        Durability::Normal => "NORMAL",
        Durability::Full => "FULL",
    }
}

/// A connection with bide's settings. It creates no file, so that a deleted one is not created again by accident.
pub(super) fn connect(
    path: &Path,
    identity: &Identity,
    busy_timeout: impl Fn() -> Duration + Send + 'static,
) -> Result<Connection, StoreError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        busy::wait_for(&mut connection, busy_timeout)?;
        connection.set_prepared_statement_cache_capacity(64);
        keep_plans(&connection)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        Ok(connection)
    };
    open().map_err(|error| identity.error(&error))
}

/// Has plans not depend on the values that are bound. Otherwise SQLite prepares a statement whose plan might depend on
/// them again at each use.
pub(super) fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Sets what is part of the file's format. Only after it is known that the file is ours or empty.
pub(super) fn prepare(connection: &Connection, identity: &Identity, options: &Options) -> Result<(), StoreError> {
    let found = schema::inspect(connection, identity, schema::MIGRATIONS.len())?;
    let set = || -> rusqlite::Result<String> {
        if found == schema::Found::Empty {
            connection.pragma_update(None, "page_size", options.page_size)?;
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        // The log is kept for reuse, but not at the size that one bad moment gave it.
        connection.pragma_update_and_check(None, "journal_size_limit", checkpoint::LONG as i64, |_| Ok(()))?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
    };
    let since = Instant::now();
    loop {
        match set() {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => {
                return Err(identity.unavailable("its file system does not allow a write-ahead log; use a local path"));
            }
            // Changing the mode needs the file alone for a moment, and SQLite does not ask its busy handler then.
            Err(error) if is_busy(&error) && since.elapsed() < options.busy_timeout => busy::nap(),
            Err(error) => return Err(identity.error(&error)),
        }
    }
}
