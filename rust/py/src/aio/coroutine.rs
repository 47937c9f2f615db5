//! One entry of a coroutine, as `bide/_loop.py` drives it: begun, called, ended.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Wake;

use bide_core::{Failure, FailureKind, NO_MAP, Outcome, TaskRef};
use bide_executor::{Args, Begun, CallError, CoroutineBody, Start};
use bide_sync::Mutex;
use pyo3::exceptions::asyncio::CancelledError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::pending::PyPending;
use super::queue::{LoopQueue, Sleeper};
use crate::call::Arguments;
use crate::context::{changes_of, context_of, read_only};
use crate::errors::{self, Names, names};
use crate::gil::{self, Kept, Owned, Raised};
use crate::host::{PyEngine, PyRun, Python3, Vars};
use crate::moment::datetime;
use crate::process::Home;
use crate::worker::{self, Whose};
use crate::{channel, panics};

/// A body by `async def`.
#[pyclass(frozen, module = "bide._core", name = "Coroutine")]
pub(crate) struct PyCoroutine {
    /// Where its calls are woken.
    pub(super) queue: Arc<LoopQueue>,
    /// The engine.
    engine: Arc<PyEngine>,
    /// Its run.
    run: Arc<PyRun>,
    /// Its task.
    task: TaskRef,
    /// What is to begin, until it does.
    start: Mutex<Option<Start<Python3>>>,
    /// What has begun, until it is called.
    begun: Arc<Mutex<Option<Begun<Python3>>>>,
    /// The body, once it was called.
    body: OnceLock<Arc<CoroutineBody<Python3>>>,
    /// The `bide.Context` of the body, if it takes one.
    context: OnceLock<Kept>,
    /// Its handle, once it was asked for and until it ends: each has the other.
    handle: Mutex<Option<Kept>>,
    /// How many steps and conditions execute, within which that cannot be changed.
    read_only: AtomicU32,
    /// The process in which it was made.
    home: Home,
}

impl PyCoroutine {
    pub(super) fn new(queue: &Arc<LoopQueue>, engine: &Arc<PyEngine>, start: Start<Python3>) -> Self {
        let (run, task) = (Arc::clone(&start.ready().run), start.ready().task);
        Self {
            queue: Arc::clone(queue),
            engine: Arc::clone(engine),
            run,
            task,
            start: Mutex::new(Some(start)),
            begun: Arc::default(),
            body: OnceLock::new(),
            context: OnceLock::new(),
            handle: Mutex::default(),
            // The context of an element is read-only all the time.
            read_only: AtomicU32::new(u32::from(task.map != NO_MAP)),
            home: Home::here(),
        }
    }

    /// The body, for a call of its handle.
    pub(super) fn body(&self, py: Python<'_>) -> PyResult<&Arc<CoroutineBody<Python3>>> {
        self.home.check("AsyncTaskHandle")?;
        self.body.get().ok_or_else(|| errors::bide(py, "the body of this handle has not begun"))
    }

    /// Within a step or a condition the context cannot be changed. Several steps may execute at once.
    pub(super) fn make_read_only(&self, py: Python<'_>, yes: bool) -> Result<(), Raised> {
        let Some(context) = self.context.get() else { return Ok(()) };
        let change = if yes {
            self.read_only.fetch_add(1, Ordering::SeqCst) == 0
        } else {
            self.read_only.fetch_sub(1, Ordering::SeqCst) == 1
        };
        if change { read_only(py, context.bind(py), yes) } else { Ok(()) }
    }

    pub(super) fn error(&self, py: Python<'_>, error: &CallError) -> PyErr {
        match error {
            CallError::Suspended => suspended(py),
            CallError::Failed(failure) if failure.kind == FailureKind::Cancelled => cancelled(py, failure),
            error => errors::wait(py, error, &self.run.workflow.graph.name_of(self.task)),
        }
    }

    fn end(&self, outcome: Outcome) -> Option<PyPending> {
        let handle = self.handle.lock().take();
        drop(handle);
        let body = Arc::clone(self.body.get()?);
        PyPending::of(&self.queue, body.end(outcome))
    }
}

/// How a coroutine is called and how it ends.
impl PyCoroutine {
    /// The submitter's contextvars, if there is anything in them.
    pub(super) fn submitters_vars(&self) -> Option<&Vars> {
        self.run.local.contextvars()
    }

    /// Its `AsyncTaskHandle`.
    fn handle_of<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, own) = (slf.py(), slf.get());
        if let Some(handle) = &*own.handle.lock() {
            return Ok(handle.bind(py).clone());
        }
        let bodies = own.queue.bodies.lock().as_ref().map(|bodies| bodies.bind(py).clone());
        let bodies = bodies.unwrap_or_else(|| py.None().into_bound(py));
        let make = py.import("bide._async_handle")?.getattr("AsyncTaskHandle")?.getattr("_of")?;
        let handle = gil::call_args(&make, &[slf.as_any(), &bodies])?.into_bound();
        if !own.ended() {
            *own.handle.lock() = Some(Kept::new(handle.clone().unbind()));
        }
        Ok(handle)
    }

    /// Calls the function within contextvars; returns its coroutine.
    pub(super) fn call_within<'py>(
        &self,
        slf: &Bound<'py, Self>,
        names: &Names,
        vars: &Bound<'py, PyAny>,
    ) -> Result<Owned<'py>, Raised> {
        let py = slf.py();
        let raised = |error: PyErr| Raised::new(py, error);
        let args: Args = self.begun.lock().take().map(|begun| begun.args).unwrap_or_default();
        let target = self.body(py).map_err(raised)?.target();
        let binding = &target.binding;
        let context = if binding.wants_context {
            let seen = context_of(py, &self.engine, &self.run, self.task)?;
            if self.task.map != NO_MAP {
                // Elements run side by side: what they change would depend on their order.
                read_only(py, &seen, true)?;
            }
            let _ = self.context.set(Kept::new(Bound::clone(&seen).unbind()));
            Some(seen)
        } else {
            None
        };
        let handle = binding.wants_handle().then(|| Self::handle_of(slf)).transpose().map_err(raised)?;
        let handle = handle.map(Owned::from);
        let (run, task) = (&self.run, self.task);
        let arguments = Arguments { py, run, task, args: &args, context: context.as_ref(), handle: handle.as_ref() };
        arguments.call_within(names, vars, target.function.bind(py), binding)
    }

    /// It has returned. What to wait for, if anything.
    pub(super) fn ends_with(&self, value: &Bound<'_, PyAny>) -> PyResult<Option<PyPending>> {
        let py = value.py();
        let Some(body) = self.body.get() else { return Ok(None) };
        let stored = body.target().returns.encode(value).and_then(|output| {
            let changes = self.context.get().map(|context| changes_of(py, context.bind(py)));
            Ok((output, changes.transpose()?.flatten()))
        });
        let outcome = match stored {
            _ if body.suspending() => Outcome::Suspended,
            Ok((output, changes)) => Outcome::Completed { output, changes },
            Err(raised) => worker::ended_by(py, &self.whose(body), raised),
        };
        Ok(self.end(outcome))
    }

    /// It has raised an exception. What to wait for, if anything.
    pub(super) fn ends_by(&self, py: Python<'_>, raised: Raised) -> PyResult<Option<PyPending>> {
        let Some(body) = self.body.get() else { return Ok(None) };
        let outcome = if body.suspending() {
            Outcome::Suspended
        } else if body.is_cancelled() && raised.is::<CancelledError>(py) {
            Outcome::Cancelled { failure: errors::describe_end(py, &raised) }
        } else {
            worker::ended_by(py, &self.whose(body), raised)
        };
        Ok(self.end(outcome))
    }
}

/// What a coroutine gets that has to return: it is cancelled.
pub(super) fn suspended(py: Python<'_>) -> PyErr {
    let class = py.import("bide._loop").and_then(|module| module.getattr("suspension"));
    match class.and_then(|make| Ok(gil::call0(&make)?.into_bound())) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// What a coroutine gets out of its wait when its run is cancelled: a `bide.Cancelled` that is a `CancelledError` too.
fn cancelled(py: Python<'_>, failure: &Failure) -> PyErr {
    let make = py.import("bide._loop").and_then(|module| module.getattr("cancellation"));
    let made = make.and_then(|make| {
        let message = PyString::new(py, &failure.message());
        Ok(gil::call1(&make, message.as_any())?.into_bound())
    });
    made.map_or_else(|error| error, PyErr::from_value)
}

#[pymethods]
impl PyCoroutine {
    /// The contextvars that it executes in: a copy of the submitter's.
    fn contextvars<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| Ok(self.run.local.own_vars(names(py)?, py)?.into_bound()))
    }

    /// Enters it in its run: `None` if that is done.
    pub(super) fn begin(&self) -> PyResult<Option<PyPending>> {
        panics::method(|| {
            let Some(start) = self.start.lock().take() else { return Ok(None) };
            let begun = Arc::clone(&self.begun);
            Ok(PyPending::of(&self.queue, async move {
                let started = start.begin().await;
                *begun.lock() = started;
            }))
        })
    }

    /// Whether it has begun, and is to be called.
    pub(super) fn begun(&self) -> bool {
        let begun = self.begun.lock();
        if let Some(begun) = &*begun {
            let _ = self.body.set(Arc::clone(&begun.body));
        }
        begun.is_some()
    }

    /// Calls the function within contextvars; returns its coroutine.
    fn call<'py>(slf: &Bound<'py, Self>, vars: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| Ok(slf.get().call_within(slf, names(slf.py())?, vars)?.into_bound()))
    }

    /// Its handle.
    #[getter]
    fn handle<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| Self::handle_of(slf))
    }

    /// It has returned.
    fn returned(&self, value: &Bound<'_, PyAny>) -> PyResult<Option<PyPending>> {
        panics::method(|| self.ends_with(value))
    }

    /// It has raised an exception.
    fn raised(&self, py: Python<'_>, exception: Bound<'_, PyAny>) -> PyResult<Option<PyPending>> {
        panics::method(|| self.ends_by(py, Raised::new(py, PyErr::from_value(exception))))
    }

    /// It has to return: what it does from here on does not count, and it continues later from its journal.
    fn suspend(&self) {
        if let Some(body) = self.body.get() {
            body.suspend();
        }
    }

    /// Completes this `asyncio` future when the `timeout` of the task is over.
    fn when_timed_out(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
        let sleeper = Sleeper::new(&self.queue);
        sleeper.park(future);
        self.body(py)?.when_timed_out(move || Arc::clone(&sleeper).wake());
        Ok(())
    }

    /// Whether its `timeout` is over.
    #[getter]
    fn timed_out(&self) -> bool {
        self.body.get().is_some_and(|body| body.is_timed_out())
    }

    /// Whether its task has a `timeout`.
    #[getter]
    fn has_timeout(&self) -> bool {
        self.run.workflow.graph.spec(self.task.ix).timeout.is_some()
    }

    /// Whether it is deferred, or another runner has the run: then it is cancelled when the runner closes.
    #[getter]
    fn deferred(&self) -> bool {
        self.body.get().is_none_or(|body| !body.is_slot_held())
    }

    /// Whether another runner has the run.
    #[getter]
    fn lost(&self) -> bool {
        self.body.get().is_some_and(|body| body.is_lost())
    }

    #[getter]
    fn is_slot_held(&self) -> bool {
        self.body.get().is_some_and(|body| body.is_slot_held())
    }

    /// Whether the journal has steps of the first version of bide.
    #[getter]
    fn has_older_steps(&self) -> bool {
        self.body.get().is_some_and(|body| body.has_older_steps())
    }

    #[getter]
    fn run_id(&self) -> String {
        self.run.id.to_string()
    }

    #[getter]
    fn parent(&self) -> Option<String> {
        self.run.parent.as_ref().map(|parent| parent.id.to_string())
    }

    #[getter]
    pub(super) fn task_name(&self) -> String {
        self.run.workflow.graph.name_of(self.task).to_string()
    }

    #[getter]
    fn attempt(&self) -> u32 {
        self.body.get().map_or(1, |body| body.attempt())
    }

    #[getter]
    fn is_replaying(&self) -> bool {
        self.body.get().is_some_and(|body| body.is_replaying())
    }

    #[getter]
    fn suspending(&self) -> bool {
        self.body.get().is_some_and(|body| body.suspending())
    }

    /// Whether its run was cancelled.
    #[getter]
    fn cancelled(&self) -> bool {
        self.body.get().is_some_and(|body| body.is_cancelled())
    }

    /// By whom and why its run was cancelled, in words, if it was.
    #[getter]
    fn cancellation(&self) -> Option<String> {
        self.body.get().and_then(|body| body.cancellation())
    }

    /// Whether it is to be interrupted now, because its run was cancelled: true once.
    fn take_interrupt(&self) -> bool {
        self.body.get().is_some_and(|body| body.take_interrupt())
    }

    /// Whether it has returned.
    #[getter]
    fn ended(&self) -> bool {
        self.body.get().is_some_and(|body| body.has_ended())
    }

    /// Appends a value to a channel of the run.
    fn emit(&self, value: &Bound<'_, PyAny>, channel: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        panics::method(|| {
            let py = value.py();
            let body = self.body(py)?;
            let (channel, value) = channel::encoded(value, channel)?;
            body.emit(&channel, &value).map_err(|error| self.error(py, &error))
        })
    }

    /// Says how far the body has come.
    fn progress(&self, done: &Bound<'_, PyAny>, total: &Bound<'_, PyAny>, message: &Bound<'_, PyAny>) -> PyResult<()> {
        panics::method(|| {
            let py = done.py();
            let body = self.body(py)?;
            let (done, total, message) = channel::checked_progress(py, done, total, message)?;
            body.progress(done, total, message.as_deref()).map_err(|error| self.error(py, &error))
        })
    }

    /// The state of the last checkpoint, as a value of a type; `default` if there was none.
    fn last_checkpoint<'py>(
        &self,
        r#type: &Bound<'py, PyAny>,
        default: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            let py = r#type.py();
            let codec = self.checkpoint_codec(r#type)?;
            let Some(state) = self.body(py)?.last_checkpoint() else { return Ok(default) };
            Ok(codec.decode(py, &state)?.into_bound())
        })
    }
}

impl PyCoroutine {
    pub(super) fn checkpoint_codec(&self, class: &Bound<'_, PyAny>) -> PyResult<crate::value::Codec> {
        let py = class.py();
        let make = py.import("bide._steps")?.getattr("checkpoint_codec")?;
        gil::call_args(&make, &[class, PyString::new(py, &self.task_name()).as_any()])?.extract()
    }

    /// The time that was recorded.
    pub(super) fn recorded_time<'py>(&self, py: Python<'py>, value: &bide_core::Value) -> PyResult<Bound<'py, PyAny>> {
        datetime(py, self.body(py)?.read_now(value).map_err(|error| self.error(py, &error))?)
    }

    fn whose<'a>(&'a self, body: &'a Arc<CoroutineBody<Python3>>) -> Whose<'a> {
        Whose { engine: &self.engine, run: &self.run, task: self.task, attempt: body.attempt(), target: body.target() }
    }
}
