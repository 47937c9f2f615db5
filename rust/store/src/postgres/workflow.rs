//! Workflows and their versions: written once per version of the graph, read from memory afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::TaskId;
use bide_core::record::{NewTask, RecordedTask};

use super::PostgresStore;
use super::error::Failed;
use super::session::{Session, Text};
use crate::recorded::{Numbered, numbered, parse_signals, signals_json, tasks_json};
use crate::{StoreError, StoredWorkflow};

const FIND: &str = "SELECT w.id, v.id, v.signals FROM bide.workflow w JOIN bide.version v ON v.workflow = w.id \
     WHERE w.name = $1::text AND v.hash = $2::text";
const ADD_WORKFLOW: &str = "INSERT INTO bide.workflow (name) VALUES ($1::text) ON CONFLICT DO NOTHING";
/// Until the end of the transaction nobody else gives numbers to tasks of the workflow.
const LOCK_WORKFLOW: &str = "SELECT id FROM bide.workflow WHERE name = $1::text FOR UPDATE";
const TASKS: &str = "SELECT name, task FROM bide.task_name WHERE workflow = $1::int8";
const ADD_TASKS: &str = "INSERT INTO bide.task_name (workflow, task, name) \
     SELECT $1::int8, $2::int8 + n - 1, name FROM unnest($3::text[]) WITH ORDINALITY u(name, n)";
const ADD_VERSION: &str = "INSERT INTO bide.version (workflow, hash, tasks) \
     VALUES ($1::int8, $2::text, $3::text) RETURNING id";
const DECLARE: &str = "UPDATE bide.version SET signals = $2::text WHERE id = $1::int8";
const NAMES: &str = "SELECT w.name, v.hash FROM bide.version v JOIN bide.workflow w ON w.id = v.workflow \
     WHERE v.id = $1::int8";

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

impl PostgresStore {
    pub(super) fn record_version(
        &self,
        name: &str,
        version: &str,
        tasks: &[NewTask],
    ) -> Result<StoredWorkflow, StoreError> {
        self.connections.writer(|session| {
            let row = match find(session, name, version)? {
                Some(found) => found,
                None => session.transact(|session| insert(session, name, version, tasks))?,
            };
            let tasks = match row.tasks {
                Some(tasks) => {
                    self.remembered.versions.lock().insert(row.version, Arc::clone(&tasks));
                    tasks
                }
                None => self.recorded_tasks(session, row.version)?,
            };
            self.remembered.names.lock().insert(row.version, (name.into(), version.into()));
            let signals = row.signals.as_deref().and_then(parse_signals);
            Ok(StoredWorkflow { number: row.workflow, version: row.version, tasks, signals })
        })
    }

    pub(super) fn record_signals(&self, version: i64, signals: Option<&[String]>) -> Result<(), StoreError> {
        let json = signals.map(signals_json);
        let json = json.as_deref().map(Text::from);
        self.connections.writer(|session| session.execute(DECLARE, &[&version, &json]).map(drop))
    }

    /// The names of a version: of its workflow, and the hash of its graph.
    pub(super) fn version_names(
        &self,
        session: &mut Session<'_>,
        version: i64,
    ) -> Result<(Arc<str>, Arc<str>), Failed> {
        let Some(row) = session.query_opt(NAMES, &[&version])? else {
            return Err(self.corrupt(&format!("the version {version} is gone")).into());
        };
        let text = |at| row.try_get::<_, Text<'_>>(at).map(|text| Arc::from(&*text.0));
        Ok((text(0)?, text(1)?))
    }
}

fn find(session: &mut Session<'_>, name: &str, version: &str) -> Result<Option<VersionRow>, Failed> {
    let Some(row) = session.query_opt(FIND, &[&Text::from(name), &Text::from(version)])? else { return Ok(None) };
    let signals = row.try_get::<_, Option<Text<'_>>>(2)?.map(|text| text.0.into_owned());
    Ok(Some(VersionRow { workflow: row.try_get(0)?, version: row.try_get(1)?, signals, tasks: None }))
}

fn insert(session: &mut Session<'_>, name: &str, version: &str, tasks: &[NewTask]) -> Result<VersionRow, Failed> {
    session.execute(ADD_WORKFLOW, &[&Text::from(name)])?;
    let locked = session.query_opt(LOCK_WORKFLOW, &[&Text::from(name)])?;
    // Another process may have been faster.
    if let Some(found) = find(session, name, version)? {
        return Ok(found);
    }
    let Some(locked) = locked else {
        return Err(
            StoreError::Unavailable(format!("the workflow {name:?} was deleted while it was registered")).into()
        );
    };
    let workflow: i64 = locked.try_get(0)?;
    let rows = session.query(TASKS, &[&workflow])?;
    let read = |row: &postgres::Row| Ok((row.try_get::<_, Text<'_>>(0)?.0.into_owned(), row.try_get(1)?));
    let known: HashMap<String, TaskId> = rows.iter().map(read).collect::<Result<_, postgres::Error>>()?;
    let Numbered { tasks, first, new } = numbered(&known, tasks);
    if !new.is_empty() {
        let names: Vec<Text<'_>> = new.into_iter().map(Text::from).collect();
        session.execute(ADD_TASKS, &[&workflow, &first, &names])?;
    }
    let json = tasks_json(&tasks);
    let added = session.query(ADD_VERSION, &[&workflow, &Text::from(version), &Text::from(&*json)])?;
    let Some(added) = added.first() else {
        return Err(StoreError::Corrupt("a version was not recorded".into()).into());
    };
    Ok(VersionRow { workflow, version: added.try_get(0)?, signals: None, tasks: Some(tasks) })
}
