//! One entry of a coroutine, as `bide/_loop.py` drives it: begun, called, ended.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Wake;

use bide_core::record::RunRowId;
use bide_core::{Failure, FailureKind, NO_MAP, Outcome, TaskRef};
use bide_executor::{Args, CallError, CoroutineBody};
use bide_sync::Mutex;
use pyo3::exceptions::asyncio::CancelledError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::pending::{PyPending, Then};
use super::queue::{LoopQueue, Parked, Sleeper};
use crate::call::Arguments;
use crate::context::{changes_of, context_of, read_only};
use crate::errors::{self, Names};
use crate::gil::{self, Kept, Owned, Raised};
use crate::host::{PyRun, Python3, Vars};
use crate::moment::datetime;
use crate::process::Home;
use crate::worker::{self, Whose};
use crate::{channel, panics};

/// A body by `async def`, which has begun.
#[pyclass(frozen, module = "bide._core", name = "Coroutine")]
pub(crate) struct PyCoroutine {
    /// Where its calls are woken.
    pub(super) queue: Arc<LoopQueue>,
    /// The body.
    body: Arc<CoroutineBody<Python3>>,
    /// The `bide.Context` of the body, if it takes one.
    context: OnceLock<Kept>,
    /// Its handle, once it was asked for and until it ends: each has the other.
    handle: Mutex<Option<Kept>>,
    /// The `asyncio.Task` that executes it, and the contextvars, once it has suspended and until it ends.
    task: Mutex<Option<(Kept, Kept)>>,
    /// How many steps and conditions execute, within which the context cannot be changed.
    read_only: AtomicU32,
    /// Called once the end of the body is committed.
    when_recorded: Mutex<Option<Kept>>,
    /// The process in which it was made.
    home: Home,
}

impl PyCoroutine {
    pub(super) fn new(queue: &Arc<LoopQueue>, body: &Arc<CoroutineBody<Python3>>) -> Self {
        Self {
            queue: Arc::clone(queue),
            body: Arc::clone(body),
            context: OnceLock::new(),
            handle: Mutex::default(),
            task: Mutex::default(),
            // The context of an element is read-only all the time.
            read_only: AtomicU32::new(u32::from(body.task().map != NO_MAP)),
            when_recorded: Mutex::default(),
            home: Home::here(),
        }
    }

    fn run(&self) -> &Arc<PyRun> {
        self.body.run()
    }

    /// The body, for a call of its handle.
    pub(crate) fn body(&self) -> PyResult<&Arc<CoroutineBody<Python3>>> {
        self.home.check("AsyncTaskHandle")?;
        Ok(&self.body)
    }

    /// How it is found by what interrupts it.
    pub(super) fn place(&self) -> (RunRowId, TaskRef, u32) {
        (self.run().id.row(), self.body.task(), self.body.attempt())
    }

    /// It has suspended for the first time.
    pub(super) fn suspends(&self) {
        self.body.suspends();
    }

    /// This task executes it from here on, within these contextvars.
    pub(super) fn set_task(&self, task: &Bound<'_, PyAny>, vars: &Kept) {
        let vars = Kept::new(vars.clone_ref(task.py()));
        let before = self.task.lock().replace((Kept::new(task.clone().unbind()), vars));
        drop(before);
    }

    pub(super) fn task<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.task.lock().as_ref().map(|(task, _)| task.bind(py).clone())
    }

    /// Its task, and the contextvars in which it executes.
    pub(super) fn task_and_vars<'py>(&self, py: Python<'py>) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        self.task.lock().as_ref().map(|(task, vars)| (task.bind(py).clone(), vars.bind(py).clone()))
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

    pub(crate) fn error(&self, py: Python<'_>, error: &CallError) -> PyErr {
        match error {
            CallError::Suspended => suspended(py),
            CallError::Failed(failure) if failure.kind == FailureKind::Cancelled => cancelled(py, failure),
            error => errors::wait(py, error, &self.body.task_name()),
        }
    }

    fn end(&self, outcome: Outcome) -> Option<PyPending> {
        let (handle, task) = (self.handle.lock().take(), self.task.lock().take());
        drop((handle, task));
        let callback = self.when_recorded.lock().take();
        let then = callback.map(|callback| {
            let body = Arc::clone(&self.body);
            let then: Then = Box::new(move |py| {
                if body.is_recorded() {
                    // It is bide's own, and reports what goes wrong by itself.
                    let _ = gil::call0(callback.bind(py));
                }
            });
            then
        });
        self.body.end(outcome).map(|waits| PyPending::new(&self.queue, waits).then(then))
    }
}

/// How a coroutine is called and how it ends.
impl PyCoroutine {
    /// The submitter's contextvars, if there is anything in them.
    pub(super) fn submitters_vars(&self) -> Option<&Vars> {
        self.run().local.contextvars()
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

    /// Calls the function, within these contextvars or within those that are current; returns its coroutine.
    pub(super) fn call<'py>(
        slf: &Bound<'py, Self>,
        names: &Names,
        args: &Args,
        vars: Option<&Bound<'py, PyAny>>,
    ) -> Result<Owned<'py>, Raised> {
        let (py, own) = (slf.py(), slf.get());
        let (run, task, target) = (own.run(), own.body.task(), own.body.target());
        let binding = &target.binding;
        let context = if binding.wants_context {
            let seen = context_of(py, own.body.engine(), run, task)?;
            if task.map != NO_MAP {
                // Elements run side by side: what they change would depend on their order.
                read_only(py, &seen, true)?;
            }
            let _ = own.context.set(Kept::new(Bound::clone(&seen).unbind()));
            Some(seen)
        } else {
            None
        };
        let handle = binding.wants_handle().then(|| Self::handle_of(slf)).transpose();
        let handle = handle.map_err(|error| Raised::new(py, error))?.map(Owned::from);
        let arguments = Arguments { py, run, task, args, context: context.as_ref(), handle: handle.as_ref() };
        match vars {
            Some(vars) => arguments.call_within(names, vars, target.function.bind(py), binding),
            None => arguments.call_here(target.function.bind(py), binding),
        }
    }

    /// It has returned. What to wait for, if anything.
    pub(super) fn ends_with(&self, value: &Bound<'_, PyAny>) -> Option<PyPending> {
        let py = value.py();
        let stored = self.body.target().returns.encode(value).and_then(|output| {
            let changes = self.context.get().map(|context| changes_of(py, context.bind(py)));
            Ok((output, changes.transpose()?.flatten()))
        });
        let outcome = match stored {
            _ if self.body.suspending() => Outcome::Suspended,
            Ok((output, changes)) => Outcome::Completed { output, changes },
            Err(raised) => worker::ended_by(py, &self.whose(), raised),
        };
        self.end(outcome)
    }

    /// It has raised an exception. What to wait for, if anything.
    pub(super) fn ends_by(&self, py: Python<'_>, raised: Raised) -> Option<PyPending> {
        let outcome = if self.body.suspending() {
            Outcome::Suspended
        } else if self.body.is_cancelled() && raised.is::<CancelledError>(py) {
            Outcome::Cancelled { failure: errors::describe_end(py, &raised) }
        } else {
            worker::ended_by(py, &self.whose(), raised)
        };
        self.end(outcome)
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
    /// Its handle.
    #[getter]
    fn handle<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| Self::handle_of(slf))
    }

    /// The `asyncio.Task` that executes it; `None` before it has suspended for the first time, and after its end.
    #[getter(task)]
    fn py_task<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.task(py)
    }

    /// It has to return: what it does from here on does not count, and it continues later from its journal.
    pub(super) fn suspend(&self) {
        self.body.suspend();
    }

    /// Completes this `asyncio` future when the `timeout` of the task is over.
    fn when_timed_out(&self, future: Py<PyAny>) -> PyResult<()> {
        let sleeper = Sleeper::new(&self.queue);
        sleeper.park(Parked { future: Kept::new(future), call: None });
        self.body()?.when_timed_out(move || Arc::clone(&sleeper).wake());
        Ok(())
    }

    /// Has the condition of the wait asked at once.
    fn wake(&self) -> PyResult<()> {
        self.body()?.wake();
        Ok(())
    }

    /// Calls this once the end of the body is committed, if it is. To be called before the end.
    fn when_recorded(&self, callback: Py<PyAny>) -> PyResult<()> {
        self.body()?.wants_record();
        let before = self.when_recorded.lock().replace(Kept::new(callback));
        drop(before);
        Ok(())
    }

    /// Whether its `timeout` is over.
    #[getter]
    fn timed_out(&self) -> bool {
        self.body.is_timed_out()
    }

    /// Whether its task has a `timeout`.
    #[getter]
    pub(super) fn has_timeout(&self) -> bool {
        self.run().workflow.graph.spec(self.body.task().ix).timeout.is_some()
    }

    /// Whether it is deferred, or another runner has the run: then it is cancelled when the runner closes.
    #[getter]
    pub(super) fn deferred(&self) -> bool {
        !self.body.is_slot_held()
    }

    /// Whether another runner has the run.
    #[getter]
    pub(super) fn lost(&self) -> bool {
        self.body.is_lost()
    }

    #[getter]
    fn is_slot_held(&self) -> bool {
        self.body.is_slot_held()
    }

    /// Whether the journal has steps of the first version of bide.
    #[getter]
    fn has_older_steps(&self) -> bool {
        self.body.has_older_steps()
    }

    #[getter]
    fn run_id(&self) -> String {
        self.run().id.to_string()
    }

    #[getter]
    fn parent(&self) -> Option<String> {
        self.run().parent.as_ref().map(|parent| parent.id.to_string())
    }

    #[getter]
    pub(super) fn task_name(&self) -> String {
        self.body.task_name().to_string()
    }

    #[getter]
    fn attempt(&self) -> u32 {
        self.body.attempt()
    }

    #[getter]
    fn is_replaying(&self) -> bool {
        self.body.is_replaying()
    }

    #[getter]
    fn suspending(&self) -> bool {
        self.body.suspending()
    }

    /// Whether its run was cancelled.
    #[getter]
    fn cancelled(&self) -> bool {
        self.body.is_cancelled()
    }

    /// By whom and why its run was cancelled, in words, if it was.
    #[getter]
    fn cancellation(&self) -> Option<String> {
        self.body.cancellation()
    }

    /// Whether it is to be interrupted now, because its run was cancelled: true once.
    pub(super) fn take_interrupt(&self) -> bool {
        self.body.take_interrupt()
    }

    /// Whether it has returned.
    #[getter]
    pub(super) fn ended(&self) -> bool {
        self.body.has_ended()
    }

    /// Appends a value to a channel of the run.
    fn emit(&self, value: &Bound<'_, PyAny>, channel: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        panics::method(|| {
            let py = value.py();
            let body = self.body()?;
            let (channel, value) = channel::encoded(value, channel)?;
            body.emit(&channel, &value).map_err(|error| self.error(py, &error))
        })
    }

    /// Says how far the body has come.
    fn progress(&self, done: &Bound<'_, PyAny>, total: &Bound<'_, PyAny>, message: &Bound<'_, PyAny>) -> PyResult<()> {
        panics::method(|| {
            let py = done.py();
            let body = self.body()?;
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
            let Some(state) = self.body()?.last_checkpoint() else { return Ok(default) };
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
        datetime(py, self.body()?.read_now(value).map_err(|error| self.error(py, &error))?)
    }

    fn whose(&self) -> Whose<'_> {
        let body = &self.body;
        Whose {
            engine: body.engine(),
            run: body.run(),
            task: body.task(),
            attempt: body.attempt(),
            target: body.target(),
        }
    }
}
