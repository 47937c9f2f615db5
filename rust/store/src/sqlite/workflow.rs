//! Workflows and their versions: written once per version of the graph, read from memory afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::TaskId;
use bide_core::record::{NewTask, RecordedTask};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::SqliteStore;
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
        let json = signals.map(|names| serde_json::Value::from_iter(names.iter().map(String::as_str)).to_string());
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
    // The fourth member, what a mapped task is mapped over, is left out of all others.
    let list = tasks.iter().map(|task| {
        let mut row = vec![json!(task.id), json!(*task.name), json!(names(&task.dependencies))];
        row.extend((!task.over.is_empty()).then(|| json!(names(&task.over))));
        serde_json::Value::from(row)
    });
    let list: Vec<serde_json::Value> = list.collect();
    connection.execute(
        "INSERT INTO version (workflow, hash, tasks) VALUES (?1, ?2, ?3)",
        params![workflow, version, serde_json::to_string(&list).map_err(unwritable)?],
    )?;
    Ok(VersionRow { workflow, version: connection.last_insert_rowid(), signals: None, tasks: Some(tasks) })
}

/// Gives each task its number: that of its name, if the workflow ever had a task of this name, else the next.
fn number(connection: &Connection, workflow: i64, tasks: &[NewTask]) -> rusqlite::Result<Arc<[RecordedTask]>> {
    let mut known = connection.prepare("SELECT name, task FROM task_name WHERE workflow = ?1")?;
    let known: HashMap<String, TaskId> =
        known.query_map([workflow], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let first = known.values().max().map_or(0, |last| last + 1);
    let mut new: Vec<&str> = Vec::new();
    let numbered = tasks.iter().map(|task| {
        let name = &task.name;
        let id = known.get(&**name).copied().unwrap_or_else(|| {
            let id = first + new.len() as TaskId;
            new.push(name);
            id
        });
        task.recorded(id)
    });
    let numbered = numbered.collect();
    if !new.is_empty() {
        connection.execute(
            "INSERT INTO task_name (workflow, task, name) SELECT ?1, ?2 + key, value FROM json_each(?3)",
            params![workflow, first, serde_json::to_string(&new).map_err(unwritable)?],
        )?;
    }
    Ok(numbered)
}

fn names(names: &[Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}

/// Reads the task list of a version's row.
pub(super) fn parse_tasks(json: &str) -> Result<Arc<[RecordedTask]>, String> {
    type Plain = (TaskId, String, Vec<String>);
    type Mapped = (TaskId, String, Vec<String>, Vec<String>);
    let task = |(id, name, dependencies, over): Mapped| RecordedTask {
        id,
        name: name.into(),
        dependencies: dependencies.into_iter().map(Into::into).collect(),
        over: over.into_iter().map(Into::into).collect(),
    };
    // Almost every workflow is without mapped tasks, and then it is read in one go.
    if let Ok(plain) = serde_json::from_str::<Vec<Plain>>(json) {
        return Ok(plain.into_iter().map(|(id, name, on)| task((id, name, on, Vec::new()))).collect());
    }
    let rows: Vec<serde_json::Value> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let row = |row: serde_json::Value| match row.as_array().map(Vec::len) {
        Some(4) => serde_json::from_value(row).map(task),
        _ => serde_json::from_value(row).map(|(id, name, on): Plain| task((id, name, on, Vec::new()))),
    };
    rows.into_iter().map(row).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// Reads the declared signals of a version's row; `None` if they do not read back: then any signal is accepted.
pub(super) fn parse_signals(json: &str) -> Option<Vec<String>> {
    serde_json::from_str(json).ok()
}
