//! `_core.Workflow`: a compiled workflow, its graph for the engine and its callables for the host, built once from what
//! `bide/_compiled.py` makes.
//!
//! Each task crosses as one tuple, which is read here by position; each wait in it as `wait.rs` reads it.

use std::sync::Arc;
use std::time::Duration;

use bide_core::graph::{MapSpec, Over, Tolerated};
use bide_core::{Graph, RetryPolicy, RunIf, TaskSpec};
use bide_executor::Source;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::body::{Argument, Binding, Form, NamedOutput, PyBody, PyGate, PyRetry};
use crate::gil::{self, Kept};
use crate::plan::{Called, Plan};
use crate::value::Codec;
use crate::{errors, limits, panics};

/// A workflow: validated, and with everything that its tasks are executed with.
#[pyclass(frozen, module = "bide._core", name = "Workflow")]
pub(crate) struct PyWorkflow {
    /// What the engine knows of it.
    graph: Arc<Graph>,
    /// What the host knows of each task, by its position in the graph.
    bodies: Arc<[PyBody]>,
}

impl PyWorkflow {
    /// What the engine registers. To be called attached: see `__traverse__`.
    pub(crate) fn shared(&self, _py: Python<'_>) -> (Arc<Graph>, Arc<[PyBody]>) {
        (Arc::clone(&self.graph), Arc::clone(&self.bodies))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.graph.workflow()
    }

    /// Whether a task has a gate that calls something on a thread.
    pub(crate) fn has_gates(&self) -> bool {
        self.bodies.iter().any(|body| body.gates.iter().any(|gate| !gate.is_async))
    }

    fn names(&self, tasks: &[u32]) -> Vec<&str> {
        tasks.iter().map(|ix| &**self.graph.name(*ix)).collect()
    }
}

#[pymethods]
impl PyWorkflow {
    #[new]
    #[pyo3(signature = (name, fail_fast, tasks, signals=None, timeout=None, renamed=Vec::new()))]
    fn new(
        py: Python<'_>,
        name: &str,
        fail_fast: bool,
        tasks: Vec<CompiledTask<'_>>,
        signals: Option<Vec<String>>,
        timeout: Option<f64>,
        renamed: Vec<(String, String)>,
    ) -> PyResult<Self> {
        panics::method(|| {
            let (mut specs, mut calls) = (Vec::with_capacity(tasks.len()), Vec::with_capacity(tasks.len()));
            for task in tasks {
                let (spec, call) = task.split()?;
                specs.push(spec);
                calls.push(call);
            }
            let graph = Graph::build(name, specs, fail_fast).and_then(|graph| graph.with_signals(signals));
            let graph = graph.and_then(|graph| graph.with_renamed(renamed));
            let graph = graph.map_err(|why| errors::definition(py, &why.0))?;
            let graph = graph.with_timeout(timeout.map(Duration::from_secs_f64));
            let mut lists = 0;
            let bodies = calls.into_iter().zip(0..).map(|(call, ix)| call.into_body(&graph, ix, &mut lists));
            let bodies = bodies.collect::<PyResult<_>>()?;
            Ok(Self { graph: Arc::new(graph), bodies })
        })
    }

    /// A function may refer to the workflow that it is a task of. While a runner shares the bodies, nothing in them is
    /// garbage, even if all other references are gone. Whether a runner shares them cannot change during a collection:
    /// that happens in `PyWorkflow::shared`, on a thread that is attached.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if Arc::strong_count(&self.bodies) > 1 {
            return Ok(());
        }
        self.bodies.iter().try_for_each(|body| body.traverse(&visit))
    }

    /// Whether a body, or the condition of a gate, is a coroutine function.
    #[getter]
    fn is_async(&self) -> bool {
        self.bodies.iter().any(|body| body.is_async || body.gates.iter().any(|gate| gate.is_async))
    }

    /// The tasks by their distance from the roots.
    #[getter]
    fn levels(&self) -> Vec<Vec<&str>> {
        self.graph.levels().iter().map(|level| self.names(level)).collect()
    }

    /// The tasks that depend on nothing.
    #[getter]
    fn roots(&self) -> Vec<&str> {
        self.names(self.graph.roots())
    }

    /// The tasks that nothing depends on.
    #[getter]
    fn leaves(&self) -> Vec<&str> {
        self.names(self.graph.leaves())
    }

    /// The stable hash of the graph.
    #[getter]
    fn version(&self) -> &str {
        self.graph.version()
    }

    /// All tasks in topological order, ties in declaration order.
    fn topological_sort(&self) -> Vec<&str> {
        self.names(self.graph.order())
    }
}

/// `bide._compiled.CompiledTask`: name, function, binding, codec of what is returned, dependencies, `run_if`, `Retry`,
/// timeout, gate, the bindings of what the gate calls, how it is mapped, and the mapped tasks that it gathers with its `Limit`.
#[derive(FromPyObject)]
struct CompiledTask<'py> {
    name: String,
    #[pyo3(attribute("fn"))]
    function: Bound<'py, PyAny>,
    binding: CompiledBinding<'py>,
    returns: Codec,
    dependencies: Vec<String>,
    run_if: RunIfName,
    retry: Option<Bound<'py, PyAny>>,
    timeout: Option<f64>,
    gate: Option<Bound<'py, PyAny>>,
    gate_bindings: Vec<CompiledBinding<'py>>,
    map: Option<CompiledMap>,
    gathers_limit: (Vec<String>, Option<Bound<'py, PyAny>>),
}

/// `bide._map.CompiledMap`: the tasks and the inputs that a task is mapped over, and how many elements may fail: a
/// count or a share.
#[derive(FromPyObject)]
struct CompiledMap {
    tasks: Vec<String>,
    inputs: Vec<String>,
    limit: Option<u32>,
    share: Option<f64>,
}

impl From<CompiledMap> for MapSpec {
    fn from(CompiledMap { tasks, inputs, limit, share }: CompiledMap) -> Self {
        let tasks = tasks.into_iter().map(|name| Over::Task(name.into()));
        let inputs = inputs.into_iter().map(|name| Over::Input(name.into()));
        let tolerate = share.map_or(Tolerated::Count(limit.unwrap_or(0)), Tolerated::Share);
        Self { over: tasks.chain(inputs).collect(), tolerate }
    }
}

/// `bide._bind.Binding`: positional sources, sources by keyword, whether the handle and the context are wanted, and
/// whether it is a coroutine function.
#[derive(FromPyObject)]
struct CompiledBinding<'py> {
    positional: Bound<'py, PyTuple>,
    keyword: Bound<'py, PyTuple>,
    wants_handle: bool,
    wants_context: bool,
    is_async: bool,
}

/// `bide._bind.Source`: kind, name, the reader's codec, default, the parameter's name, and the tasks of a dict of
/// outputs.
#[derive(FromPyObject)]
struct CompiledSource<'py> {
    kind: SourceKind,
    name: String,
    codec: Option<Codec>,
    default: Bound<'py, PyAny>,
    parameter: String,
    members: Vec<(Bound<'py, PyString>, Codec)>,
}

/// `Retry._parts(has_timeout)`: attempts (none: no limit), delay, backoff, `max_delay`, jitter, `fresh`, `matches`, and
/// whether that is true of a timeout.
type CompiledRetry<'py> = (Option<u32>, f64, f64, f64, f64, bool, Bound<'py, PyAny>, bool);

/// What a task is executed with, before the graph gives its dependencies their positions.
struct Calls<'py> {
    function: Bound<'py, PyAny>,
    binding: CompiledBinding<'py>,
    returns: Codec,
    retry: Option<PyRetry>,
    limit: Option<Bound<'py, PyAny>>,
    /// What the gate calls.
    called: Vec<(Called<'py>, CompiledBinding<'py>)>,
    /// What makes the gate's value of the outcomes of its parts, and how many there are.
    finish: Option<(Bound<'py, PyAny>, u16)>,
}

impl<'py> CompiledTask<'py> {
    /// What the core wants to know, and what the host does.
    fn split(self) -> PyResult<(TaskSpec, Calls<'py>)> {
        let Self {
            name,
            function,
            binding,
            returns,
            dependencies,
            run_if,
            retry,
            timeout,
            gate,
            gate_bindings,
            map,
            gathers_limit: (gathers, limit),
        } = self;
        let mut spec = TaskSpec::new(name);
        spec.dependencies = dependencies.into_iter().map(Into::into).collect();
        spec.run_if = run_if.0;
        spec.timeout = timeout.map(Duration::from_secs_f64);
        spec.map = map.map(|map| Box::new(map.into()));
        spec.gathers = gathers.into_iter().map(Into::into).collect();
        spec.wants_handle = binding.wants_handle;
        spec.wants_context = binding.wants_context || gate_bindings.iter().any(|binding| binding.wants_context);
        let retry = retry.map(|retry| read_retry(&retry, &mut spec.retry, spec.timeout.is_some())).transpose()?;
        let (called, finish) = match gate {
            None => (Vec::new(), None),
            Some(gate) => read_gate(&gate, &mut spec)?,
        };
        let called = called.into_iter().zip(gate_bindings).collect();
        Ok((spec, Calls { function, binding, returns, retry, limit, called, finish }))
    }
}

impl Calls<'_> {
    /// `lists` counts the lists that tasks are mapped over.
    fn into_body(self, graph: &Graph, own: u32, lists: &mut usize) -> PyResult<PyBody> {
        let mut sources = Vec::new();
        let gate = self.finish.as_ref().map(|(finish, parts)| OwnGate { task: own, finish, parts: *parts });
        let is_async = self.binding.is_async;
        let binding = self.binding.read(graph, &mut sources, gate)?;
        let mut gates = Vec::with_capacity(self.called.len());
        for (Called { part, function, is_async, purpose }, binding) in self.called {
            gates.push(PyGate {
                part: u16::try_from(part).unwrap_or(u16::MAX),
                function: Kept::new(function.unbind()),
                is_async,
                binding: binding.read(graph, &mut sources, None)?,
                purpose,
            });
        }
        let number = |source: &Source| {
            let is_list = matches!(source, Source::ItemOfOutput(_) | Source::ItemOfInput(_));
            is_list.then(|| std::mem::replace(lists, *lists + 1))
        };
        let lists = if graph.is_mapped(own) { sources.iter().map(number).collect() } else { Box::default() };
        Ok(PyBody {
            function: Kept::new(self.function.unbind()),
            is_async,
            binding,
            returns: self.returns,
            retry: self.retry,
            limit: self.limit.map(|limit| limits::read(&limit, graph).map(Box::new)).transpose()?,
            gates: gates.into(),
            sources: sources.into(),
            lists,
        })
    }
}

impl CompiledBinding<'_> {
    fn read(&self, graph: &Graph, sources: &mut Vec<Source>, gate: Option<OwnGate<'_, '_>>) -> PyResult<Binding> {
        let positional = self.positional.iter_borrowed().map(|source| read_source(&source, graph, sources, gate));
        let positional = positional.collect::<PyResult<_>>()?;
        let keyword = self.keyword.iter_borrowed().map(|pair| {
            let (name, source): (Bound<'_, PyString>, Bound<'_, PyAny>) = pair.extract()?;
            Ok((name.unbind(), read_source(&source, graph, sources, gate)?))
        });
        Ok(Binding { positional, keyword: keyword.collect::<PyResult<_>>()?, wants_context: self.wants_context })
    }
}

/// The gate of the task whose body is read.
#[derive(Clone, Copy)]
struct OwnGate<'a, 'py> {
    task: u32,
    finish: &'a Bound<'py, PyAny>,
    parts: u16,
}

fn read_source(
    source: &Bound<'_, PyAny>,
    graph: &Graph,
    sources: &mut Vec<Source>,
    gate: Option<OwnGate<'_, '_>>,
) -> PyResult<Argument> {
    let py = source.py();
    let CompiledSource { kind, name, codec, default, parameter, members } = source.extract()?;
    let task =
        |name: &str| graph.find(name).ok_or_else(|| errors::definition(py, &format!("no task is named '{name}'")));
    let mut form = None;
    let from = match kind {
        SourceKind::Context => return Ok(Argument::Context),
        SourceKind::Handle => return Ok(Argument::Handle),
        SourceKind::Named => {
            let named = members.into_iter().map(|(name, codec)| {
                sources.push(Source::Output(task(&name.to_cow()?)?));
                Ok(NamedOutput { name: name.unbind(), at: sources.len() - 1, codec })
            });
            return named.collect::<PyResult<_>>().map(Argument::Named);
        }
        SourceKind::Failure => {
            sources.push(Source::Failure(task(&name)?));
            return Ok(Argument::Failure(sources.len() - 1));
        }
        SourceKind::Task => Source::Output(task(&name)?),
        SourceKind::Input => Source::Input(name.as_str().into()),
        SourceKind::ItemOfTask => Source::ItemOfOutput(task(&name)?),
        SourceKind::ItemOfInput => Source::ItemOfInput(name.as_str().into()),
        SourceKind::SameElement => Source::SameElement(task(&name)?),
        SourceKind::List | SourceKind::Mapped => {
            form = Some(if matches!(kind, SourceKind::List) { Form::List } else { Form::Mapped });
            Source::Elements(task(&name)?)
        }
        SourceKind::Gate => {
            let none = || errors::definition(py, "a parameter takes the value of a gate, and the task has none");
            let OwnGate { task, finish, parts } = gate.ok_or_else(none)?;
            let at = sources.len();
            sources.extend((0..parts).map(|part| Source::Gate(task, part)));
            return Ok(Argument::Gate { at, parts: usize::from(parts), finish: Kept::new(finish.clone().unbind()) });
        }
    };
    sources.push(from);
    let at = sources.len() - 1;
    let codec = codec.ok_or_else(|| errors::definition(py, "a value has no codec"))?;
    let default = (!default.is(missing(py)?)).then(|| Kept::new(default.unbind()));
    Ok(match form {
        None => Argument::Value { at, codec, default },
        Some(form) => {
            let whose = format!("parameter '{parameter}'").into();
            Argument::Elements { at, codec, default, form, of: name.into(), whose }
        }
    })
}

/// The default of a parameter that has none.
fn missing(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static MISSING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    MISSING.import(py, "bide._signature", "MISSING")
}

/// Reads a `bide.Retry`, of a task with a `timeout` or of something else.
pub(crate) fn read_retry(retry: &Bound<'_, PyAny>, policy: &mut RetryPolicy, has_timeout: bool) -> PyResult<PyRetry> {
    let py = retry.py();
    let has_timeout = PyBool::new(py, has_timeout);
    let parts = gil::call1(&retry.getattr(pyo3::intern!(py, "_parts"))?, has_timeout.as_any())?;
    let (attempts, delay, backoff, max_delay, jitter, fresh, matches, covers_timeout): CompiledRetry<'_> =
        parts.extract()?;
    let attempts = attempts.unwrap_or(RetryPolicy::FOREVER);
    let delay = Duration::from_secs_f64(delay);
    let max_delay = Duration::from_secs_f64(max_delay).max(delay);
    *policy = RetryPolicy { attempts, delay, backoff, max_delay, jitter, fresh };
    Ok(PyRetry { matches: Kept::new(matches.unbind()), covers_timeout })
}

/// What a gate calls, what makes its value of the outcomes of its parts, and how many these are.
type ReadGate<'py> = (Vec<Called<'py>>, Option<(Bound<'py, PyAny>, u16)>);

fn read_gate<'py>(gate: &Bound<'py, PyAny>, spec: &mut TaskSpec) -> PyResult<ReadGate<'py>> {
    let plan = Plan::of(gate, None, "a gate", true)?;
    let (read, called) = plan.gate()?;
    spec.gate = Some(read);
    let parts = plan.len();
    let parts = u16::try_from(parts)
        .map_err(|_| errors::definition(gate.py(), &format!("a gate of {parts} waits has too many")))?;
    Ok((called, Some((plan.finish().clone(), parts))))
}

/// `run_if` by its name in Python.
struct RunIfName(RunIf);

impl FromPyObject<'_, '_> for RunIfName {
    type Error = PyErr;

    fn extract(name: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match &*name.cast::<PyString>()?.to_cow()? {
            "succeeded" => Ok(Self(RunIf::Succeeded)),
            "none_failed" => Ok(Self(RunIf::NoneFailed)),
            "failed" => Ok(Self(RunIf::Failed)),
            "done" => Ok(Self(RunIf::Done)),
            other => Err(errors::definition(name.py(), &format!("run_if='{other}' is not known"))),
        }
    }
}

/// `bide._bind.Source.kind`.
enum SourceKind {
    Context,
    Handle,
    Task,
    Input,
    Gate,
    ItemOfTask,
    ItemOfInput,
    SameElement,
    List,
    Mapped,
    Named,
    Failure,
}

impl FromPyObject<'_, '_> for SourceKind {
    type Error = PyErr;

    fn extract(name: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match &*name.cast::<PyString>()?.to_cow()? {
            "context" => Ok(Self::Context),
            "handle" => Ok(Self::Handle),
            "task" => Ok(Self::Task),
            "input" => Ok(Self::Input),
            "gate" => Ok(Self::Gate),
            "item_of_task" => Ok(Self::ItemOfTask),
            "item_of_input" => Ok(Self::ItemOfInput),
            "same_element" => Ok(Self::SameElement),
            "list" => Ok(Self::List),
            "mapped" => Ok(Self::Mapped),
            "named" => Ok(Self::Named),
            "failure" => Ok(Self::Failure),
            other => Err(errors::definition(name.py(), &format!("a source of the kind '{other}' is not known"))),
        }
    }
}
