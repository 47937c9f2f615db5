//! A compiled Python workflow as the engine wants it: specs for the core, bodies for the host.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bide_core::event::{GateSpec, GateUntil};
use bide_core::poll::Tolerance;
use bide_core::{Graph, PollPolicy, RetryPolicy, TaskSpec, Time};
use bide_executor::Source;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::gil::Kept;
use crate::graph::run_if;
use crate::value::Codec;
use crate::{errors, panics};

/// The tasks' positions by name.
type Names = HashMap<String, u32>;

/// A task's callable and how it is called.
pub(crate) struct PyBody {
    pub(crate) function: Kept,
    pub(crate) binding: Binding,
    pub(crate) returns: Codec,
    /// `Retry.matches`, if the task is retried.
    pub(crate) matches: Option<Kept>,
    /// Whether `Retry.on` covers a `TaskTimeout`.
    pub(crate) retries_timeout: bool,
    pub(crate) gate: Option<PyGate>,
    /// The values that the engine hands in: those of the body, then those of the gate's condition.
    pub(crate) sources: Box<[Source]>,
}

/// A gate's condition and how it is called.
pub(crate) struct PyGate {
    pub(crate) condition: Kept,
    pub(crate) binding: Binding,
    pub(crate) policy: PollPolicy,
}

/// Where the arguments of a call come from.
pub(crate) struct Binding {
    pub(crate) positional: Box<[Argument]>,
    pub(crate) keyword: Box<[(Py<PyString>, Argument)]>,
    pub(crate) wants_context: bool,
}

/// One argument.
pub(crate) enum Argument {
    /// The context.
    Context,
    /// The handle.
    Handle,
    /// A value that the engine hands in, by its position among the sources; else the default.
    Value {
        /// The position.
        at: usize,
        /// The reader's codec.
        codec: Codec,
        /// Used where there is no value.
        default: Option<Kept>,
    },
}

/// `_core.Workflow`: a compiled workflow, made once for each `Workflow`.
#[pyclass(frozen, module = "bide._core", name = "Workflow")]
pub(crate) struct PyWorkflow {
    pub(crate) graph: Arc<Graph>,
    pub(crate) bodies: Arc<[PyBody]>,
}

#[pymethods]
impl PyWorkflow {
    /// From a `bide._workflow.CompiledWorkflow`.
    #[new]
    fn new(compiled: &Bound<'_, PyAny>) -> PyResult<Self> {
        panics::method(|| {
            let py = compiled.py();
            let name: String = compiled.getattr("name")?.extract()?;
            let tasks: Vec<Bound<'_, PyAny>> = compiled.getattr("tasks")?.extract()?;
            let names: Names = tasks
                .iter()
                .zip(0..)
                .map(|(task, ix)| Ok((task.getattr("name")?.extract()?, ix)))
                .collect::<PyResult<_>>()?;
            let mut specs = Vec::with_capacity(tasks.len());
            let mut bodies = Vec::with_capacity(tasks.len());
            for task in &tasks {
                let (spec, body) = read_task(task, &names)?;
                specs.push(spec);
                bodies.push(body);
            }
            let fail_fast = compiled.getattr("fail_fast")?.extract()?;
            let graph = Graph::build(&name, specs, fail_fast).map_err(|why| errors::definition(py, &why.0))?;
            Ok(Self { graph: Arc::new(graph), bodies: bodies.into() })
        })
    }
}

fn read_task(task: &Bound<'_, PyAny>, names: &Names) -> PyResult<(TaskSpec, PyBody)> {
    let py = task.py();
    let mut spec = TaskSpec::new(task.getattr("name")?.extract::<String>()?);
    let dependencies: Vec<String> = task.getattr("dependencies")?.extract()?;
    spec.dependencies = dependencies.into_iter().map(Into::into).collect();
    let rule: String = task.getattr("run_if")?.extract()?;
    spec.run_if = run_if(&rule).ok_or_else(|| errors::definition(py, &format!("run_if='{rule}'")))?;
    spec.timeout = task.getattr("timeout")?.extract::<Option<f64>>()?.map(Duration::from_secs_f64);
    let retry = task.getattr("retry")?;
    let (mut matches, mut retries_timeout) = (None, false);
    if !retry.is_none() {
        spec.retry = RetryPolicy {
            attempts: retry.getattr("attempts")?.extract()?,
            delay: Duration::from_secs_f64(retry.getattr("delay")?.extract()?),
            backoff: retry.getattr("backoff")?.extract()?,
            max_delay: Duration::from_secs_f64(retry.getattr("max_delay")?.extract()?),
            jitter: retry.getattr("jitter")?.extract()?,
            fresh: retry.getattr("fresh")?.extract()?,
        };
        spec.retry.max_delay = spec.retry.max_delay.max(spec.retry.delay);
        let covers = retry.getattr("matches")?;
        let timeout = crate::gil::call0(errors::names(py)?.task_timeout.bind(py))?;
        retries_timeout = crate::gil::is_truthy(&*crate::gil::call1(&covers, &timeout)?)?;
        matches = Some(Kept::new(covers.unbind()));
    }
    let mut sources = Vec::new();
    let bound = task.getattr("binding")?;
    spec.wants_handle = bound.getattr("wants_handle")?.extract()?;
    let binding = read_binding(&bound, names, &mut sources)?;
    let gate = read_gate(task, names, &mut sources, &mut spec)?;
    spec.wants_context = binding.wants_context || gate.as_ref().is_some_and(|gate| gate.binding.wants_context);
    let body = PyBody {
        function: Kept::new(task.getattr("fn")?.unbind()),
        binding,
        returns: Codec::new(&task.getattr("returns")?)?,
        matches,
        retries_timeout,
        gate,
        sources: sources.into(),
    };
    Ok((spec, body))
}

fn read_binding(binding: &Bound<'_, PyAny>, names: &Names, sources: &mut Vec<Source>) -> PyResult<Binding> {
    let positional: Vec<Bound<'_, PyAny>> = binding.getattr("positional")?.extract()?;
    let keyword: Vec<(Bound<'_, PyString>, Bound<'_, PyAny>)> = binding.getattr("keyword")?.extract()?;
    Ok(Binding {
        positional: positional.iter().map(|source| read_source(source, names, sources)).collect::<PyResult<_>>()?,
        keyword: keyword
            .iter()
            .map(|(name, source)| Ok((name.clone().unbind(), read_source(source, names, sources)?)))
            .collect::<PyResult<_>>()?,
        wants_context: binding.getattr("wants_context")?.extract()?,
    })
}

fn read_source(source: &Bound<'_, PyAny>, names: &Names, sources: &mut Vec<Source>) -> PyResult<Argument> {
    let kind: String = source.getattr("kind")?.extract()?;
    let name: String = source.getattr("name")?.extract()?;
    let from = match &*kind {
        "context" => return Ok(Argument::Context),
        "handle" => return Ok(Argument::Handle),
        "task" => {
            let ix = names.get(&name).copied();
            Source::Output(ix.ok_or_else(|| errors::definition(source.py(), &format!("no task '{name}'")))?)
        }
        _ => Source::Input(name.into()),
    };
    let default = source.getattr("default")?;
    let missing = source.py().import("inspect")?.getattr("Parameter")?.getattr("empty")?;
    sources.push(from);
    Ok(Argument::Value {
        at: sources.len() - 1,
        codec: Codec::new(&source.getattr("codec")?)?,
        default: (!default.is(&missing)).then(|| Kept::new(default.unbind())),
    })
}

fn read_gate(
    task: &Bound<'_, PyAny>,
    names: &Names,
    sources: &mut Vec<Source>,
    spec: &mut TaskSpec,
) -> PyResult<Option<PyGate>> {
    let py = task.py();
    let gate = task.getattr("gate")?;
    if gate.is_none() {
        return Ok(None);
    }
    let (name, until, timeout, condition) = match &*gate.get_type().name()?.extract::<String>()? {
        "After" => {
            let span = Duration::from_secs_f64(gate.getattr("seconds")?.extract()?);
            ("after".to_owned(), GateUntil::After(span), None, None)
        }
        "At" => ("at".to_owned(), GateUntil::At(time_of(gate.getattr("timestamp")?.extract()?)), None, None),
        _ => {
            let condition = gate.getattr("condition")?;
            let name = match gate.getattr("name")?.extract::<Option<String>>()? {
                Some(name) => name,
                None => {
                    let (name, _) = fingerprint(py, &condition)?;
                    name
                }
            };
            let timeout = gate.getattr("timeout")?.extract::<Option<f64>>()?.map(Duration::from_secs_f64);
            (name, GateUntil::Condition, timeout, Some(condition))
        }
    };
    spec.gate = Some(GateSpec { name: name.into(), until, timeout });
    let Some(condition) = condition else { return Ok(None) };
    Ok(Some(PyGate {
        condition: Kept::new(condition.unbind()),
        binding: read_binding(&task.getattr("gate_binding")?, names, sources)?,
        policy: read_policy(&gate)?,
    }))
}

/// The policy of an `Until`.
pub(crate) fn read_policy(until: &Bound<'_, PyAny>) -> PyResult<PollPolicy> {
    let every = Duration::from_secs_f64(until.getattr("every")?.extract()?);
    let max_every: Option<f64> = until.getattr("max_every")?.extract()?;
    Ok(PollPolicy {
        every,
        backoff: until.getattr("backoff")?.extract()?,
        max_every: max_every.map_or(Duration::MAX, Duration::from_secs_f64),
        jitter: until.getattr("jitter")?.extract()?,
        tolerate: match until.getattr("tolerance")?.extract::<Option<u32>>()? {
            None => Tolerance::Ignore,
            Some(1) => Tolerance::Raise,
            Some(most) => Tolerance::Tolerate(most),
        },
    })
}

/// A condition's name in the journal, and what proves it to be the same.
pub(crate) fn fingerprint(py: Python<'_>, condition: &Bound<'_, PyAny>) -> PyResult<(String, Option<Arc<[u8]>>)> {
    let pair = crate::gil::call1(errors::names(py)?.fingerprint.bind(py), condition)?;
    let pair = pair.cast::<PyTuple>()?;
    let proof: Option<Vec<u8>> = pair.get_item(1)?.extract()?;
    Ok((pair.get_item(0)?.extract()?, proof.map(Into::into)))
}

/// What proves a condition to be the same; `None` if nothing can.
pub(crate) fn proof_of(condition: &Bound<'_, PyAny>) -> PyResult<Option<Arc<[u8]>>> {
    let py = condition.py();
    let proof: Option<Vec<u8>> = crate::gil::call1(errors::names(py)?.proof_of.bind(py), condition)?.extract()?;
    Ok(proof.map(Into::into))
}

/// Seconds since the Unix epoch as a stored time, rounded up: never early.
pub(crate) fn time_of(seconds: f64) -> Time {
    Time((seconds * 1e6).ceil() as i64)
}
