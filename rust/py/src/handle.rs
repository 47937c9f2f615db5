//! `TaskHandle`: what a body uses to talk to the executor. Waiting itself is the executor's (`body/waits.rs` there);
//! steps and checkpoints are in `step.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bide_core::shown::shown;
use bide_core::{Failure, Time, Value};
use bide_executor::{Attached, BodyCx, CallError, Check, Condition, Polled};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use smallvec::SmallVec;

use crate::callback;
use crate::children;
use crate::context::read_only;
use crate::errors::{self, names};
use crate::gil::{self, Kept, Raised};
use crate::host::{PyEngine, Python3};
use crate::plan::{Plan, PlannedCondition, finished, outcomes};
use crate::process::Home;
use crate::step::{Options, Step};
use crate::value::Codec;
use crate::wait::{Until, Wait, name_of, proof_of};
use crate::{channel, in_step, panics, stack, turn};

/// What a body with a handle gets. Use it only within the body that it was given to.
#[pyclass(frozen, module = "bide", name = "TaskHandle")]
pub(crate) struct PyTaskHandle {
    /// The entry of the body, in the engine.
    body: Arc<BodyCx<Python3>>,
    /// The `bide.Context` of the body, if it takes one.
    context: Option<Kept>,
    /// How many steps and conditions execute, within which it cannot be changed.
    read_only: AtomicU32,
    /// The process in which it was made.
    home: Home,
}

/// A thread of the host within a body.
pub(crate) struct Here<'a, 'py>(Python<'py>, &'a PyEngine);

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
        stack::release_unused();
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

/// The conditions among the parts of a plan.
struct PlannedChecks<'a, 'py> {
    checks: Vec<(usize, PyCheck<'a, 'py>)>,
}

impl<'a, 'py> PlannedChecks<'a, 'py> {
    fn new(handle: &'a PyTaskHandle, py: Python<'py>, conditions: Vec<PlannedCondition<'py>>) -> PyResult<Self>
    where
        'py: 'a,
    {
        let codec = &names(py)?.plain_codec;
        let check = |planned: PlannedCondition<'py>| -> PyResult<_> {
            let PlannedCondition { part, until: Until { condition, name, .. }, proof } = planned;
            let name = name.map_or_else(|| name_of(&condition), Ok)?.into();
            Ok((part, PyCheck { handle, condition, name, codec, proof, last: None }))
        };
        Ok(Self { checks: conditions.into_iter().map(check).collect::<PyResult<_>>()? })
    }

    fn of(&mut self, part: usize) -> Option<&mut PyCheck<'a, 'py>> {
        self.checks.iter_mut().find(|(at, _)| *at == part).map(|(_, check)| check)
    }

    /// Puts the exceptions that the conditions have raised in place of what is stored of them.
    fn put_originals(self, outcomes: &Bound<'py, PyList>) -> PyResult<()> {
        for (part, check) in self.checks {
            if let Some((_, raised)) = check.last
                && outcomes.get_item(part)?.is_instance_of::<PyException>()
            {
                outcomes.set_item(part, raised.into_err(outcomes.py()).into_value(outcomes.py()))?;
            }
        }
        Ok(())
    }
}

impl Check for PlannedChecks<'_, '_> {
    fn ask(&mut self) -> Polled {
        Polled::True(Value::NONE)
    }

    fn is_unchanged(&mut self) -> bool {
        true
    }

    fn ask_part(&mut self, part: usize) -> Polled {
        self.of(part).map_or(Polled::False, |check| check.ask())
    }

    fn is_part_unchanged(&mut self, part: usize) -> bool {
        self.of(part).is_none_or(|check| check.is_unchanged())
    }
}

impl PyTaskHandle {
    pub(crate) fn new(body: Arc<BodyCx<Python3>>, context: Option<Kept>) -> Self {
        Self { body, context, read_only: AtomicU32::new(0), home: Home::here() }
    }

    /// The task's name.
    pub(crate) fn task(&self) -> Arc<str> {
        self.body.task_name()
    }

    /// Whether the body has returned.
    pub(crate) fn has_ended(&self) -> bool {
        self.body.has_ended()
    }

    /// What the body talks to the engine through.
    pub(crate) fn body(&self) -> &Arc<BodyCx<Python3>> {
        &self.body
    }

    pub(crate) fn here<'py>(&self, py: Python<'py>) -> Here<'_, 'py> {
        Here(py, self.body.engine())
    }

    pub(crate) fn error(&self, py: Python<'_>, error: &CallError) -> PyErr {
        errors::wait(py, error, &self.body.task_name())
    }

    /// Within a step or a condition the context cannot be changed. Several steps may execute at once.
    pub(crate) fn with_context_read_only<R>(
        &self,
        py: Python<'_>,
        f: impl FnOnce() -> Result<R, Raised>,
    ) -> Result<R, Raised> {
        let Some(context) = &self.context else { return f() };
        if self.read_only.fetch_add(1, Ordering::SeqCst) == 0 {
            read_only(py, context.bind(py), true)?;
        }
        let result = f();
        if self.read_only.fetch_sub(1, Ordering::SeqCst) == 1 {
            read_only(py, context.bind(py), false)?;
        }
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

    /// Waits for a condition. Takes what is known of it over, so that nothing of it is kept while the body is parked but
    /// what the wait needs.
    fn wait_until<'py>(&self, until: Box<Until<'py>>) -> PyResult<Bound<'py, PyAny>> {
        let (asked, condition) = prepare(until)?;
        let py = condition.py();
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

    /// Waits, and returns a condition's value. `name` is what a wait for a time goes by in the journal, if it has one.
    fn wait_for_any<'py>(&self, py: Python<'py>, wait: Wait<'py>, name: Option<&str>) -> PyResult<Bound<'py, PyAny>> {
        let waited = match wait {
            Wait::Until(until) => return self.wait_until(until),
            Wait::After(span) => self.body.wait_after(&mut self.here(py), &name.unwrap_or("after").into(), span),
            Wait::At(time) => self.body.wait_until(&mut self.here(py), &name.unwrap_or("at").into(), time),
        };
        waited.map(|()| py.None().into_bound(py)).map_err(|error| self.error(py, &error))
    }

    /// Waits for what only a plan describes.
    #[inline(never)]
    fn wait_planned<'py>(
        slf: &Bound<'py, Self>,
        wait: &Bound<'py, PyAny>,
        timeout: Option<&Bound<'py, PyAny>>,
        what: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = wait.py();
        let plan = Plan::of(wait, timeout, what, false)?;
        let (requests, conditions) = plan.requests()?;
        let finish = plan.finish().clone();
        drop(plan);
        let own = slf.get();
        let children = children::among(&requests);
        children::check(py, &own.body, &children)?;
        let mut checks = PlannedChecks::new(own, py, conditions)?;
        let (waited, parts) = own.body.wait_parts(&mut own.here(py), requests, &mut checks);
        let outcomes = match waited {
            Ok(_) | Err(CallError::Failed(_)) => {
                let ended = |at| children::ended(py, &own.body, &children, at);
                outcomes(py, &own.body.task_name(), parts, ended)?
            }
            Err(error) => return Err(own.error(py, &error)),
        };
        checks.put_originals(&outcomes)?;
        finished(&finish, &outcomes, slf.as_any())
    }

    fn wait_several<'py>(
        slf: &Bound<'py, Self>,
        combination: &str,
        waits: &Bound<'py, PyTuple>,
        timeout: Option<&Bound<'py, PyAny>>,
        name: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            slf.get().home.check("TaskHandle")?;
            let py = waits.py();
            let combine = py.import("bide._combine")?.getattr(combination)?;
            let keywords = named.map_or_else(|| Ok(PyDict::new(py)), |named| named.copy())?;
            if let Some(name) = name {
                keywords.set_item("name", name)?;
            }
            let wait = gil::call(&combine, waits, Some(&keywords))?;
            Self::wait_planned(
                slf,
                &wait,
                timeout,
                if combination == "any_of" { "handle.wait_any" } else { "handle.wait_all" },
            )
        })
    }
}

/// A body waits within few and small frames: hundreds of bytes that only its preparation needs would stay on the stack
/// of each parked thread. So preparing is a function of its own.
#[inline(never)]
#[expect(clippy::boxed_local, reason = "the box is what keeps it off the caller's stack")]
fn prepare<'py>(until: Box<Until<'py>>) -> PyResult<(Condition, Bound<'py, PyAny>)> {
    let Until { condition, name, timeout, policy } = *until;
    let name = name.map_or_else(|| name_of(&condition), Ok)?;
    Ok((Condition { name: name.into(), proof: proof_of(&condition)?, policy, timeout }, condition))
}

/// What the arguments of `defer_until` ask for; `bide._waits.from_poll` has the defaults and checks them all.
#[inline(never)]
fn read_poll<'py>(
    condition: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
    settings: Option<&Bound<'py, PyDict>>,
) -> PyResult<Wait<'py>> {
    let py = condition.py();
    let from_poll = names(py)?.from_poll.bind(py);
    let until = if arguments.is_empty() && settings.is_none() {
        gil::call1(from_poll, condition)?
    } else {
        let mut all: SmallVec<[Bound<'py, PyAny>; 2]> = SmallVec::new();
        all.push(condition.clone());
        all.extend(arguments.iter());
        gil::call(from_poll, &PyTuple::new(py, all)?, settings)?
    };
    read_wait(&until, "handle.defer_until")
}

/// A `bide.until`, `bide.after` or `bide.at`; `what` takes one.
#[inline(never)]
fn read_wait<'py>(wait: &Bound<'py, PyAny>, what: &str) -> PyResult<Wait<'py>> {
    Wait::read(wait)?.map_or_else(
        || {
            let class = wait.get_type().name()?;
            let why = format!("{what} takes bide.until(...), bide.after(...) or bide.at(...), not a {class}");
            Err(errors::definition(wait.py(), &why))
        },
        Ok,
    )
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

    /// Makes a callback: its token is for whoever answers it.
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
        panics::method(|| {
            self.home.check("TaskHandle")?;
            let py = workflow.py();
            let none = py.None().into_bound(py);
            let arguments = [workflow, inputs.unwrap_or(&none), key.unwrap_or(&none)];
            children::start(&self.body, &mut self.here(py), "describe", &arguments)?.get_item(0)
        })
    }

    /// Starts many runs as children of this one, in one commit, and returns a wait for each.
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
            children::start(&self.body, &mut self.here(py), "describe_many", &arguments)
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
        let child = slf.get().start(workflow, inputs, key)?;
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

    /// Says of a method that is designed and not there yet that it is not.
    #[cold]
    fn __getattr__<'py>(slf: &Bound<'py, Self>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let find = slf.py().import("bide._absent")?.getattr("of_task_handle")?;
        Ok(gil::call_args(&find, &[slf.as_any(), name.as_any()])?.into_bound())
    }

    fn __repr__(&self) -> String {
        format!("<TaskHandle of task '{}', attempt {}>", shown(&self.body.task_name()), self.body.attempt())
    }
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
    let what = PyString::new(py, what).into_any();
    gil::call_args(names(py)?.check_name.bind(py), &[name, &what])?.extract()
}
