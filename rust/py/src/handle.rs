//! `TaskHandle`: what a body uses to talk to the executor. Waiting itself is the executor's (`body/waits.rs` there).

use std::sync::Arc;
use std::time::Duration;

use bide_core::shown::shown;
use bide_core::{Failure, Time, Value};
use bide_executor::{Attached, BodyCx, CallError, Check, Condition, Polled, StepStart};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::errors::{self, names};
use crate::exit::Home;
use crate::gil::{self, Kept, Raised};
use crate::host::{PyEngine, Python3, read_only};
use crate::value::Codec;
use crate::workflow::{fingerprint, proof_of, read_policy, time_of};
use crate::{panics, stack, turn};

/// What a body with a handle gets. Use it only within the body that it was given to.
#[pyclass(frozen, module = "bide", name = "TaskHandle")]
pub(crate) struct PyTaskHandle {
    body: Arc<BodyCx<Python3>>,
    context: Option<Kept>,
    home: Home,
}

/// A thread of the host within a body.
struct Here<'a, 'py>(Python<'py>, &'a PyEngine);

impl Attached for Here<'_, '_> {
    fn detached(&mut self, f: &mut dyn FnMut()) {
        let f = gil::Engines(f);
        turn::detached(self.0, self.1, move || f.call());
    }

    fn idle(&mut self, f: &mut dyn FnMut()) {
        let f = gil::Engines(f);
        turn::idle(self.0, self.1, move || f.call());
    }

    fn parks(&mut self) {
        stack::give_back_unused();
    }
}

/// A condition that a body waits for.
struct PyCheck<'a, 'py> {
    handle: &'a PyTaskHandle,
    condition: Bound<'py, PyAny>,
    name: Arc<str>,
    codec: &'a Codec,
    /// What proved it the same before it was asked.
    proof: Option<Arc<[u8]>>,
    /// What it raised when it was asked last.
    last: Option<(Failure, Raised)>,
}

impl Check for PyCheck<'_, '_> {
    fn ask(&mut self) -> Polled {
        self.handle.ask(&self.condition, &self.name, self.codec, &mut self.last)
    }

    fn is_unchanged(&mut self) -> bool {
        // What cannot be proved has no record to be protected.
        let Some(proof) = &self.proof else { return true };
        proof_of(&self.condition).is_ok_and(|now| now.as_ref() == Some(proof))
    }
}

impl PyTaskHandle {
    pub(crate) fn new(body: Arc<BodyCx<Python3>>, context: Option<Kept>) -> Self {
        Self { body, context, home: Home::here() }
    }

    fn here<'py>(&self, py: Python<'py>) -> Here<'_, 'py> {
        Here(py, self.body.engine())
    }

    fn error(&self, py: Python<'_>, error: &CallError) -> PyErr {
        errors::wait(py, error, self.body.task_name())
    }

    /// Within a step or a condition the context cannot be changed.
    fn with_context_read_only<R>(&self, py: Python<'_>, f: impl FnOnce() -> Result<R, Raised>) -> Result<R, Raised> {
        let Some(context) = &self.context else { return f() };
        read_only(py, context.bind(py), true)?;
        let result = f();
        read_only(py, context.bind(py), false)?;
        result
    }

    /// Asks once. What it raised is kept in `last`, for the body to get the original if that ends the wait.
    fn ask<'py>(
        &self,
        condition: &Bound<'py, PyAny>,
        name: &str,
        codec: &Codec,
        last: &mut Option<(Failure, Raised)>,
    ) -> Polled {
        let py = condition.py();
        let asked = self.with_context_read_only(py, || {
            let value = gil::call0(condition)?;
            Ok(if gil::is_truthy(&value)? { Some(value) } else { None })
        });
        *last = None;
        match asked {
            Ok(None) => Polled::False,
            Ok(Some(value)) => match codec.encode(&value) {
                Ok(value) => Polled::True(value),
                Err(raised) => Polled::Broken(errors::unencodable(py, &raised, name)),
            },
            Err(raised) => {
                let failure = errors::describe(py, &raised);
                // A handle that is misused will be misused at the next poll, too.
                let misuse = names(py).is_ok_and(|names| raised.is_a(names.definition_error.bind(py)));
                let ordinary = raised.is::<PyException>(py) && !misuse;
                *last = Some((failure.clone(), raised));
                if ordinary { Polled::Raised(failure) } else { Polled::Broken(failure) }
            }
        }
    }

    /// Waits for what an `Until` says. Takes it over, so that nothing of it is kept while the body is parked but what
    /// the wait needs.
    fn wait_until<'py>(&self, until: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = until.py();
        let (asked, condition) = read_until(&until)?;
        drop(until);
        let codec = &names(py)?.plain_codec;
        let (name, proof) = (Arc::clone(&asked.name), asked.proof.clone());
        let mut check = PyCheck { handle: self, condition, name, codec, proof, last: None };
        let waited = self.body.wait_condition(&mut self.here(py), asked, &mut check);
        self.waited(py, codec, waited, check.last)
    }

    /// What a wait for a condition returns or raises.
    #[inline(never)]
    fn waited<'py>(
        &self,
        py: Python<'py>,
        codec: &Codec,
        waited: Result<Value, CallError>,
        last: Option<(Failure, Raised)>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match (waited, last) {
            (Ok(value), _) => Ok(codec.decode(py, &value)?.into_bound()),
            (Err(CallError::Failed(failure)), Some((same, raised))) if failure == same => Err(raised.into_err(py)),
            (Err(error), _) => Err(self.error(py, &error)),
        }
    }

    fn wait_after(&self, py: Python<'_>, name: &str, span: Duration) -> PyResult<()> {
        let waited = self.body.wait_after(&mut self.here(py), &name.into(), span);
        waited.map_err(|error| self.error(py, &error))
    }

    fn wait_at(&self, py: Python<'_>, name: &str, time: Time) -> PyResult<()> {
        let waited = self.body.wait_until(&mut self.here(py), &name.into(), time);
        waited.map_err(|error| self.error(py, &error))
    }

    fn execute_step<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
        keywords: Option<&Bound<'py, PyDict>>,
        codec: &Codec,
    ) -> Result<Value, Raised> {
        let py = function.py();
        let value = self.with_context_read_only(py, || gil::call(function, arguments, keywords))?;
        codec.encode(&value)
    }
}

/// A body waits within few and small frames: hundreds of bytes that only its preparation needs would stay on the stack
/// of each parked thread. So preparing is a function of its own.
#[inline(never)]
fn read_until<'py>(until: &Bound<'py, PyAny>) -> PyResult<(Condition, Bound<'py, PyAny>)> {
    let py = until.py();
    let condition = until.getattr("condition")?;
    let (default_name, proof) = fingerprint(py, &condition)?;
    let name = until.getattr("name")?.extract::<Option<String>>()?.unwrap_or(default_name);
    let timeout: Option<f64> = until.getattr("timeout")?.extract()?;
    let asked = Condition {
        name: name.into(),
        proof,
        policy: read_policy(until)?,
        timeout: timeout.map(Duration::from_secs_f64),
    };
    Ok((asked, condition))
}

/// The `Until` that the arguments of `defer_until` make.
#[inline(never)]
fn until_from_poll<'py>(
    condition: &Bound<'py, PyAny>,
    poll_interval_ms: Option<&Bound<'py, PyAny>>,
    settings: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = condition.py();
    let keywords = match settings {
        Some(settings) => settings.clone(),
        None => PyDict::new(py),
    };
    if let Some(interval) = poll_interval_ms {
        keywords.set_item("poll_interval_ms", interval)?;
    }
    let arguments = PyTuple::new(py, [condition])?;
    Ok(gil::call(names(py)?.from_poll.bind(py), &arguments, Some(&keywords))?.into_bound())
}

#[pymethods]
impl PyTaskHandle {
    /// Waits until `condition()` is truthy and returns its value.
    ///
    /// The signature shown is that of `from_poll`, which has the defaults and checks every argument.
    #[pyo3(
        signature = (condition, poll_interval_ms=None, **settings),
        text_signature = "($self, condition, poll_interval_ms=1000, *, timeout=None, backoff=1.0, \
                          max_interval_ms=None, jitter=0.0, on_error=..., name=None)"
    )]
    fn defer_until<'py>(
        &self,
        condition: &Bound<'py, PyAny>,
        poll_interval_ms: Option<&Bound<'py, PyAny>>,
        settings: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            self.wait_until(until_from_poll(condition, poll_interval_ms, settings)?)
        })
    }

    /// Waits for a `bide.until`, `bide.after` or `bide.at`; a condition's value is returned.
    #[pyo3(signature = (wait, /))]
    fn wait<'py>(&self, wait: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let py = wait.py();
            match &*wait.get_type().name()?.extract::<String>()? {
                "Until" => return self.wait_until(wait.clone()),
                "After" => {
                    let span = Duration::from_secs_f64(wait.getattr("seconds")?.extract()?);
                    self.wait_after(py, "after", span)?;
                }
                "At" => {
                    let due = time_of(wait.getattr("timestamp")?.extract()?);
                    self.wait_at(py, "at", due)?;
                }
                other => {
                    return Err(errors::definition(
                        py,
                        &format!("handle.wait takes bide.until(...), bide.after(...) or bide.at(...), not a {other}"),
                    ));
                }
            }
            Ok(py.None().into_bound(py))
        })
    }

    /// Sleeps for a duration (seconds or a timedelta), with the slot given back.
    #[pyo3(signature = (duration, *, name=None))]
    fn sleep(&self, py: Python<'_>, duration: &Bound<'_, PyAny>, name: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let after = py.import("bide._waits")?.getattr("after")?;
            let span: f64 = gil::call1(&after, duration)?.getattr("seconds")?.extract()?;
            let name = checked_name(py, name, "handle.sleep")?;
            self.wait_after(py, name.as_deref().unwrap_or("sleep"), Duration::from_secs_f64(span))
        })
    }

    /// Sleeps until a moment (a datetime with a time zone), with the slot given back.
    #[pyo3(signature = (moment, *, name=None))]
    fn sleep_until(&self, py: Python<'_>, moment: &Bound<'_, PyAny>, name: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let at = py.import("bide._waits")?.getattr("at")?;
            let due = time_of(gil::call1(&at, moment)?.getattr("timestamp")?.extract()?);
            let name = checked_name(py, name, "handle.sleep_until")?;
            self.wait_at(py, name.as_deref().unwrap_or("sleep_until"), due)
        })
    }

    /// Calls `fn(*args, **kwargs)` and records what it returns or raises: after a crash it is not called again.
    #[pyo3(signature = (r#fn, /, *args, name=None, **kwargs))]
    fn step<'py>(
        &self,
        r#fn: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        name: Option<&Bound<'py, PyAny>>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let py = r#fn.py();
            let keywords = match kwargs {
                Some(keywords) => keywords.clone(),
                None => PyDict::new(py),
            };
            let none = py.None().into_bound(py);
            let described = gil::call_args(
                names(py)?.describe_step.bind(py),
                &[r#fn, args.as_any(), keywords.as_any(), name.unwrap_or(&none)],
            )?;
            let (step, proof, codec): (String, Vec<u8>, Bound<'_, PyAny>) = described.extract()?;
            let codec = Codec::new(&codec)?;
            let here = &mut self.here(py);
            let mut older = || first_proof(args, &keywords);
            let start = self.body.begin_step(here, &step.into(), Some(proof.into()), &mut older);
            let call = match start.map_err(|error| self.error(py, &error))? {
                StepStart::Returned(value) => return Ok(codec.decode(py, &value)?.into_bound()),
                StepStart::Execute(call) => call,
            };
            match self.execute_step(r#fn, args, kwargs, &codec) {
                Ok(value) => {
                    let value = self.body.end_step(here, call, Ok(value)).map_err(|error| self.error(py, &error))?;
                    Ok(codec.decode(py, &value)?.into_bound())
                }
                Err(raised) if raised.is::<PyException>(py) => {
                    match self.body.end_step(here, call, Err(errors::describe(py, &raised))) {
                        // The exception itself, with its traceback.
                        Ok(_) | Err(CallError::Failed(_)) => Err(raised.into_err(py)),
                        Err(error) => Err(self.error(py, &error)),
                    }
                }
                Err(raised) => {
                    self.body.abandon_step(call);
                    Err(raised.into_err(py))
                }
            }
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

    /// The task's name.
    #[getter]
    fn task_name(&self) -> &str {
        self.body.task_name()
    }

    /// Which try this is, from 1.
    #[getter]
    fn attempt(&self) -> u32 {
        self.body.attempt()
    }

    /// Whether the body is being suspended: it unwinds now and goes on later.
    #[getter]
    fn suspending(&self) -> bool {
        self.body.suspending()
    }

    /// Says of a method that is designed and not there yet that it is not.
    #[cold]
    fn __getattr__<'py>(slf: &Bound<'py, Self>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let find = slf.py().import("bide._absent")?.getattr("of_task_handle")?;
        Ok(gil::call_args(&find, &[slf.as_any(), name.as_any()])?.into_bound())
    }

    fn __repr__(&self) -> String {
        format!("<TaskHandle of task '{}', attempt {}>", shown(self.body.task_name()), self.body.attempt())
    }
}

/// The proof of a step's arguments as the first version of bide computed it. `None`: it would have refused them.
#[cold]
fn first_proof(args: &Bound<'_, PyTuple>, keywords: &Bound<'_, PyDict>) -> Option<Arc<[u8]>> {
    let digest = args.py().import("bide._digest_v1").and_then(|module| module.getattr("digest_of_arguments")).ok()?;
    let proof = gil::call_args(&digest, &[args.as_any(), keywords.as_any()]).ok()?;
    proof.extract::<Option<Vec<u8>>>().ok()?.map(Into::into)
}

/// A stored time as a datetime in UTC.
pub(crate) fn datetime<'py>(py: Python<'py>, time: Time) -> PyResult<Bound<'py, PyAny>> {
    let names = names(py)?;
    let seconds = (time.0 as f64 / 1e6).into_pyobject(py)?.into_any();
    Ok(gil::call_args(names.from_timestamp.bind(py), &[&seconds, names.utc.bind(py)])?.into_bound())
}

/// The `name=` of a wait, checked as those of all waits are.
fn checked_name(py: Python<'_>, name: Option<&Bound<'_, PyAny>>, what: &str) -> PyResult<Option<String>> {
    let Some(name) = name.filter(|name| !name.is_none()) else { return Ok(None) };
    let check = py.import("bide._waits")?.getattr("check_name")?;
    let what = PyString::new(py, what).into_any();
    gil::call_args(&check, &[name, &what])?.extract()
}
