//! Workflows and their versions: written once per version of the graph, read from memory afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::TaskId;
use bide_core::record::{NewTask, RecordedTask};
use rusqlite::{Connection, OptionalExtension, params};

use super::SqliteStore;
use crate::recorded::{Numbered, numbered, parse_signals, signals_json, tasks_json};
use crate::{StoreError, StoredWorkflow};

const DECLARE: &str = "UPDATE version SET signals = ?2 WHERE id = ?1";

/// A version's row.
struct VersionRow {
    /// The workflow's number.
    workflow: i64,
    /// The version's number.
    version: i64,
    /// The signals that it declares, as they are stored.
    signals: Option<String>,
    /// Its tasks, if it has just been written: then they need not be read.
    tasks: Option<Arc<[RecordedTask]>>,
}

impl SqliteStore {
    pub(super) fn record_version(
        &self,
        name: &str,
        version: &str,
        tasks: &[NewTask],
    ) -> Result<StoredWorkflow, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let known = find(&*self.reader()?, name, version).map_err(explain)?;
        let row = match known {
            Some(found) => found,
            None => self.transact(|connection| insert(connection, name, version, tasks))?,
        };
        let tasks = match row.tasks {
            Some(tasks) => {
                self.versions.lock().insert(row.version, Arc::clone(&tasks));
                tasks
            }
            None => self.recorded_tasks(&*self.reader()?, row.version)?,
        };
        let signals = row.signals.as_deref().and_then(parse_signals);
        Ok(StoredWorkflow { number: row.workflow, version: row.version, tasks, signals })
    }

    pub(super) fn record_signals(&self, version: i64, signals: Option<&[String]>) -> Result<(), StoreError> {
        let json = signals.map(signals_json);
        self.transact(|connection| connection.execute(DECLARE, params![version, json]).map(drop))
    }
}

fn find(connection: &Connection, name: &str, version: &str) -> rusqlite::Result<Option<VersionRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT w.id, v.id, v.signals FROM workflow w JOIN version v ON v.workflow = w.id WHERE w.name = ?1 AND v.hash = ?2",
    )?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(VersionRow { workflow: row.get(0)?, version: row.get(1)?, signals: row.get(2)?, tasks: None })
    };
    statement.query_row([name, version], read).optional()
}

fn insert(connection: &Connection, name: &str, version: &str, tasks: &[NewTask]) -> rusqlite::Result<VersionRow> {
    // Another process may have been faster.
    if let Some(found) = find(connection, name, version)? {
        return Ok(found);
    }
    connection.execute("INSERT OR IGNORE INTO workflow (name) VALUES (?1)", [name])?;
    let workflow: i64 = connection.query_row("SELECT id FROM workflow WHERE name = ?1", [name], |row| row.get(0))?;
    let tasks = number(connection, workflow, tasks)?;
    connection.execute(
        "INSERT INTO version (workflow, hash, tasks) VALUES (?1, ?2, ?3)",
        params![workflow, version, tasks_json(&tasks)],
    )?;
    Ok(VersionRow { workflow, version: connection.last_insert_rowid(), signals: None, tasks: Some(tasks) })
}

/// Gives each task its number: that of its name, if the workflow ever had a task of this name, else the next.
fn number(connection: &Connection, workflow: i64, tasks: &[NewTask]) -> rusqlite::Result<Arc<[RecordedTask]>> {
    let mut known = connection.prepare("SELECT name, task FROM task_name WHERE workflow = ?1")?;
    let known: HashMap<String, TaskId> =
        known.query_map([workflow], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let Numbered { tasks: numbered, first, new } = numbered(&known, tasks);
    if !new.is_empty() {
        connection.execute(
            "INSERT INTO task_name (workflow, task, name) SELECT ?1, ?2 + key, value FROM json_each(?3)",
            params![workflow, first, serde_json::to_string(&new).map_err(unwritable)?],
        )?;
    }
    Ok(numbered)
}

fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}
