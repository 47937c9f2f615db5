//! Child runs of a body, as its handle starts them and reads their results.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Part, PartRequest, child_name};
use bide_core::{RunId, Value};
use bide_executor::{Attached, BodyCx, CallError, RegisteredWorkflow, RunRequest, Settlement, StartIdentity};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyString};

use crate::host::{Local, PyEngine, PyRun, Python3, Vars};
use crate::snapshot::PySnapshot;
use crate::worker::start_gates;
use crate::workflow::PyWorkflow;
use crate::{errors, gil};

/// How long the commit of a child's end may take that its parent has heard of.
const COMMIT: Duration = Duration::from_secs(60);

/// `bide._children`.
static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// One start: the inputs by name, their proof or the caller's key.
type Start = (Vec<(PyBackedStr, PyBackedBytes)>, Option<PyBackedBytes>, Option<PyBackedStr>);

/// A workflow, registered, and the runs of it to start.
type Described = (Arc<RegisteredWorkflow<Python3>>, Vec<(StartIdentity, RunRequest<Python3>)>);

/// Starts children, and returns the waits for them: a list of `bide.ChildRun`. `describe` is the function of
/// `bide._children` that makes of the arguments what is started; `awaited` as for [`BodyCx::start_children`].
pub(crate) fn start<'py>(
    body: &Arc<BodyCx<Python3>>,
    here: &mut dyn Attached,
    describe: &str,
    arguments: &[&Bound<'py, PyAny>],
    awaited: bool,
) -> PyResult<Bound<'py, PyList>> {
    let py = arguments[0].py();
    let module = MODULE.get_or_try_init(py, || py.import("bide._children").map(Bound::unbind))?.bind(py);
    let made = gil::call_args(&module.getattr(describe)?, arguments)?;
    let (workflow, starts) = described(py, body.engine(), &made)?;
    let started = body.start_children(here, &workflow, starts, awaited);
    let started = started.map_err(|error| errors::wait(py, &error, &body.task_name()))?;
    let child_run = module.getattr("ChildRun")?;
    let workflow = PyString::new(py, workflow.graph.workflow()).into_any();
    let children = PyList::empty(py);
    for child in started {
        let (id, name) = (
            PyString::new(py, &child.id.to_string()).into_any(),
            PyString::new(py, &child_name(&child.key)).into_any(),
        );
        children.append(gil::call_args(&child_run, &[&id, &workflow, &name])?.into_bound())?;
    }
    Ok(children)
}

/// What a description of `bide._children` has started: the workflow, registered, and each start.
pub(crate) fn described<'py>(
    py: Python<'py>,
    engine: &Arc<PyEngine>,
    described: &Bound<'py, PyAny>,
) -> PyResult<Described> {
    let (core, starts, contextvars): (Bound<'py, PyWorkflow>, Vec<Start>, Bound<'py, PyAny>) = described.extract()?;
    let contextvars = Vars::new(contextvars)?.map(Arc::new);
    let start = |(inputs, proof, key): Start| {
        let inputs = inputs.into_iter().map(|(name, value)| (Arc::from(&*name), Value::new(&value))).collect();
        let identity = match key {
            Some(key) => StartIdentity::Key(Arc::from(&*key)),
            None => StartIdentity::Inputs(proof.map_or_else(Arc::default, |proof| Arc::from(&*proof))),
        };
        let request = RunRequest::<Python3>::new(PyEngine::ordered(inputs));
        (identity, request.with_local(Local::of_child(contextvars.clone())))
    };
    let starts = starts.into_iter().map(start).collect();
    start_gates(py, engine, core.get())?;
    let (graph, bodies) = core.get().shared(py);
    let known = engine.workflow(graph.workflow()).filter(|known| Arc::ptr_eq(&known.graph, &graph));
    // A body that starts one child after the other need not detach for each.
    let registered = known.map_or_else(|| gil::detached(py, || engine.register(graph, bodies)), Ok);
    Ok((registered.map_err(|error| errors::store(py, &error))?, starts))
}

/// The child that each part of a wait waits for.
pub(crate) fn among(parts: &[PartRequest]) -> Vec<Option<RunId>> {
    let child = |part: &PartRequest| match part.part {
        Part::Child(run) => Some(run),
        _ => None,
    };
    let children = parts.iter().any(|part| child(part).is_some());
    if children { parts.iter().map(child).collect() } else { Vec::new() }
}

/// Refuses the wait for a run that no body of this run has started: nothing would ever end it.
pub(crate) fn check(py: Python<'_>, body: &BodyCx<Python3>, children: &[Option<RunId>]) -> PyResult<()> {
    check_by(py, |id| body.has_child(id), &body.task_name(), body.run(), children)
}

/// The same, with what says whether a run is a child.
pub(crate) fn check_by(
    py: Python<'_>,
    is_child: impl Fn(RunId) -> bool,
    task: &str,
    run: &PyRun,
    children: &[Option<RunId>],
) -> PyResult<()> {
    match children.iter().flatten().find(|child| !is_child(**child)) {
        None => Ok(()),
        Some(stranger) => {
            let run = run.id;
            let why = format!(
                "task '{task}' waits for run {stranger}, which is no child of its run {run}: a body waits for runs that \
                 handle.start has started in a body of the same run"
            );
            Err(errors::definition(py, &why))
        }
    }
}

/// What a `ChildRun` makes its result of, if this part is one: the run as it ended.
pub(crate) fn ended<'py>(
    py: Python<'py>,
    body: &BodyCx<Python3>,
    children: &[Option<RunId>],
    part: usize,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let child = children.get(part).copied().flatten();
    ended_by(py, body.engine(), &body.task_name(), child, |id| body.take_child(id))
}

/// The same, with what takes a child that is in memory.
pub(crate) fn ended_by<'py>(
    py: Python<'py>,
    engine: &Arc<PyEngine>,
    task: &str,
    child: Option<RunId>,
    take: impl FnOnce(RunId) -> Option<Arc<PyRun>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some(id) = child else { return Ok(None) };
    let snapshot = match take(id) {
        Some(run) => {
            let settlement = match run.settled.get() {
                // The commit of its end is under way, in which the wait is closed too.
                None => gil::idle(py, || run.settled.wait(COMMIT)),
                settled => settled,
            };
            match settlement {
                Some(Settlement::Run(_)) => run.settled.observe(),
                // As at every other wait of a body.
                Some(Settlement::Closed) => return Err(errors::wait(py, &CallError::Suspended, task)),
                Some(other) => return Err(errors::settlement(py, &other)),
                None => {
                    let seconds = COMMIT.as_secs();
                    let why = format!("the end of child run {id} was not committed within {seconds} seconds");
                    return Err(errors::bide(py, &why));
                }
            }
            Some(PySnapshot::live(py, engine, run)?)
        }
        None => PySnapshot::load(py, engine, id)?,
    };
    let Some(snapshot) = snapshot else {
        return Err(errors::bide(py, &format!("child run {id} is not in the store any more: it was deleted")));
    };
    Ok(Some(Bound::new(py, snapshot)?.into_any()))
}
