//! A run as its callers see it: a handle to wait with, and what came of it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bide_core::nearest::did_you_mean;
use bide_core::record::{StoredRun, TaskRow};
use bide_core::{Failure, RunId, RunStatus, SubStatus, TaskId, TaskStatus, Time, Value};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::codec::decode;
use super::error::{Error, RunFailed};
use super::runner::blocking;
use super::workflow::Closures;
use crate::engine::Engine;
use crate::runs::settled::Settlement;
use crate::runs::submit::{Handle, Watched};

/// A run that was submitted, or that a key names.
#[derive(Clone)]
pub struct RunHandle {
    engine: Arc<Engine<Closures>>,
    handle: Handle<Closures>,
}

impl fmt::Debug for RunHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunHandle({})", self.id())
    }
}

impl RunHandle {
    pub(super) fn new(engine: &Arc<Engine<Closures>>, handle: Handle<Closures>) -> Self {
        Self { engine: Arc::clone(engine), handle }
    }

    /// The run's id.
    #[must_use]
    pub fn id(&self) -> RunId {
        self.handle.id()
    }

    /// Waits until the run has ended.
    ///
    /// # Errors
    /// [`Error::Failed`] with the whole result if a task failed; else why the run does not go on here.
    pub async fn result(&self) -> Result<RunResult, Error> {
        let mut handle = self.handle.clone();
        loop {
            let settlement = self.settled(&handle).await?;
            match (settlement, &handle) {
                (Settlement::Run(status), _) => {
                    let result = self.snapshot(&handle).await?;
                    return match status {
                        RunStatus::Completed => Ok(result),
                        RunStatus::Paused | RunStatus::Pending | RunStatus::Running => Err(Error::Blocked(format!(
                            "run {} of '{}' is paused: {}",
                            result.id,
                            result.workflow,
                            result.blocked_by.as_deref().unwrap_or("on request")
                        ))),
                        RunStatus::Failed | RunStatus::Cancelled => Err(Error::Failed(Box::new(RunFailed { result }))),
                    };
                }
                // Another runner has taken it over: wait for what comes of it there.
                (Settlement::Elsewhere, Handle::Live(_)) => {
                    let id = handle.id();
                    let settled = blocking(&self.engine, move |engine| engine.watch(id)).await??;
                    handle = Handle::Watched(Box::new(Watched { id, settled }));
                }
                (Settlement::Elsewhere, Handle::Watched(watched)) => return Err(Error::unknown_run(watched.id)),
                (settlement, _) => return Err(Error::settled(settlement)),
            }
        }
    }

    /// How the run stands now.
    ///
    /// # Errors
    /// From the store.
    pub async fn status(&self) -> Result<RunStatus, Error> {
        Ok(self.snapshot(&self.handle).await?.status)
    }

    async fn settled(&self, handle: &Handle<Closures>) -> Result<Settlement, Error> {
        if let Some(settlement) = handle.settled().get() {
            return Ok(settlement);
        }
        if let Handle::Watched(watched) = handle {
            self.is_taken_up(watched.id).await?;
        }
        let (told, settled) = oneshot::channel();
        handle.settled().on_settled(Box::new(move || {
            let _ = told.send(());
        }));
        let _ = settled.await;
        handle.settled().get().ok_or(Error::Closed)
    }

    /// Whether anybody can execute a run that is not executed here: else the caller would wait for ever.
    async fn is_taken_up(&self, id: RunId) -> Result<(), Error> {
        let standing = blocking(&self.engine, move |engine| engine.store().standing(id)).await??;
        let run = standing.ok_or_else(|| Error::unknown_run(id))?;
        match blocking(&self.engine, move |engine| engine.why_not_here(&run)).await? {
            Some(why) => Err(Error::Blocked(format!("run {id} is not taken up: {why}"))),
            None => Ok(()),
        }
    }

    async fn snapshot(&self, handle: &Handle<Closures>) -> Result<RunResult, Error> {
        match handle {
            Handle::Live(run) => {
                let run = Arc::clone(run);
                let stored = blocking(&self.engine, move |engine| engine.committed(&run)).await??;
                Ok(RunResult::of(stored))
            }
            Handle::Watched(watched) => {
                let id = watched.id;
                let stored = blocking(&self.engine, move |engine| engine.store().load(id)).await??;
                stored.map(RunResult::of).ok_or_else(|| Error::unknown_run(id))
            }
        }
    }
}

/// A run as it stands, or as it has ended.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// Its id.
    pub id: RunId,
    /// Its workflow's name.
    pub workflow: Arc<str>,
    /// The caller's key.
    pub key: Option<Arc<str>>,
    /// Where it stands.
    pub status: RunStatus,
    /// The first committed failure.
    pub error: Option<Failure>,
    /// Why it does not go on.
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
            status: run.status,
            error: run.failure,
            blocked_by: run.blocked_by.map(|reason| reason.to_string().into()),
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
    pub(super) fn what_failed(&self) -> String {
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
