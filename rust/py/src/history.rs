//! The history of a run, told from its rows: what has happened to it and its tasks, and what was asked of it.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::record::StoredRun;
use bide_core::{Control, Entry, EntryKind, EntryState, NO_MAP, RunId, TaskId, TaskRow, Time};
use pyo3::prelude::*;

use crate::host::PyEngine;
use crate::moment::datetime;
use crate::{errors, gil};

/// When, what, which task, of what, who and why.
pub(crate) type PyHappened<'py> =
    (Bound<'py, PyAny>, String, Option<String>, Option<String>, Option<String>, Option<String>);

/// Something that has happened.
struct Happened {
    at: Time,
    what: String,
    task: Option<String>,
    of: Option<String>,
    by: Option<Arc<str>>,
    reason: Option<Arc<str>>,
}

impl Happened {
    fn new(at: Time, what: impl Into<String>) -> Self {
        Self { at, what: what.into(), task: None, of: None, by: None, reason: None }
    }

    fn to(self, task: &str) -> Self {
        Self { task: Some(task.to_owned()), ..self }
    }
}

/// The history of a run, oldest first. `None` if there is no such run.
pub(crate) fn history<'py>(py: Python<'py>, engine: &PyEngine, run: RunId) -> PyResult<Option<Vec<PyHappened<'py>>>> {
    let loaded = gil::detached(py, || engine.store().load(run)).map_err(|error| errors::store(py, &error))?;
    let Some(stored) = loaded else { return Ok(None) };
    let mut all = happened(&stored);
    all.sort_by_key(|happened| happened.at);
    let shown = |Happened { at, what, task, of, by, reason }: Happened| {
        let text = |text: Option<Arc<str>>| text.map(|text| text.to_string());
        Ok((datetime(py, at)?, what, task, of, text(by), text(reason)))
    };
    all.into_iter().map(shown).collect::<PyResult<_>>().map(Some)
}

fn happened(stored: &StoredRun) -> Vec<Happened> {
    let names: HashMap<TaskId, &str> = stored.tasks.iter().map(|task| (task.id, &*task.name)).collect();
    let name = |task: TaskId, map: i32| {
        let known = names.get(&task).copied().unwrap_or("?");
        if map == NO_MAP { known.to_owned() } else { format!("{known}[{map}]") }
    };
    let mut all = vec![Happened::new(stored.run.created_at, "created")];
    // A forked run has outcomes of the run that it was forked from.
    let own = |row: &&TaskRow| row.ended_at.is_none_or(|at| at >= stored.run.created_at);
    for row in stored.rows.iter().filter(own) {
        all.extend(of_task(row, &name(row.task, row.map)));
    }
    for (task, map, entry) in &stored.entries {
        all.extend(of_entry(entry, &name(*task, *map)));
    }
    for message in stored.messages.iter().map(|stored| &stored.message) {
        if let Some(Control { ask, by, reason }) = Control::of_message(message) {
            let task = ask.task().map(ToString::to_string);
            let of = ask.other_run().map(|run| run.to_string());
            all.push(Happened { task, of, by, reason, ..Happened::new(message.sent_at, ask.name()) });
        }
    }
    if let Some(ended_at) = stored.run.ended_at {
        all.push(Happened::new(ended_at, stored.run.status.as_str().to_lowercase()));
    }
    all
}

fn of_task(row: &TaskRow, task: &str) -> Vec<Happened> {
    let started = row.first_started_at.map(|at| Happened::new(at, "started").to(task));
    let again = row.started_at.filter(|at| row.attempts > 1 && Some(*at) != row.first_started_at);
    let again = again.map(|at| Happened::new(at, format!("attempt {} started", row.attempts)).to(task));
    let ended = row.ended_at.filter(|_| row.status.is_ended());
    let ended = ended.map(|at| Happened::new(at, row.status.as_str().to_lowercase()).to(task));
    started.into_iter().chain(again).chain(ended).collect()
}

fn of_entry(entry: &Entry, task: &str) -> Vec<Happened> {
    let of = |happened: Happened| Happened { of: Some(entry.key.name.to_string()), ..happened.to(task) };
    let is_wait = matches!(
        entry.kind(),
        EntryKind::Condition
            | EntryKind::Time
            | EntryKind::Signal
            | EntryKind::Any
            | EntryKind::All
            | EntryKind::Child
            | EntryKind::Answer
            | EntryKind::Request
    );
    let opened = is_wait.then(|| of(Happened::new(entry.opened_at, "wait opened")));
    let what = match (is_wait, entry.state) {
        (_, EntryState::Open) => None,
        (true, EntryState::Satisfied) => Some("wait satisfied"),
        (true, EntryState::Failed) => Some("wait failed"),
        (true, EntryState::Lost) => Some("wait given up"),
        (false, EntryState::Failed) => Some("step failed"),
        (false, _) if entry.kind() == EntryKind::Step => Some("step recorded"),
        (false, _) if entry.kind() == EntryKind::Start => Some("child started"),
        (false, _) if entry.kind() == EntryKind::Checkpoint => Some("checkpoint"),
        (false, _) => Some("recorded"),
    };
    let closed = entry.closed_at.zip(what).map(|(at, what)| of(Happened::new(at, what)));
    opened.into_iter().chain(closed).collect()
}
