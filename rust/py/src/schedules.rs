//! Schedules, as Python asks for them: see `bide._schedules`.

use std::sync::Arc;
use std::time::Duration;

use bide_core::schedules::{MomentInput, OnMiss, Overlap, When};
use bide_core::{Time, Value, pack};
use bide_executor::{ScheduleError, ScheduleRequest, ScheduleView, StartedRun};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::host::PyEngine;
use crate::moment::datetime;
use crate::worker::start_gates;
use crate::workflow::PyWorkflow;
use crate::{errors, gil};

/// A run that was started: its id and its key.
pub(crate) type PyStarted = (String, String);

fn in_python((run, key): StartedRun) -> PyStarted {
    (run.to_string(), key.to_string())
}

/// `bide._schedules.Asked`: what a caller says about a schedule.
#[derive(FromPyObject)]
pub(crate) struct PySchedule {
    name: String,
    /// A cron expression and the name of its zone.
    cron: Option<(String, String)>,
    /// Or microseconds between ticks.
    every: Option<i64>,
    /// The encoded inputs.
    inputs: Vec<(String, Vec<u8>)>,
    /// The tag of the value by which runs get the moment of their tick; none if they do not.
    moment: Option<String>,
    on_miss: String,
    overlap: String,
    /// In microseconds.
    jitter: u64,
}

fn named<T: Copy>(all: &[T], name: &str, text: impl Fn(T) -> &'static str) -> Option<T> {
    all.iter().copied().find(|one| text(*one).eq_ignore_ascii_case(name))
}

fn request(py: Python<'_>, asked: PySchedule) -> PyResult<ScheduleRequest> {
    let PySchedule { name, cron, every, inputs, moment, on_miss, overlap, jitter } = asked;
    let none_such = |what: &str, name: &str| errors::definition(py, &format!("there is no {what} '{name}'"));
    let when = match (cron, every) {
        (Some((expression, zone)), _) => When::Cron { expression: expression.into(), zone: zone.into() },
        (None, micros) => When::Every { micros: micros.unwrap_or(0), anchor: Time(0) },
    };
    let value = |(name, value): (String, Vec<u8>)| (name.into(), Value::new(&value));
    let inputs = PyEngine::ordered(inputs.into_iter().map(value).collect());
    Ok(ScheduleRequest {
        name: name.into(),
        when,
        inputs: pack::pack(inputs.iter().map(|(name, value)| (&**name, Some(value)))).into(),
        moment: match moment.as_deref() {
            None => MomentInput::None,
            Some("s") => MomentInput::Text,
            Some(_) => MomentInput::Datetime,
        },
        on_miss: named(OnMiss::ALL, &on_miss, OnMiss::as_str).ok_or_else(|| none_such("on_miss", &on_miss))?,
        overlap: named(Overlap::ALL, &overlap, Overlap::as_str).ok_or_else(|| none_such("overlap", &overlap))?,
        jitter: Duration::from_micros(jitter),
    })
}

/// An error, as what Python raises: `KeyError` without arguments if there is no such schedule.
fn raised(py: Python<'_>, error: ScheduleError, name: &str) -> PyErr {
    match error {
        ScheduleError::NoSchedule => pyo3::exceptions::PyKeyError::new_err(name.to_owned()),
        ScheduleError::OtherWorkflow(workflow) => errors::definition(
            py,
            &format!(
                "the schedule '{name}' starts runs of workflow '{workflow}': give this one another name, or remove that \
                 one, runner.unschedule('{name}')"
            ),
        ),
        ScheduleError::Refused(why) => errors::definition(py, &format!("schedule '{name}': {why}")),
        ScheduleError::TooManyTicks => pyo3::exceptions::PyOverflowError::new_err(name.to_owned()),
        ScheduleError::Store(error) => errors::store(py, &error),
    }
}

/// A schedule as a dict: the fields of `bide.Schedule`.
fn shown<'py>(py: Python<'py>, view: &ScheduleView) -> PyResult<Bound<'py, PyDict>> {
    let schedule = &view.schedule;
    let dict = PyDict::new(py);
    let moment = |time: Option<Time>| time.map(|time| datetime(py, time)).transpose();
    dict.set_item("name", &*schedule.name)?;
    dict.set_item("workflow", &*schedule.workflow)?;
    let (cron, zone, every) = match &schedule.when {
        When::Cron { expression, zone } => (Some(&**expression), Some(&**zone), None),
        When::Every { micros, .. } => (None, None, Some(*micros)),
    };
    dict.set_item("cron", cron)?;
    dict.set_item("tz", zone)?;
    dict.set_item("every", every)?;
    let inputs = pack::unpack(&schedule.inputs).unwrap_or_default();
    let inputs: Vec<(&str, Bound<'py, PyBytes>)> = inputs
        .iter()
        .filter_map(|(name, value)| Some((&**name, PyBytes::new(py, value.as_ref()?.as_bytes()))))
        .collect();
    dict.set_item("inputs", inputs)?;
    dict.set_item("on_miss", schedule.on_miss.as_str().to_lowercase())?;
    dict.set_item("overlap", schedule.overlap.as_str().to_lowercase())?;
    dict.set_item("jitter", schedule.jitter)?;
    dict.set_item("created_at", moment(Some(schedule.created_at))?)?;
    dict.set_item("paused_at", moment(schedule.paused_at)?)?;
    dict.set_item("next", moment(view.next)?)?;
    dict.set_item("last", moment(schedule.last.map(|(tick, _)| tick))?)?;
    dict.set_item("last_run", schedule.last.map(|(_, run)| run.to_string()))?;
    let queued = schedule.queue.iter().map(|tick| datetime(py, *tick)).collect::<PyResult<Vec<_>>>()?;
    dict.set_item("queued", queued)?;
    Ok(dict)
}

/// Defines a schedule, or changes it.
pub(crate) fn define<'py>(
    py: Python<'py>,
    engine: &Arc<PyEngine>,
    workflow: &PyWorkflow,
    asked: PySchedule,
) -> PyResult<Bound<'py, PyDict>> {
    let request = request(py, asked)?;
    start_gates(py, engine, workflow)?;
    let (graph, bodies) = workflow.shared(py);
    let made = gil::detached(py, || engine.schedule(&engine.register(graph, bodies)?, &request));
    shown(py, &made.map_err(|error| raised(py, error, &request.name))?)
}

/// All schedules.
pub(crate) fn list<'py>(py: Python<'py>, engine: &PyEngine) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let found = gil::detached(py, || engine.schedules()).map_err(|error| errors::store(py, &error))?;
    found.iter().map(|view| shown(py, view)).collect()
}

/// Pauses, resumes or removes a schedule, or starts a run of it, whose id it answers.
pub(crate) fn alter(py: Python<'_>, engine: &PyEngine, name: &str, what: &str) -> PyResult<Option<PyStarted>> {
    let done = gil::detached(py, || match what {
        "pause" => engine.pause_schedule(name).map(|()| None),
        "resume" => engine.resume_schedule(name).map(|()| None),
        "trigger" => engine.trigger(name).map(Some),
        _ => engine.unschedule(name).map(|()| None),
    });
    done.map(|run| run.map(in_python)).map_err(|error| raised(py, error, name))
}

/// Starts the runs of past ticks; the ids of all of them.
pub(crate) fn backfill(
    py: Python<'_>,
    engine: &PyEngine,
    name: &str,
    since: i64,
    until: i64,
    most: usize,
) -> PyResult<Vec<PyStarted>> {
    let started = gil::detached(py, || engine.backfill(name, Time(since), Time(until), most));
    let started = started.map_err(|error| raised(py, error, name))?;
    Ok(started.into_iter().map(in_python).collect())
}
