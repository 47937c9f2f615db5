//! Workflows and their versions: written once per version of the graph, read from memory afterwards.

use std::sync::Arc;

use bide_core::TaskId;
use bide_core::record::RecordedTask;
use rusqlite::{Connection, OptionalExtension, params};

use super::SqliteStore;
use crate::{StoreError, StoredWorkflow};

type NewTask = (Arc<str>, Vec<Arc<str>>);

impl SqliteStore {
    pub(super) fn record_version(
        &self,
        name: &str,
        version: &str,
        tasks: &[NewTask],
    ) -> Result<StoredWorkflow, StoreError> {
        let told = |error: rusqlite::Error| self.place.error(&error);
        let known = find(&*self.reader()?, name, version).map_err(told)?;
        let (workflow, version) = match known {
            Some(found) => found,
            None => self.transact(|connection| insert(connection, name, version, tasks))?,
        };
        Ok(StoredWorkflow { number: workflow, version, tasks: self.recorded_tasks(&*self.reader()?, version)? })
    }
}

fn find(connection: &Connection, name: &str, version: &str) -> rusqlite::Result<Option<(i64, i64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT w.id, v.id FROM workflow w JOIN version v ON v.workflow = w.id WHERE w.name = ?1 AND v.hash = ?2",
    )?;
    statement.query_row([name, version], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

fn insert(connection: &Connection, name: &str, version: &str, tasks: &[NewTask]) -> rusqlite::Result<(i64, i64)> {
    // Another process may have been faster.
    if let Some(found) = find(connection, name, version)? {
        return Ok(found);
    }
    connection.execute("INSERT OR IGNORE INTO workflow (name) VALUES (?1)", [name])?;
    let workflow: i64 = connection.query_row("SELECT id FROM workflow WHERE name = ?1", [name], |row| row.get(0))?;
    let mut add = connection.prepare(
        "INSERT OR IGNORE INTO task_name (workflow, task, name) \
         SELECT ?1, 1 + coalesce((SELECT max(task) FROM task_name WHERE workflow = ?1), -1), ?2",
    )?;
    let mut number = connection.prepare("SELECT task FROM task_name WHERE workflow = ?1 AND name = ?2")?;
    let mut list = Vec::with_capacity(tasks.len());
    for (name, dependencies) in tasks {
        add.execute(params![workflow, &**name])?;
        let task: i64 = number.query_row(params![workflow, &**name], |row| row.get(0))?;
        list.push(serde_json::json!([task, &**name, dependencies.iter().map(|name| &**name).collect::<Vec<_>>()]));
    }
    connection.execute(
        "INSERT INTO version (workflow, hash, tasks) VALUES (?1, ?2, ?3)",
        params![workflow, version, serde_json::Value::from(list).to_string()],
    )?;
    Ok((workflow, connection.last_insert_rowid()))
}

/// Reads the task list of a version's row.
pub(super) fn parse_tasks(json: &str) -> Result<Arc<[RecordedTask]>, String> {
    let list: Vec<(TaskId, String, Vec<String>)> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let tasks = list.into_iter().map(|(id, name, dependencies)| RecordedTask {
        id,
        name: name.into(),
        dependencies: dependencies.into_iter().map(Into::into).collect(),
    });
    Ok(tasks.collect())
}
