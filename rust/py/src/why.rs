//! What holds runs, and what waits, as Python makes words of it: see `bide._why`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bide_core::record::{RecordedTask, StoredRun};
use bide_core::{Entry, EntryKind, NO_MAP, Operation, RunId, TaskId, TaskRow, TaskStatus, Time};
use bide_executor::{Explained, Owner, Polls};
use bide_store::{OpenWait, WaitPosition};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::host::PyEngine;
use crate::moment::datetime;
use crate::{errors, gil};

/// A wait: kind, name, since, when its time is reached, deadline, polls, next poll, last error, the child that it waits
/// for, what it combines (names), and what it waits for together with others of its run (the name of a message).
pub(crate) type PyWait<'py> = (
    &'static str,
    String,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<u32>,
    Option<Bound<'py, PyAny>>,
    Option<String>,
    Option<String>,
    Vec<String>,
    Option<String>,
);

/// A wait of any run: run, its key, workflow, task, where it stands among all, and the wait itself.
pub(crate) type PyListed<'py> = (String, Option<String>, String, String, PyPosition, PyWait<'py>);

/// See [`WaitPosition`].
pub(crate) type PyPosition = (i64, i64, i64, i32, u32);

/// A task that has not ended: name, status, whether it holds a slot, attempts, started, retried at, what its row says it
/// is blocked by, its last failure, the tasks that have to end before it, and its open waits.
pub(crate) type PyTask<'py> = (
    String,
    &'static str,
    Option<&'static str>,
    u32,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<String>,
    Option<Bound<'py, PyBytes>>,
    Vec<String>,
    Vec<PyWait<'py>>,
);

/// What holds a run: id, workflow, key, status, the run above it, why it is paused, who has it (a word, process and host),
/// why it is not executed here, and its tasks.
pub(crate) type PyWhy<'py> = (
    String,
    String,
    Option<String>,
    &'static str,
    Option<String>,
    Option<String>,
    (&'static str, Option<u32>, Option<String>),
    Option<String>,
    Vec<PyTask<'py>>,
);

/// What holds a run; `None` if there is no such run.
pub(crate) fn explain<'py>(py: Python<'py>, engine: &Arc<PyEngine>, run: RunId) -> PyResult<Option<PyWhy<'py>>> {
    let found = gil::detached(py, || {
        engine.explain(run).map(|found| {
            found.map(|found| {
                let tasks = unended(&found.stored);
                (found, tasks)
            })
        })
    });
    let Some((found, tasks)) = found.map_err(|error| errors::store(py, &error))? else { return Ok(None) };
    let run = &found.stored.run;
    let owner = match &found.owner {
        Owner::Here => ("here", None, None),
        Owner::Other(runner) => ("other", Some(runner.pid), Some(runner.host.clone())),
        Owner::Gone => ("gone", None, None),
        Owner::Nobody => ("nobody", None, None),
    };
    let tasks = tasks.into_iter().map(|task| task.shown(py, &found)).collect::<PyResult<_>>()?;
    Ok(Some((
        run.id.to_string(),
        run.workflow.to_string(),
        run.key.as_deref().map(str::to_owned),
        run.status.as_str(),
        run.parent.map(|id| id.to_string()),
        run.blocked_by.as_ref().map(ToString::to_string),
        owner,
        found.not_here.as_ref().map(ToString::to_string),
        tasks,
    )))
}

/// A page of the open waits of all runs, after a position.
pub(crate) fn open_waits<'py>(
    py: Python<'py>,
    engine: &Arc<PyEngine>,
    after: Option<PyPosition>,
    most: usize,
) -> PyResult<Vec<PyListed<'py>>> {
    let after =
        after.map(|(opened_at, run, task, map, seq)| WaitPosition { opened_at: Time(opened_at), run, task, map, seq });
    let page = gil::detached(py, || engine.open_waits(after, most)).map_err(|error| errors::store(py, &error))?;
    let listed = |(wait, polls): &(OpenWait, Option<Polls>)| {
        let at = wait.position();
        let name = element(&wait.name, wait.map);
        let position = (at.opened_at.0, at.run, at.task, at.map, at.seq);
        let key = wait.key.as_deref().map(str::to_owned);
        let shown = shown(py, &wait.entry, polls.as_ref())?;
        Ok((wait.run.to_string(), key, wait.workflow.to_string(), name, position, shown))
    };
    page.iter().map(listed).collect()
}

/// The name of a task, or of its element.
fn element(task: &str, map: i32) -> String {
    if map == NO_MAP { task.to_owned() } else { format!("{task}[{map}]") }
}

/// A task that has not ended, with what it is made of.
struct Unended<'s> {
    task: &'s RecordedTask,
    map: i32,
    row: Option<&'s TaskRow>,
    /// The tasks that have to end before it.
    unmet: Vec<String>,
    entries: Vec<&'s Entry>,
}

/// The tasks of a run that have not ended, in declaration order, and after a mapped one its elements.
fn unended(stored: &StoredRun) -> Vec<OwnedTask> {
    if stored.run.status.is_ended() {
        return Vec::new();
    }
    let rows: HashMap<(TaskId, i32), &TaskRow> = stored.rows.iter().map(|row| ((row.task, row.map), row)).collect();
    let mut entries: HashMap<(TaskId, i32), Vec<&Entry>> = HashMap::new();
    for (task, map, entry) in &stored.entries {
        if entry.kind() != EntryKind::Step || entry.due().is_some() {
            entries.entry((*task, *map)).or_default().push(entry);
        }
    }
    let has_ended = |place: (TaskId, i32)| rows.get(&place).is_some_and(|row| row.status.is_ended());
    let ended: HashSet<&str> =
        stored.tasks.iter().filter(|task| has_ended((task.id, NO_MAP))).map(|task| &*task.name).collect();
    let mut found = Vec::new();
    for task in stored.tasks.iter().filter(|task| !ended.contains(&*task.name)) {
        let unmet = task.dependencies.iter().filter(|name| !ended.contains(&***name));
        let length = rows.get(&(task.id, NO_MAP)).and_then(|row| row.length);
        let elements = (0..length.unwrap_or_default().cast_signed()).filter(|map| !has_ended((task.id, *map)));
        let elements: Vec<i32> = elements.collect();
        let of_elements = elements.iter().map(|map| element(&task.name, *map));
        let unmet: Vec<String> = match length {
            None => unmet.map(|name| name.to_string()).collect(),
            Some(_) => of_elements.collect(),
        };
        for map in std::iter::once(NO_MAP).chain(elements) {
            let place = (task.id, map);
            let unmet = if map == NO_MAP { unmet.clone() } else { Vec::new() };
            let row = rows.get(&place).copied();
            let entries = entries.remove(&place).unwrap_or_default();
            found.push(OwnedTask::of(&Unended { task, map, row, unmet, entries }));
        }
    }
    found
}

/// The same, with nothing that it borrows.
struct OwnedTask {
    id: TaskId,
    map: i32,
    name: String,
    status: TaskStatus,
    sub_status: Option<&'static str>,
    attempts: u32,
    started_at: Option<Time>,
    retry_at: Option<Time>,
    blocked_by: Option<String>,
    failure: Option<String>,
    unmet: Vec<String>,
    entries: Vec<Entry>,
}

impl OwnedTask {
    fn of(task: &Unended<'_>) -> Self {
        let Unended { task, map, row, unmet, entries } = task;
        Self {
            id: task.id,
            map: *map,
            name: element(&task.name, *map),
            status: row.map_or(TaskStatus::Pending, |row| row.status),
            sub_status: row.and_then(|row| row.sub_status).map(|sub| sub.as_str()),
            attempts: row.map_or(0, |row| row.attempts),
            started_at: row.and_then(|row| row.started_at),
            retry_at: row.and_then(|row| row.retry_at),
            blocked_by: row.and_then(|row| row.blocked_by.as_deref()).map(str::to_owned),
            failure: row.and_then(|row| row.failure.as_ref()).map(|failure| failure.as_json().to_owned()),
            unmet: unmet.clone(),
            entries: entries.iter().map(|entry| (*entry).clone()).collect(),
        }
    }

    fn shown<'py>(self, py: Python<'py>, found: &Explained) -> PyResult<PyTask<'py>> {
        let (id, map) = (self.id, self.map);
        let waits = self.entries.iter().map(|entry| shown(py, entry, found.polls(id, map, &entry.key)));
        Ok((
            self.name,
            self.status.as_str(),
            self.sub_status,
            self.attempts,
            self.started_at.map(|at| datetime(py, at)).transpose()?,
            self.retry_at.map(|at| datetime(py, at)).transpose()?,
            self.blocked_by,
            self.failure.map(|failure| PyBytes::new(py, failure.as_bytes())),
            self.unmet,
            waits.collect::<PyResult<_>>()?,
        ))
    }
}

fn shown<'py>(py: Python<'py>, entry: &Entry, polls: Option<&Polls>) -> PyResult<PyWait<'py>> {
    let at = |time: Option<Time>| time.filter(|time| *time != Time::NEVER).map(|time| datetime(py, time)).transpose();
    let child = match &entry.operation {
        Operation::Child { run } => Some(run.to_string()),
        _ => None,
    };
    let message = match (&entry.operation, entry.kind()) {
        // The address of a callback is its secret.
        (Operation::Message(address), EntryKind::Signal | EntryKind::Request) => Some(address.name.to_string()),
        _ => None,
    };
    // Where the run is executed, its row may be older.
    let error = polls.map_or(entry.failure.as_ref(), |polls| polls.error.as_ref());
    Ok((
        word(entry.kind()),
        entry.key.name.to_string(),
        datetime(py, entry.opened_at)?,
        at(entry.due())?,
        at(entry.deadline)?,
        polls.map(|polls| polls.count),
        at(polls.and_then(|polls| polls.next))?,
        error.map(ToString::to_string),
        child,
        entry.operation.members().iter().map(|key| key.name.to_string()).collect(),
        message,
    ))
}

/// The kind of a wait as Python names it: see `bide._why.WaitKind`.
pub(crate) const fn word(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Condition => "condition",
        EntryKind::Time => "time",
        EntryKind::Signal => "signal",
        EntryKind::Request => "request",
        EntryKind::Answer => "callback",
        EntryKind::Child => "child",
        EntryKind::Any => "any",
        EntryKind::All => "all",
        // Of the others none is waited for but a step, until it is tried again.
        _ => "step",
    }
}
