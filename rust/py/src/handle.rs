//! `TaskHandle`: what a body uses to talk to the executor. Waiting itself is the executor's (`body/waits.rs` there);
//! steps and checkpoints are in `step.rs`, waits in `handle/waits.rs`.

mod state;
mod waits;

pub(crate) use state::PyTaskHandle;

use bide_core::shown::shown;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use crate::callback;
use crate::children;
use crate::errors::names;
use crate::gil;
use crate::moment::datetime;
use crate::step::{Described, Options, Step};
use crate::transaction::PyOpenStep;
use crate::wait::Wait;
use crate::{channel, in_step, panics};
use waits::{checked_name, read_poll, read_wait};

impl PyTaskHandle {
    /// Starts a run as a child; `awaited`: the wait for it is the next call.
    fn start_one<'py>(
        &self,
        workflow: &Bound<'py, PyAny>,
        inputs: Option<&Bound<'py, PyAny>>,
        key: Option<&Bound<'py, PyAny>>,
        awaited: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let py = workflow.py();
            let none = py.None().into_bound(py);
            let arguments = [workflow, inputs.unwrap_or(&none), key.unwrap_or(&none)];
            children::start(&self.body, &mut self.here(py), "describe", &arguments, awaited)?.get_item(0)
        })
    }
}

#[pymethods]
impl PyTaskHandle {
    /// Waits until `condition()` is truthy and returns its value.
    ///
    /// The signature shown is that of `from_poll`: a test compares them.
    #[pyo3(
        signature = (condition, *arguments, **settings),
        text_signature = "($self, condition, poll_interval_ms=1000, *, timeout=None, backoff=1.0, \
                          max_interval_ms=None, jitter=0.0, on_error=..., name=None)"
    )]
    fn defer_until<'py>(
        &self,
        condition: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
        settings: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            self.wait_for_any(condition.py(), read_poll(condition, arguments, settings)?, None)
        })
    }

    /// Waits for anything that can be waited for, and returns its value.
    #[pyo3(signature = (wait, /, timeout=None))]
    fn wait<'py>(
        slf: &Bound<'py, Self>,
        wait: &Bound<'py, PyAny>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            slf.get().home.check("TaskHandle")?;
            let timeout = timeout.filter(|timeout| !timeout.is_none());
            match Wait::read(wait)? {
                Some(lone) if timeout.is_none() => slf.get().wait_for_any(wait.py(), lone, None),
                _ => Self::wait_planned(slf, wait, timeout, "handle.wait"),
            }
        })
    }

    /// Makes a callback, whose token lets others answer it.
    #[pyo3(signature = (name, r#type=None), text_signature = "($self, name, type=Any)")]
    fn callback<'py>(
        &self,
        name: &Bound<'py, PyAny>,
        r#type: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            callback::new(&self.body, &mut self.here(name.py()), name, r#type)
        })
    }

    /// Answers a request that the body has taken: for `bide.Received`.
    #[pyo3(signature = (name, number, answer, reason))]
    fn _reply(&self, py: Python<'_>, name: &str, number: i64, answer: Option<&[u8]>, reason: &str) -> PyResult<()> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            callback::reply(py, &self.body, &mut self.here(py), (name, number), answer, reason)
        })
    }

    /// Waits for a signal of this name.
    #[pyo3(signature = (name, r#type=None, timeout=None), text_signature = "($self, name, type=Any, timeout=None)")]
    fn wait_for<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        r#type: Option<&Bound<'py, PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            slf.get().home.check("TaskHandle")?;
            let signal = name.py().import("bide._signals")?.getattr("signal")?;
            let signal = match r#type {
                None => gil::call1(&signal, name)?,
                Some(kind) => gil::call_args(&signal, &[name, kind])?,
            };
            Self::wait_planned(slf, &signal, timeout, "handle.wait_for")
        })
    }

    /// Waits for the first of several waits.
    #[pyo3(signature = (*waits, timeout=None, name=None, **named))]
    fn wait_any<'py>(
        slf: &Bound<'py, Self>,
        waits: &Bound<'py, PyTuple>,
        timeout: Option<&Bound<'py, PyAny>>,
        name: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::wait_several(slf, "any_of", waits, timeout, name, named)
    }

    /// Waits for all of several waits.
    #[pyo3(signature = (*waits, timeout=None, name=None, **named))]
    fn wait_all<'py>(
        slf: &Bound<'py, Self>,
        waits: &Bound<'py, PyTuple>,
        timeout: Option<&Bound<'py, PyAny>>,
        name: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::wait_several(slf, "all_of", waits, timeout, name, named)
    }

    /// Sleeps for a duration (seconds or a timedelta), with the slot released.
    #[pyo3(signature = (duration, *, name=None))]
    fn sleep<'py>(
        &self,
        duration: &Bound<'py, PyAny>,
        name: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let py = duration.py();
            let after = gil::call1(names(py)?.make_after.bind(py), duration)?;
            let name = checked_name(py, name, "handle.sleep")?.unwrap_or_else(|| "sleep".to_owned());
            self.wait_for_any(py, read_wait(&after, "handle.sleep")?, Some(&name))
        })
    }

    /// Sleeps until a moment (a datetime with a time zone), with the slot released.
    #[pyo3(signature = (moment, *, name=None))]
    fn sleep_until<'py>(
        &self,
        moment: &Bound<'py, PyAny>,
        name: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let py = moment.py();
            let at = gil::call1(names(py)?.make_at.bind(py), moment)?;
            let name = checked_name(py, name, "handle.sleep_until")?.unwrap_or_else(|| "sleep_until".to_owned());
            self.wait_for_any(py, read_wait(&at, "handle.sleep_until")?, Some(&name))
        })
    }

    /// Starts a run as a child of this one, and returns a wait for it.
    #[pyo3(signature = (workflow, inputs=None, *, key=None))]
    fn start<'py>(
        &self,
        workflow: &Bound<'py, PyAny>,
        inputs: Option<&Bound<'py, PyAny>>,
        key: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.start_one(workflow, inputs, key, false)
    }

    /// Starts many runs as children of this one, 1,024 in one commit, and returns a wait for each.
    #[pyo3(signature = (workflow, inputs, keys=None))]
    fn start_many<'py>(
        &self,
        workflow: &Bound<'py, PyAny>,
        inputs: &Bound<'py, PyAny>,
        keys: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let py = workflow.py();
            let none = py.None().into_bound(py);
            let arguments = [workflow, inputs, keys.unwrap_or(&none)];
            children::start(&self.body, &mut self.here(py), "describe_many", &arguments, false)
        })
    }

    /// Starts a run as a child of this one, waits for it and returns its result.
    #[pyo3(signature = (workflow, inputs=None, *, key=None, timeout=None))]
    fn run<'py>(
        slf: &Bound<'py, Self>,
        workflow: &Bound<'py, PyAny>,
        inputs: Option<&Bound<'py, PyAny>>,
        key: Option<&Bound<'py, PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let child = slf.get().start_one(workflow, inputs, key, timeout.is_none())?;
        panics::method(|| Self::wait_planned(slf, &child, timeout, "handle.run"))
    }

    /// Calls `fn(*args, **kwargs)` and records what it returns or raises: after a crash it is not called again.
    #[pyo3(
        signature = (r#fn, /, *args, name=None, key=None, retry=None, once=None, **kwargs),
        text_signature = "($self, fn, /, *args, name=None, key=None, retry=None, once=False, **kwargs)"
    )]
    #[expect(clippy::too_many_arguments, reason = "those of Python, each by its name")]
    fn step<'py>(
        &self,
        r#fn: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        name: Option<&Bound<'py, PyAny>>,
        key: Option<&Bound<'py, PyAny>>,
        retry: Option<&Bound<'py, PyAny>>,
        once: Option<&Bound<'py, PyAny>>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let step = Step::read(r#fn, args, kwargs, Options { name, key, retry, once })?;
            self.record_step(&step)
        })
    }

    /// Begins a transaction of the user's, on the user's connection, that records a step.
    #[pyo3(signature = (connection, *, same_database=None))]
    fn transaction<'py>(
        slf: &Bound<'py, Self>,
        connection: &Bound<'py, PyAny>,
        same_database: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            slf.get().home.check("TaskHandle")?;
            let py = slf.py();
            let none = py.None().into_bound(py);
            let make = py.import("bide._transactions")?.getattr("Transaction")?;
            Ok(gil::call_args(&make, &[slf.as_any(), connection, same_database.unwrap_or(&none)])?.into_bound())
        })
    }

    /// Begins a step that such a transaction records, as `bide._steps` describes it; the value of one that is recorded.
    fn _open_step<'py>(slf: &Bound<'py, Self>, described: Described) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            slf.get().home.check("TaskHandle")?;
            PyOpenStep::begin(slf, described)
        })
    }

    /// Records a state and forgets what the body has recorded until now.
    fn checkpoint(&self, state: &Bound<'_, PyAny>) -> PyResult<()> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            self.record_checkpoint(state)
        })
    }

    /// The state of the last checkpoint, as a value of `type`; `default` if there was none.
    #[pyo3(signature = (r#type, default=None))]
    fn last_checkpoint<'py>(
        &self,
        r#type: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let py = r#type.py();
            let state = self.read_checkpoint(r#type)?;
            Ok(state.or(default).unwrap_or_else(|| py.None().into_bound(py)))
        })
    }

    /// The time, recorded: after a crash it is the same again. A datetime in UTC.
    fn now<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let now = self.body.now(&mut self.here(py));
            datetime(py, now.map_err(|error| self.error(py, &error))?)
        })
    }

    /// Appends a value to a channel of the run, for those who follow it.
    #[pyo3(signature = (value, *, channel=None))]
    fn emit(&self, value: &Bound<'_, PyAny>, channel: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            crate::channel::emit(&self.body, &mut self.here(value.py()), value, channel)
        })
    }

    /// Says how far the body has come.
    #[pyo3(signature = (done, total=None, message=None))]
    fn progress(
        &self,
        done: &Bound<'_, PyAny>,
        total: Option<&Bound<'_, PyAny>>,
        message: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let py = done.py();
            let none = py.None().into_bound(py);
            channel::progress(py, &self.body, done, total.unwrap_or(&none), message.unwrap_or(&none))
        })
    }

    /// Whether the body holds a slot now.
    fn is_slot_held(&self) -> PyResult<bool> {
        self.home.check("TaskHandle")?;
        Ok(self.body.is_slot_held())
    }

    /// The run's id.
    #[getter]
    fn run_id(&self) -> String {
        self.body.run().id.to_string()
    }

    /// The id of the run whose body has started this one, if one has.
    #[getter]
    fn parent(&self) -> Option<String> {
        self.body.run().parent.as_ref().map(|parent| parent.id.to_string())
    }

    /// The task's name.
    #[getter]
    fn task_name(&self) -> String {
        self.body.task_name().to_string()
    }

    /// Which try this is, from 1.
    #[getter]
    fn attempt(&self) -> u32 {
        self.body.attempt()
    }

    /// Whether the body only reads what an earlier entry of it has recorded.
    #[getter]
    fn is_replaying(&self) -> PyResult<bool> {
        self.home.check("TaskHandle")?;
        Ok(self.body.is_replaying())
    }

    /// Whether the calling thread executes a step.
    #[getter]
    fn in_step(&self) -> bool {
        in_step::in_step()
    }

    /// Whether the body is being suspended: it unwinds now and continues later.
    #[getter]
    fn suspending(&self) -> bool {
        self.body.suspending()
    }

    /// Whether the run was cancelled: the body is to clean up and end.
    #[getter]
    fn cancelled(&self) -> bool {
        self.body.is_cancelled()
    }

    /// Raises the error for an attribute that there is not, with the class's public name.
    #[cold]
    fn __getattr__<'py>(slf: &Bound<'py, Self>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let find = slf.py().import("bide._absent")?.getattr("of_task_handle")?;
        Ok(gil::call_args(&find, &[slf.as_any(), name.as_any()])?.into_bound())
    }

    fn __repr__(&self) -> String {
        format!("<TaskHandle of task '{}', attempt {}>", shown(&self.body.task_name()), self.body.attempt())
    }
}
