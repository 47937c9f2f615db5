//! `_core.Snapshot`: what is known of a run, for `RunResult` to read.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bide_core::context::{self, Changes};
use bide_core::graph::split_element;
use bide_core::record::{RecordedTask, StoredRun};
use bide_core::{Graph, NO_MAP, Progress, RunId, RunStatus, TaskId, TaskRef, TaskRow, TaskSpec, Time, Value};
use bide_executor::{Settlement, WatchedRun};
use bide_store::{RunFilter, StoreError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::host::{PyEngine, PyRun, Python3};
use crate::journal::{self, PyEntry};
use crate::moment::datetime;
use crate::{errors, gil, options, panics};

/// A run as it stands, or stood when this was asked for.
#[pyclass(frozen, module = "bide._core", name = "Snapshot")]
pub(crate) struct PySnapshot {
    /// The engine that the run was asked of.
    engine: Arc<PyEngine>,
    /// The run in memory, if it is there.
    live: Option<Arc<PyRun>>,
    /// The run as stored; of a run in memory it is made when first needed.
    stored: OnceLock<StoredRun>,
    /// Where the row of each task and element is, if there are many.
    rows: OnceLock<HashMap<(TaskId, i32), usize>>,
    /// Where the progress of each task and element is that has said how far it has come.
    progress: OnceLock<HashMap<(TaskId, i32), usize>>,
}

/// Up to this many rows are searched without an index.
const FEW_ROWS: usize = 16;

impl PySnapshot {
    /// A snapshot of a run in memory.
    pub(crate) fn live(py: Python<'_>, engine: &Arc<PyEngine>, run: Arc<PyRun>) -> PyResult<Self> {
        let snapshot = match run.settled.get() {
            Some(Settlement::Run(_)) => Self::in_memory(engine, run),
            _ => gil::detached(py, || Self::in_memory(engine, run)),
        };
        snapshot.map_err(|error| errors::store(py, &error))
    }

    /// One of a run that has ended is read lazily, one of a run that continues is read now. Blocks for the latter.
    fn in_memory(engine: &Arc<PyEngine>, run: Arc<PyRun>) -> Result<Self, StoreError> {
        let stored = match run.settled.get() {
            Some(Settlement::Run(_)) => OnceLock::new(),
            _ => OnceLock::from(engine.committed(&run)?),
        };
        Ok(Self {
            engine: Arc::clone(engine),
            live: Some(run),
            stored,
            rows: OnceLock::new(),
            progress: OnceLock::new(),
        })
    }

    /// Of any run.
    pub(crate) fn load(py: Python<'_>, engine: &Arc<PyEngine>, id: RunId) -> PyResult<Option<Self>> {
        if let Some(run) = engine.live(id) {
            return Self::live(py, engine, run).map(Some);
        }
        let loaded = gil::detached(py, || engine.store().load(id));
        let loaded = loaded.map_err(|error: StoreError| errors::store(py, &error))?;
        Ok(loaded.map(|stored| Self::of_stored(engine, stored)))
    }

    /// Of a run that its caller waits for.
    pub(crate) fn watched(
        py: Python<'_>,
        engine: &Arc<PyEngine>,
        watched: &WatchedRun<Python3>,
    ) -> PyResult<Option<Self>> {
        if let Some(run) = engine.live(watched.id) {
            return Self::live(py, engine, run).map(Some);
        }
        let loaded = gil::detached(py, || engine.load(watched)).map_err(|error| errors::store(py, &error))?;
        Ok(loaded.map(|stored| Self::of_stored(engine, stored)))
    }

    /// Of a run as it was listed. Of one that is executed here memory shows more than its rows.
    fn listed(engine: &Arc<PyEngine>, stored: StoredRun) -> Result<Self, StoreError> {
        match engine.live(stored.run.id) {
            Some(run) => Self::in_memory(engine, run),
            None => Ok(Self::of_stored(engine, stored)),
        }
    }

    fn of_stored(engine: &Arc<PyEngine>, stored: StoredRun) -> Self {
        Self {
            engine: Arc::clone(engine),
            live: None,
            stored: OnceLock::from(stored),
            rows: OnceLock::new(),
            progress: OnceLock::new(),
        }
    }

    fn stored(&self) -> &StoredRun {
        self.stored.get_or_init(|| match &self.live {
            Some(run) => run.snapshot(),
            None => unreachable!("a snapshot is of a run in memory or of a stored one"),
        })
    }

    /// The number of a task and the map index, by the name of the task or element.
    fn place(&self, name: &str) -> Option<(TaskId, i32)> {
        let stored = self.stored();
        let number = |name: &str| stored.tasks.iter().find(|task| *task.name == *name).map(|task| task.id);
        if let Some(task) = number(name) {
            return Some((task, NO_MAP));
        }
        let (task, map) = split_element(name)?;
        let task = number(task)?;
        let length = self.row_at((task, NO_MAP))?.length?;
        u32::try_from(map).is_ok_and(|map| map < length).then_some((task, map))
    }

    fn row_at(&self, place: (TaskId, i32)) -> Option<&TaskRow> {
        let rows = &self.stored().rows;
        let at = self.rows.get_or_init(|| {
            let places = rows.iter().zip(0..).map(|(row, at)| ((row.task, row.map), at));
            if rows.len() > FEW_ROWS { places.collect() } else { HashMap::new() }
        });
        if rows.len() > FEW_ROWS {
            return rows.get(*at.get(&place)?);
        }
        rows.iter().find(|row| (row.task, row.map) == place)
    }

    /// The lengths of the mapped tasks whose elements are known, with their names, in declaration order.
    fn lengths(&self) -> Vec<(Arc<str>, u32)> {
        let length = |task: &RecordedTask| Some((Arc::clone(&task.name), self.row_at((task.id, NO_MAP))?.length?));
        self.stored().tasks.iter().filter_map(length).collect()
    }

    fn progress(&self, place: (TaskId, i32)) -> Option<&Progress> {
        let said = &self.stored().progress;
        let at = self.progress.get_or_init(|| {
            let places = said.iter().zip(0..).map(|(row, at)| ((row.task, row.map), at));
            places.collect()
        });
        Some(&said.get(*at.get(&place)?)?.progress)
    }

    /// A value by the writer's annotation where the workflow is known, else as plain JSON.
    fn decode<'py>(&self, py: Python<'py>, task: &str, value: &Value) -> PyResult<Bound<'py, PyAny>> {
        let workflow = match &self.live {
            Some(run) => Some(Arc::clone(&run.workflow)),
            None => self.engine.workflow(&self.stored().run.workflow),
        };
        let decoded = match workflow.as_ref().and_then(|workflow| Some((workflow, workflow.graph.find(task)?))) {
            Some((workflow, ix)) => workflow.bodies[ix as usize].returns.decode(py, value),
            None => errors::names(py)?.plain_codec.decode(py, value),
        };
        Ok(decoded?.into_bound())
    }

    /// What the elements of a mapped task returned, in a list of one list; an empty list if not all have.
    fn list<'py>(&self, py: Python<'py>, task: &str, number: TaskId, length: u32) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let list = PyList::empty(py);
        for map in 0..length.cast_signed() {
            match self.row_at((number, map)).and_then(|row| row.output.as_ref()) {
                Some(value) => list.append(self.decode(py, task, value)?)?,
                None => return Ok(Vec::new()),
            }
        }
        Ok(vec![list.into_any()])
    }

    /// The context after the changes of the tasks.
    fn context(&self) -> Result<Vec<(Arc<str>, Value)>, String> {
        if let (Some(run), None) = (&self.live, self.stored.get()) {
            return run.final_context().map(|(values, _)| values).map_err(|why| why.to_string());
        }
        let stored = self.stored();
        let specs = stored
            .tasks
            .iter()
            .map(|task| TaskSpec { dependencies: task.dependencies.clone(), ..TaskSpec::new(Arc::clone(&task.name)) });
        let graph = Graph::build(&stored.run.workflow, specs.collect(), false).map_err(|why| why.0)?;
        let inputs = stored.run.unpacked_inputs().map_err(|why| why.to_string())?;
        let mut changes = std::collections::HashMap::new();
        for row in &stored.rows {
            let ix = stored.tasks.iter().position(|task| task.id == row.task);
            if let (Some(ix), Some(blob)) = (ix, &row.changes) {
                changes.insert(ix as u32, Changes::unpack(blob).map_err(|why| why.to_string())?);
            }
        }
        Ok(context::final_view(&graph, &inputs, |ix| changes.get(&ix)).0)
    }
}

#[pymethods]
impl PySnapshot {
    /// The run's id.
    #[getter]
    fn id(&self) -> String {
        match &self.live {
            Some(run) => run.id.to_string(),
            None => self.stored().run.id.to_string(),
        }
    }

    /// The workflow's name.
    #[getter]
    fn workflow(&self) -> &str {
        match &self.live {
            Some(run) => run.workflow.graph.workflow(),
            None => &self.stored().run.workflow,
        }
    }

    /// The inputs as they are stored.
    fn inputs<'py>(&self, py: Python<'py>) -> PyResult<Vec<(String, Bound<'py, PyBytes>)>> {
        let stored = self.stored();
        let inputs = stored.run.unpacked_inputs().map_err(|why| errors::bide(py, &why.to_string()))?;
        let input = |(name, value): (Arc<str>, Value)| (name.to_string(), PyBytes::new(py, value.as_bytes()));
        Ok(inputs.into_iter().map(input).collect())
    }

    /// The inputs as the workflow's tasks read them where it is known, else as plain JSON.
    fn decoded_inputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        panics::method(|| {
            let stored = self.stored();
            let inputs = stored.run.unpacked_inputs().map_err(|why| errors::bide(py, &why.to_string()))?;
            let workflow = match &self.live {
                Some(run) => Some(Arc::clone(&run.workflow)),
                None => self.engine.workflow(&stored.run.workflow),
            };
            let dict = PyDict::new(py);
            for (name, value) in inputs {
                let reader = workflow.as_ref().and_then(|workflow| options::reader_of(&workflow.bodies, &name));
                let codec = match reader {
                    Some(codec) => codec,
                    None => &errors::names(py)?.plain_codec,
                };
                dict.set_item(&*name, &*codec.decode(py, &value)?)?;
            }
            Ok(dict)
        })
    }

    /// The tags of the run.
    #[getter]
    fn tags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        match &self.live {
            Some(run) => options::tags_of(py, &run.options.as_deref().cloned().unwrap_or_default()),
            None => options::tags_of(py, &self.stored().run.options),
        }
    }

    /// The caller's key.
    #[getter]
    fn key(&self) -> Option<&str> {
        match &self.live {
            Some(run) => run.key.as_deref(),
            None => self.stored().run.key.as_deref(),
        }
    }

    /// The id of the run whose body has started this one, if one has.
    #[getter]
    fn parent(&self) -> Option<String> {
        match &self.live {
            Some(run) => run.parent.as_ref().map(|parent| parent.id.to_string()),
            None => self.stored().run.parent.map(|id| id.to_string()),
        }
    }

    /// Where the run stands.
    #[getter]
    fn status(&self) -> &'static str {
        if let (Some(run), None) = (&self.live, self.stored.get()) {
            return run.state.lock().status().as_str();
        }
        self.stored().run.status.as_str()
    }

    /// Why the run does not continue, if it does not.
    #[getter]
    fn blocked_by(&self, py: Python<'_>) -> Option<String> {
        let run = &self.stored().run;
        if let Some(reason) = &run.blocked_by {
            return Some(reason.told());
        }
        if let Some(cancel) = &run.cancel {
            return Some(cancel.text());
        }
        if self.live.is_some() {
            return None;
        }
        gil::detached(py, || self.engine.why_not_here(run.id, &run.into())).map(|why| why.to_string())
    }

    /// The first committed failure, as stored.
    #[getter]
    fn failure<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        if let (Some(run), None) = (&self.live, self.stored.get()) {
            return run.state.lock().failure().map(|failure| PyBytes::new(py, failure.as_json().as_bytes()));
        }
        self.stored().run.failure.as_ref().map(|failure| PyBytes::new(py, failure.as_json().as_bytes()))
    }

    /// When the run was created.
    #[getter]
    fn started_at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        datetime(py, self.stored().run.created_at)
    }

    /// When it ended.
    #[getter]
    fn ended_at<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.stored().run.ended_at.map(|at| datetime(py, at)).transpose()
    }

    /// The names of the tasks, in declaration order.
    fn names(&self) -> Vec<String> {
        match &self.live {
            Some(run) => {
                let graph = &run.workflow.graph;
                (0..graph.len() as u32).map(|ix| graph.name(ix).to_string()).collect()
            }
            None => self.stored().tasks.iter().map(|task| task.name.to_string()).collect(),
        }
    }

    /// What a task returned, in a list of one; an empty list if it has not (yet); `None` if there is no such task.
    fn output<'py>(&self, py: Python<'py>, task: &str) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
        panics::method(|| {
            let live = match (&self.live, self.stored.get()) {
                (Some(run), None) => run.workflow.graph.find(task).map(TaskRef::plain).map(|place| (run, place)),
                _ => None,
            };
            if let Some((run, place)) = live
                && !run.workflow.graph.is_mapped(place.ix)
            {
                let value = run.state.lock().output(place).cloned();
                let value = value.map(|value| self.decode(py, task, &value)).transpose()?;
                return Ok(Some(value.into_iter().collect()));
            }
            let Some(place) = self.place(task) else { return Ok(None) };
            let Some(row) = self.row_at(place) else { return Ok(Some(Vec::new())) };
            if let Some(length) = row.length {
                return self.list(py, task, place.0, length).map(Some);
            }
            let writer = if place.1 == NO_MAP { task } else { split_element(task).map_or(task, |(task, _)| task) };
            let value = row.output.as_ref().map(|value| self.decode(py, writer, value)).transpose()?;
            Ok(Some(value.into_iter().collect()))
        })
    }

    /// The journals of its tasks, each entry as it is stored: see the stub.
    fn journal<'py>(&self, py: Python<'py>) -> PyResult<Vec<PyEntry<'py>>> {
        panics::method(|| {
            let stored = self.stored();
            stored.entries.iter().map(|(task, map, entry)| journal::shown(py, stored, (*task, *map), entry)).collect()
        })
    }

    /// The names of the elements of mapped tasks, in order.
    fn elements(&self) -> Vec<String> {
        let lengths = self.lengths();
        lengths.iter().flat_map(|(name, length)| (0..*length).map(move |map| format!("{name}[{map}]"))).collect()
    }

    /// A task's row as a dict; `None` if there is no such task.
    fn task<'py>(&self, py: Python<'py>, task: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
        panics::method(|| {
            let Some(place) = self.place(task) else { return Ok(None) };
            let at = |time: Option<Time>| time.map(|time| datetime(py, time)).transpose();
            let row = self.row_at(place);
            let dict = PyDict::new(py);
            // Of a run that was ended by force not every task has a row.
            let none = if self.stored().run.status == RunStatus::Cancelled { "Cancelled" } else { "Pending" };
            dict.set_item("status", row.map_or(none, |row| row.status.as_str()))?;
            dict.set_item("sub_status", row.and_then(|row| row.sub_status).map(|sub| sub.as_str()))?;
            dict.set_item("attempts", row.map_or(0, |row| row.attempts))?;
            dict.set_item("first_started_at", at(row.and_then(|row| row.first_started_at))?)?;
            dict.set_item("started_at", at(row.and_then(|row| row.started_at))?)?;
            dict.set_item("ended_at", at(row.and_then(|row| row.ended_at))?)?;
            dict.set_item("waited", row.map_or(0.0, |row| row.waited as f64 / 1e6))?;
            dict.set_item("blocked_by", row.and_then(|row| row.blocked_by.as_deref()))?;
            let progress = self.progress(place).map(|progress| said(py, progress)).transpose()?;
            dict.set_item("progress", progress)?;
            let failure = row.and_then(|row| row.failure.as_ref());
            dict.set_item("failure", failure.map(|failure| PyBytes::new(py, failure.as_json().as_bytes())))?;
            Ok(Some(dict))
        })
    }

    /// The context after the changes of the tasks: names with encoded values.
    fn context_values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        panics::method(|| {
            let values = self.context().map_err(|why| errors::bide(py, &why))?;
            let dict = PyDict::new(py);
            for (name, value) in values {
                dict.set_item(&*name, PyBytes::new(py, value.as_bytes()))?;
            }
            Ok(dict)
        })
    }
}

/// As a result shows it: done, total, message, and when that was said.
type Said<'py> = (f64, Option<f64>, Option<String>, Bound<'py, PyAny>);

/// Progress as a result shows it.
fn said<'py>(py: Python<'py>, progress: &Progress) -> PyResult<Said<'py>> {
    let Progress { done, total, message, said_at } = progress;
    Ok((*done, *total, message.as_deref().map(str::to_owned), datetime(py, *said_at)?))
}

/// The ids and workflows of the runs with this id or key.
pub(crate) fn find(
    py: Python<'_>,
    engine: &PyEngine,
    text: &str,
    workflow: Option<&str>,
) -> PyResult<Vec<(String, String)>> {
    let store = engine.store();
    let found = gil::detached(py, || {
        if let Ok(id) = text.parse::<RunId>()
            && let Some(stored) = store.load(id)?
            && workflow.is_none_or(|name| *stored.run.workflow == *name)
        {
            return Ok(vec![(id, stored.run.workflow)]);
        }
        store.by_key(text, workflow)
    });
    let found = found.map_err(|error| errors::store(py, &error))?;
    Ok(found.into_iter().map(|(id, workflow)| (id.to_string(), workflow.to_string())).collect())
}

/// The status of this name, for a filter.
pub(crate) fn status_named(py: Python<'_>, name: Option<&str>) -> PyResult<Option<RunStatus>> {
    let Some(name) = name else { return Ok(None) };
    let known = RunStatus::ALL.iter().copied().find(|status| status.as_str() == name);
    known.map(Some).ok_or_else(|| {
        let all: Vec<&str> = RunStatus::ALL.iter().map(|status| status.as_str()).collect();
        let all = all.join(", ");
        errors::definition(py, &format!("status='{name}' is no status of a run; there are {all}"))
    })
}

/// The runs that a filter chooses, newest first.
pub(crate) fn list(py: Python<'_>, engine: &Arc<PyEngine>, filter: &RunFilter) -> PyResult<Vec<PySnapshot>> {
    let listed = gil::detached(py, || -> Result<_, StoreError> {
        engine.store().list(filter)?.into_iter().map(|stored| PySnapshot::listed(engine, stored)).collect()
    });
    listed.map_err(|error| errors::store(py, &error))
}
