//! The state of a run, or its result.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bide_core::nearest::did_you_mean;
use bide_core::record::{StoredRun, TaskRow};
use bide_core::{Failure, RunId, RunStatus, SubStatus, TaskId, TaskStatus, Time, Value};
use serde::de::DeserializeOwned;

use super::codec::decode;
use super::error::Error;

/// A run as it stands, or as it has ended.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// Its id.
    pub id: RunId,
    /// Its workflow's name.
    pub workflow: Arc<str>,
    /// The caller's key.
    pub key: Option<Arc<str>>,
    /// The texts by which it is found.
    pub tags: BTreeMap<Arc<str>, Arc<str>>,
    /// Of what is ready the tasks of runs with a higher one go first.
    pub priority: i32,
    /// Where it stands.
    pub status: RunStatus,
    /// The first committed failure.
    pub error: Option<Failure>,
    /// Why it does not continue.
    pub blocked_by: Option<Arc<str>>,
    /// When it was created.
    pub started_at: SystemTime,
    /// When it ended.
    pub ended_at: Option<SystemTime>,
    /// Its tasks, in declaration order.
    pub tasks: Vec<TaskResult>,
}

/// A task of a run as it stands, or as it has ended.
#[derive(Clone, Debug)]
pub struct TaskResult {
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands.
    pub status: TaskStatus,
    /// While it runs: whether it is deferred.
    pub sub_status: Option<SubStatus>,
    /// Tries so far.
    pub attempts: u32,
    /// When the first attempt started.
    pub first_started_at: Option<SystemTime>,
    /// When the current attempt started.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub ended_at: Option<SystemTime>,
    /// How long it has waited, in closed waits.
    pub waited: Duration,
    /// What it is blocked by or was skipped for.
    pub blocked_by: Option<Arc<str>>,
    /// The last failed attempt's failure; `None` once the task has completed or was skipped.
    pub error: Option<Failure>,
    /// What it returned, encoded.
    output: Option<Value>,
}

fn wall(time: Time) -> SystemTime {
    UNIX_EPOCH + time.since(Time(0))
}

impl RunResult {
    pub(super) fn of(stored: StoredRun) -> Self {
        let StoredRun { run, tasks, mut rows, .. } = stored;
        if rows.len() != tasks.len() || rows.iter().zip(&*tasks).any(|(row, task)| row.task != task.id) {
            let mut known: HashMap<TaskId, TaskRow> = rows.into_iter().map(|row| (row.task, row)).collect();
            rows = tasks
                .iter()
                .map(|task| known.remove(&task.id).unwrap_or_else(|| TaskRow::pending(run.id.row(), task.id)))
                .collect();
        }
        Self {
            // In the memory of the rows: a large run has megabytes of them.
            tasks: rows
                .into_iter()
                .zip(&*tasks)
                .map(|(row, task)| TaskResult::of(Arc::clone(&task.name), row))
                .collect(),
            id: run.id,
            workflow: run.workflow,
            key: run.key,
            tags: run.options.tags,
            priority: run.options.priority,
            status: run.status,
            error: run.failure,
            blocked_by: match (run.blocked_by, run.cancel) {
                (Some(reason), _) => Some(reason.to_string().into()),
                (None, cancel) => cancel.map(|cancel| cancel.text().into()),
            },
            started_at: wall(run.created_at),
            ended_at: run.ended_at.map(wall),
        }
    }

    /// A task by name.
    ///
    /// # Errors
    /// If the run has no such task; suggests the nearest name.
    pub fn task(&self, name: &str) -> Result<&TaskResult, Error> {
        self.tasks.iter().find(|task| &*task.name == name).ok_or_else(|| {
            let hint = did_you_mean(name, self.tasks.iter().map(|task| &*task.name));
            Error::Unknown(format!("run {} of '{}' has no task '{name}'{hint}", self.id, self.workflow))
        })
    }

    /// What a task returned.
    ///
    /// # Errors
    /// If there is no such task, if it did not complete, or if its output is of another type.
    pub fn output<T: DeserializeOwned>(&self, task: &str) -> Result<T, Error> {
        let found = self.task(task)?;
        let Some(output) = &found.output else {
            return Err(Error::Unknown(format!("task '{task}' has no output: it is {}", found.status)));
        };
        decode(output).map_err(|why| {
            Error::Serialization(format!("the output of '{task}' does not read back as what is asked for: {why}"))
        })
    }

    /// For messages: `: task "a": ValueError: no`.
    pub(super) fn how_ended(&self) -> String {
        if self.status == RunStatus::Cancelled {
            return format!("was {}", self.blocked_by.as_deref().unwrap_or("cancelled"));
        }
        format!("failed{}", self.what_failed())
    }

    fn what_failed(&self) -> String {
        let Some(error) = &self.error else { return String::new() };
        let failed = |task: &&TaskResult| task.status == TaskStatus::Failed && task.error.as_ref() == Some(error);
        match self.tasks.iter().find(failed) {
            Some(task) => format!(": task '{}': {error}", task.name),
            None => format!(": {error}"),
        }
    }
}

impl TaskResult {
    fn of(name: Arc<str>, row: TaskRow) -> Self {
        let time = |time: Option<Time>| time.map(wall);
        Self {
            name,
            status: row.status,
            sub_status: row.sub_status,
            attempts: row.attempts,
            first_started_at: time(row.first_started_at),
            started_at: time(row.started_at),
            ended_at: time(row.ended_at),
            waited: Duration::from_micros(u64::try_from(row.waited).unwrap_or(0)),
            blocked_by: row.blocked_by,
            // Rows of older versions have the failure of an earlier attempt, however the task ended.
            error: row.failure.filter(|_| !matches!(row.status, TaskStatus::Completed | TaskStatus::Skipped)),
            output: row.output,
        }
    }
}
