//! The watches of a file, and the keys of their items.

use std::sync::Arc;

use bide_core::watches::Watch;
use bide_core::{RunId, Time, Value};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStore;
use super::transaction::Transaction;
use crate::{Creation, StoreError, StoredWatch, WatchChange, WatchChanged, Watches};

const ALL: &str = "SELECT t.name, t.revision, t.removed, w.name, t.workflow, t.every, t.cursor, t.created_at, \
     t.paused_at, t.runner, t.started, t.last_at, t.last_run, t.failed_at, t.error FROM watch t \
     LEFT JOIN workflow w ON w.id = t.workflow WHERE NOT t.removed ORDER BY t.name";
const NAMED: &str = "SELECT t.name, t.revision, t.removed, w.name, t.workflow, t.every, t.cursor, t.created_at, \
     t.paused_at, t.runner, t.started, t.last_at, t.last_run, t.failed_at, t.error FROM watch t \
     LEFT JOIN workflow w ON w.id = t.workflow WHERE t.name = ?1";
const CURRENT: &str = "SELECT id, revision, removed FROM watch WHERE name = ?1";
const MAKE: &str = "INSERT INTO watch (name, revision, removed, workflow, every, created_at, started) \
     VALUES (?1, 0, 1, 0, 0, 0, 0) RETURNING id";
const SET: &str = "UPDATE watch SET revision = revision + 1, removed = 0, workflow = ?2, every = ?3, cursor = ?4, \
     created_at = ?5, paused_at = ?6, runner = ?7, started = ?8, last_at = ?9, last_run = ?10, failed_at = ?11, \
     error = ?12 WHERE id = ?1";
const REMOVE: &str = "UPDATE watch SET revision = revision + 1, removed = 1, cursor = NULL, runner = NULL, \
     error = NULL WHERE id = ?1";
const TAKE_KEY: &str = "INSERT OR IGNORE INTO watch_key (watch, key) VALUES (?1, ?2)";

/// For the test that no hot statement scans a table.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[NAMED, CURRENT, MAKE, SET, REMOVE, TAKE_KEY];

impl Watches for SqliteStore {
    fn watches(&self) -> Result<Vec<StoredWatch>, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(ALL).map_err(explain)?;
        let mut rows = statement.query([]).map_err(explain)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(explain)? {
            found.push(self.stored_watch(row)?);
        }
        Ok(found)
    }

    fn watch(&self, name: &str) -> Result<Option<StoredWatch>, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(NAMED).map_err(explain)?;
        let mut rows = statement.query([name]).map_err(explain)?;
        rows.next().map_err(explain)?.map(|row| self.stored_watch(row)).transpose()
    }

    fn change_watch(&self, change: &WatchChange) -> Result<WatchChanged, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let writer = self.writer()?;
        let connection = writer.fresh();
        let transaction = Transaction::begin(connection, &self.identity)?;
        let found: Option<(i64, i64, bool)> = connection
            .prepare_cached(CURRENT)
            .and_then(|mut read| {
                read.query_row([&*change.name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()
            })
            .map_err(explain)?;
        if found.filter(|(.., removed)| !removed).map(|(_, revision, _)| revision) != change.expected {
            return Ok(WatchChanged::Moved);
        }
        let (id, revision) = match found {
            Some((id, revision, _)) => (id, revision),
            None => {
                let make = connection
                    .prepare_cached(MAKE)
                    .and_then(|mut make| make.query_row([&*change.name], |row| row.get(0)));
                (make.map_err(explain)?, 0)
            }
        };
        let (mut started, mut bytes) = (Vec::new(), 3072);
        for item in &change.items {
            let taken = connection.prepare_cached(TAKE_KEY).and_then(|mut take| take.execute(params![id, &*item.key]));
            bytes += item.key.len() as u64 + 16;
            if taken.map_err(explain)? == 0 {
                continue;
            }
            match self.insert_runs(connection, None, std::slice::from_ref(&item.run), &mut bytes)?[..] {
                [Creation::Created] => started.push(&item.run),
                [Creation::NumberTaken] => return Ok(WatchChanged::NumberTaken),
                _ => {}
            }
        }
        let watch = change.settled(&started);
        set(connection, id, watch.as_ref()).map_err(explain)?;
        transaction.commit()?;
        drop(writer);
        self.debt.add(bytes);
        if !started.is_empty() {
            self.changes.unowned();
            self.live()?.wake.poll_others();
        }
        Ok(WatchChanged::Done { revision: revision + 1, watch: watch.map(Box::new), started: started.len() })
    }
}

/// Writes a watch, or removes it.
fn set(connection: &Connection, id: i64, watch: Option<&Watch>) -> rusqlite::Result<()> {
    let Some(watch) = watch else {
        return connection.prepare_cached(REMOVE)?.execute([id]).map(drop);
    };
    let set = params![
        id,
        watch.number,
        watch.every,
        (watch.cursor != Value::NONE).then_some(watch.cursor.as_bytes()),
        watch.created_at.0,
        watch.paused_at.map(|at| at.0),
        watch.runner,
        watch.started,
        watch.last.map(|(at, _)| at.0),
        watch.last.map(|(_, run)| run.0.to_be_bytes().to_vec()),
        watch.error.as_ref().map(|(at, _)| at.0),
        watch.error.as_ref().map(|(_, error)| &**error),
    ];
    connection.prepare_cached(SET)?.execute(set).map(drop)
}

impl SqliteStore {
    fn stored_watch(&self, row: &Row<'_>) -> Result<StoredWatch, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let name: Arc<str> = row.get(0).map_err(explain)?;
        let revision = row.get(1).map_err(explain)?;
        let removed: i64 = row.get(2).map_err(explain)?;
        let watch = if removed == 0 { self.read_watch(row, &name).map(Some) } else { Ok(None) };
        Ok(StoredWatch { name, revision, watch })
    }

    fn read_watch(&self, row: &Row<'_>, name: &Arc<str>) -> Result<Watch, StoreError> {
        let fields = WatchFields { row, identity: &self.identity.name, name };
        let cursor: Option<Vec<u8>> = fields.get(6, "cursor")?;
        let last_run: Option<Vec<u8>> = fields.get(12, "last_run")?;
        let last_run = last_run.map(|bytes| {
            let bytes = bytes.try_into().map_err(|_| fields.corrupt("last_run", "it is no id"))?;
            Ok(RunId(u128::from_be_bytes(bytes)))
        });
        let time = |at, column| Ok::<_, StoreError>(fields.get::<Option<i64>>(at, column)?.map(Time));
        Ok(Watch {
            name: Arc::clone(name),
            workflow: fields.get(3, "workflow")?,
            number: fields.get(4, "workflow")?,
            every: fields.get(5, "every")?,
            cursor: cursor.map_or(Value::NONE, |bytes| Value::new(&bytes)),
            created_at: Time(fields.get(7, "created_at")?),
            paused_at: time(8, "paused_at")?,
            runner: fields.get(9, "runner")?,
            started: fields.get(10, "started")?,
            last: time(11, "last_at")?.zip(last_run.transpose()?),
            error: time(13, "failed_at")?.zip(fields.get(14, "error")?),
        })
    }
}

/// The columns of a watch that is read.
struct WatchFields<'r> {
    /// The row.
    row: &'r Row<'r>,
    /// The store's name.
    identity: &'r str,
    /// The watch's name.
    name: &'r str,
}

impl WatchFields<'_> {
    fn corrupt(&self, column: &str, why: &str) -> StoreError {
        let (identity, name) = (self.identity, self.name);
        StoreError::Corrupt(format!(
            "{identity}: watch '{name}': the column watch.{column} does not read back ({why}); the file was changed by \
             another program or is damaged"
        ))
    }

    fn get<T: rusqlite::types::FromSql>(&self, at: usize, column: &str) -> Result<T, StoreError> {
        self.row.get(at).map_err(|error| self.corrupt(column, &error.to_string()))
    }
}
