//! One entry of a coroutine, as `bide/_loop.py` drives it: begun, called, ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::task::Wake;

use bide_core::record::RunRowId;
use bide_core::{Failure, FailureKind, NO_MAP, Outcome, TaskRef};
use bide_executor::{Args, CallError, CoroutineBody};
use bide_sync::Mutex;
use pyo3::exceptions::asyncio::CancelledError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::driven::Driven;
use super::pending::{PyPending, Then};
use super::queue::{LoopQueue, Parked, Sleeper};
use crate::call::Arguments;
use crate::context::{changes_of, context_of, read_only};
use crate::errors::{self, Names};
use crate::gil::{self, Kept, Owned, Raised};
use crate::host::{PyRun, Python3, Vars};
use crate::moment::datetime;
use crate::worker::{self, Whose};
use crate::{channel, panics};

/// A body by `async def`, which has begun.
#[pyclass(frozen, module = "bide._core", name = "Coroutine")]
pub(crate) struct PyCoroutine {
    /// Where its calls are woken.
    pub(super) queue: Arc<LoopQueue>,
    /// The body.
    body: Arc<CoroutineBody<Python3>>,
    /// What it has of Python's. Never locked while Python code runs.
    objects: Mutex<Objects>,
    /// How many steps and conditions execute, within which the context cannot be changed.
    read_only: AtomicU32,
    /// How many conditions of its waits are asked.
    asking: AtomicU16,
    /// A condition of its wait awaits something itself: the wait keeps its task.
    has_slow_conditions: AtomicBool,
}

#[derive(Default)]
struct Objects {
    /// The `bide.Context` of the body, if it takes one.
    context: Option<Kept>,
    /// Its handle, once it was asked for and until it ends: each has the other.
    handle: Option<Kept>,
    /// Called once the end of the body is committed.
    when_recorded: Option<Kept>,
    /// What executes it.
    driven: Driven,
}

impl PyCoroutine {
    pub(super) fn new(queue: &Arc<LoopQueue>, body: &Arc<CoroutineBody<Python3>>) -> Self {
        Self {
            queue: Arc::clone(queue),
            body: Arc::clone(body),
            objects: Mutex::default(),
            // The context of an element is read-only all the time.
            read_only: AtomicU32::new(u32::from(body.task().map != NO_MAP)),
            asking: AtomicU16::new(0),
            has_slow_conditions: AtomicBool::new(false),
        }
    }

    fn run(&self) -> &Arc<PyRun> {
        self.body.run()
    }

    /// The body, for a call of its handle.
    pub(crate) fn body(&self) -> PyResult<&Arc<CoroutineBody<Python3>>> {
        self.queue.home.check("AsyncTaskHandle")?;
        Ok(&self.body)
    }

    /// How it is found by what interrupts it.
    pub(super) fn place(&self) -> (RunRowId, TaskRef) {
        (self.run().id.row(), self.body.task())
    }

    /// It has suspended for the first time.
    pub(super) fn suspends(&self) {
        self.body.suspends();
    }

    /// What executes it, from here on. Returns what did until now.
    pub(super) fn set_driven(&self, driven: Driven) -> Driven {
        std::mem::replace(&mut self.objects.lock().driven, driven)
    }

    /// Looks at what executes it. Executes no Python code.
    pub(super) fn with_driven<R>(&self, look: impl FnOnce(&Driven) -> R) -> R {
        look(&self.objects.lock().driven)
    }

    /// Whether it waits without a task.
    pub(super) fn is_detached(&self) -> bool {
        self.with_driven(|driven| matches!(driven, Driven::Detached { .. }))
    }

    fn context<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.objects.lock().context.as_ref().map(|context| context.bind(py).clone())
    }

    pub(super) fn task<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.with_driven(
            |driven| if let Driven::ByTask { task, .. } = driven { Some(task.bind(py).clone()) } else { None },
        )
    }

    /// If it waits without a task, it gets one, in which it continues.
    pub(super) fn attach(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().is_detached()
            && let Some(bodies) = slf.get().queue.body_loop(slf.py())
        {
            gil::call_method1(&bodies, pyo3::intern!(slf.py(), "attach"), slf.as_any())?;
        }
        Ok(())
    }

    /// The task of a body that has suspended: one that has none gets one.
    pub(super) fn task_of<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::attach(slf)?;
        Ok(slf.get().task(slf.py()))
    }

    /// A wait begins: nothing is known of its conditions.
    pub(super) fn begins_wait(&self) {
        self.has_slow_conditions.store(false, Ordering::Relaxed);
    }

    /// A condition begins, or ends.
    pub(super) fn asks(&self, begins: bool) {
        if begins {
            self.asking.fetch_add(1, Ordering::Relaxed);
        } else {
            self.asking.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// It awaits something else than bide.
    pub(super) fn awaits_other(&self) {
        if self.asking.load(Ordering::Relaxed) > 0 {
            self.has_slow_conditions.store(true, Ordering::Relaxed);
        }
    }

    /// Whether each condition of its wait has answered at once until now.
    pub(super) fn answers_at_once(&self) -> bool {
        !self.has_slow_conditions.load(Ordering::Relaxed)
    }

    /// Within a step or a condition the context cannot be changed. Several steps may execute at once.
    pub(super) fn make_read_only(&self, py: Python<'_>, yes: bool) -> Result<(), Raised> {
        let Some(context) = self.context(py) else { return Ok(()) };
        let change = if yes {
            self.read_only.fetch_add(1, Ordering::SeqCst) == 0
        } else {
            self.read_only.fetch_sub(1, Ordering::SeqCst) == 1
        };
        if change { read_only(py, &context, yes) } else { Ok(()) }
    }

    pub(crate) fn error(&self, py: Python<'_>, error: &CallError) -> PyErr {
        match error {
            CallError::Suspended => suspended(py),
            CallError::Failed(failure) if failure.kind == FailureKind::Cancelled => cancelled(py, failure),
            error => errors::wait(py, error, &self.body.task_name()),
        }
    }

    fn end(&self, outcome: Outcome) -> Option<PyPending> {
        let (handle, callback, driven) = {
            let mut objects = self.objects.lock();
            (objects.handle.take(), objects.when_recorded.take(), std::mem::take(&mut objects.driven))
        };
        drop((handle, driven));
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
    pub(super) fn handle_of<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, own) = (slf.py(), slf.get());
        if let Some(handle) = &own.objects.lock().handle {
            return Ok(handle.bind(py).clone());
        }
        let make = py.import("bide._async_handle")?.getattr("AsyncTaskHandle")?.getattr("_of")?;
        let handle = gil::call1(&make, slf.as_any())?.into_bound();
        if !own.ended() {
            own.objects.lock().handle = Some(Kept::new(handle.clone().unbind()));
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
            own.objects.lock().context = Some(Kept::new(Bound::clone(&seen).unbind()));
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

    /// It does not continue: its loop was closed.
    pub(super) fn abandon(&self) {
        self.body.suspend();
        let _ = self.end(Outcome::Suspended);
    }

    /// It has returned. What to wait for, if anything.
    pub(super) fn ends_with(&self, value: &Bound<'_, PyAny>) -> Option<PyPending> {
        let py = value.py();
        let stored = self.body.target().returns.encode(value).and_then(|output| {
            let changes = self.context(py).map(|context| changes_of(py, &context));
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
    /// The `BodyLoop`, while it executes bodies.
    #[getter]
    fn bodies<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.queue.body_loop(py)
    }

    /// Its handle.
    #[getter]
    fn handle<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| Self::handle_of(slf))
    }

    /// The `asyncio.Task` that executes it; `None` before it has suspended for the first time, and after its end.
    #[getter(task)]
    fn py_task<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        panics::method(|| Self::task_of(slf))
    }

    /// It has to return: what it does from here on does not count, and it continues later from its journal.
    pub(super) fn suspend(&self) {
        self.body.suspend();
    }

    /// Completes this `asyncio` future when the `timeout` of the task is over.
    fn when_timed_out(&self, future: Py<PyAny>) -> PyResult<()> {
        let sleeper = Sleeper::new(&self.queue);
        sleeper.park(Parked { future: Some(Kept::new(future)), call: None });
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
        let before = self.objects.lock().when_recorded.replace(Kept::new(callback));
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
