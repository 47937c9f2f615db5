//! What holds runs, and what waits, as Python makes words of it: see `bide._why`.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bide_core::record::StoredRun;
use bide_core::{Control, Entry, EntryKind, Message, NO_MAP, Operation, RunId, TaskId, TaskRow, TaskStatus, Time};
use bide_executor::{Explained, Owner, Polls};
use bide_store::{OpenWait, WaitPosition};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::host::PyEngine;
use crate::limits::PyHeldBack;
use crate::moment::datetime;
use crate::{errors, gil, limits};

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
/// is blocked by, its last failure, the tasks that have to end before it, its open waits, and what holds it back.
pub(crate) type PyTask<'py> = (
    String,
    &'static str,
    Option<&'static str>,
    u32,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<String>,
    Option<Bound<'py, PyBytes>>,
    Bound<'py, PyTuple>,
    Vec<PyWait<'py>>,
    Option<PyHeldBack>,
);

/// What was asked of a run: when, what, of which task, who and why.
type PyRequest<'py> = (Bound<'py, PyAny>, &'static str, Option<String>, Option<String>, Option<String>);

/// Of a run that was cancelled: who and why, and both in words.
type PyCancel = (Option<String>, Option<String>, String);

/// What holds a run: id, workflow, key, status, the run above it, why it is paused and whether on request, who has it (a
/// word, process and host), why it is not executed here, its tasks, its cancellation, when it begins, and what was asked of
/// it.
pub(crate) type PyWhy<'py> = (
    String,
    String,
    Option<String>,
    &'static str,
    Option<String>,
    Option<(String, bool)>,
    (&'static str, Option<u32>, Option<String>),
    Option<String>,
    Vec<Bound<'py, PyTuple>>,
    Option<PyCancel>,
    Option<Bound<'py, PyAny>>,
    Vec<PyRequest<'py>>,
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
        run.blocked_by.as_ref().map(|reason| (reason.told(), reason.is_requested())),
        owner,
        found.not_here.as_ref().map(ToString::to_string),
        tasks,
        run.cancel.as_ref().map(|cancel| (text(&cancel.by), text(&cancel.reason), cancel.text())),
        found.starts_at.map(|at| datetime(py, at)).transpose()?,
        found.requests.iter().filter_map(|message| request(py, message)).collect::<PyResult<_>>()?,
    )))
}

fn text(text: &Option<Arc<str>>) -> Option<String> {
    text.as_deref().map(str::to_owned)
}

fn request<'py>(py: Python<'py>, message: &Message) -> Option<PyResult<PyRequest<'py>>> {
    let Control { ask, by, reason } = Control::of_message(message)?;
    let at = datetime(py, message.sent_at);
    Some(at.map(|at| (at, ask.name(), ask.task().map(ToString::to_string), text(&by), text(&reason))))
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
        let name = element(&wait.name, wait.map).into_owned();
        let position = (at.opened_at.0, at.run, at.task, at.map, at.seq);
        let key = wait.key.as_deref().map(str::to_owned);
        let shown = shown(py, &wait.entry, polls.as_ref())?;
        Ok((wait.run.to_string(), key, wait.workflow.to_string(), name, position, shown))
    };
    page.iter().map(listed).collect()
}

/// The name of a task, or of its element.
fn element(task: &str, map: i32) -> Cow<'_, str> {
    if map == NO_MAP { Cow::Borrowed(task) } else { Cow::Owned(format!("{task}[{map}]")) }
}

/// A task that has not ended: where what is known of it stands in its run.
struct Unended {
    /// Among the tasks.
    task: usize,
    map: i32,
    /// Among the rows.
    row: Option<usize>,
    /// The tasks that have to end before it, among its dependencies.
    unmet: Vec<usize>,
    /// The elements that have to end before it.
    elements: Vec<i32>,
    /// Among the entries.
    entries: Vec<usize>,
}

/// The tasks of a run that have not ended, in declaration order, and after a mapped one its elements.
fn unended(stored: &StoredRun) -> Vec<Unended> {
    if stored.run.status.is_ended() {
        return Vec::new();
    }
    let rows: HashMap<(TaskId, i32), usize> =
        stored.rows.iter().enumerate().map(|(at, row)| ((row.task, row.map), at)).collect();
    let mut entries: HashMap<(TaskId, i32), Vec<usize>> = HashMap::new();
    for (at, (task, map, entry)) in stored.entries.iter().enumerate() {
        if entry.kind() != EntryKind::Step || entry.due().is_some() {
            entries.entry((*task, *map)).or_default().push(at);
        }
    }
    let has_ended = |place: (TaskId, i32)| rows.get(&place).is_some_and(|at| stored.rows[*at].status.is_ended());
    let ended: HashSet<&str> =
        stored.tasks.iter().filter(|task| has_ended((task.id, NO_MAP))).map(|task| &*task.name).collect();
    let mut found = Vec::new();
    for (at, task) in stored.tasks.iter().enumerate().filter(|(_, task)| !ended.contains(&*task.name)) {
        let length = rows.get(&(task.id, NO_MAP)).and_then(|at| stored.rows[*at].length);
        let elements: Vec<i32> =
            (0..length.unwrap_or_default().cast_signed()).filter(|map| !has_ended((task.id, *map))).collect();
        let unmet = task.dependencies.iter().enumerate().filter(|(_, name)| !ended.contains(&***name));
        let unmet = if length.is_none() { unmet.map(|(at, _)| at).collect() } else { Vec::new() };
        let mut add = |map: i32, unmet: Vec<usize>, elements: Vec<i32>| {
            let place = (task.id, map);
            let (row, entries) = (rows.get(&place).copied(), entries.remove(&place).unwrap_or_default());
            found.push(Unended { task: at, map, row, unmet, elements, entries });
        };
        add(NO_MAP, unmet, elements.clone());
        elements.into_iter().for_each(|map| add(map, Vec::new(), Vec::new()));
    }
    found
}

impl Unended {
    /// See [`PyTask`]. Of one that only waits for others its name and these: most tasks of a long run are such.
    fn shown<'py>(&self, py: Python<'py>, found: &Explained) -> PyResult<Bound<'py, PyTuple>> {
        let stored = &found.stored;
        let (task, row) = (&stored.tasks[self.task], self.row.map(|at| &stored.rows[at]));
        let name = element(&task.name, self.map);
        let elements = self.elements.iter().map(|map| element(&task.name, *map));
        let needs = self.unmet.iter().map(|at| Cow::Borrowed(&*task.dependencies[*at])).chain(elements);
        let needs = PyTuple::new(py, needs.collect::<Vec<_>>())?;
        let untouched = |row: &TaskRow| {
            let is_pending = row.status == TaskStatus::Pending && row.attempts == 0;
            is_pending && row.blocked_by.is_none() && row.failure.is_none() && row.retry_at.is_none()
        };
        if !needs.is_empty() && self.entries.is_empty() && row.is_none_or(untouched) {
            return (name, needs).into_pyobject(py);
        }
        let waits = self.entries.iter().map(|at| {
            let (id, map, entry) = &stored.entries[*at];
            shown(py, entry, found.polls(*id, *map, &entry.key))
        });
        let at = |time: Option<Time>| time.map(|time| datetime(py, time)).transpose();
        let held = found.held_back.iter().find(|held| (held.task, held.map) == (task.id, self.map));
        let task: PyTask<'py> = (
            name.into_owned(),
            row.map_or(TaskStatus::Pending, |row| row.status).as_str(),
            row.and_then(|row| row.sub_status).map(|sub| sub.as_str()),
            row.map_or(0, |row| row.attempts),
            at(row.and_then(|row| row.started_at))?,
            at(row.and_then(|row| row.retry_at))?,
            row.and_then(|row| row.blocked_by.as_deref()).map(str::to_owned),
            row.and_then(|row| row.failure.as_ref()).map(|failure| PyBytes::new(py, failure.as_json().as_bytes())),
            needs,
            waits.collect::<PyResult<_>>()?,
            held.map(limits::held_back),
        );
        task.into_pyobject(py)
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
    let error = polls.map_or(entry.failure.as_deref(), |polls| polls.error.as_ref());
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
