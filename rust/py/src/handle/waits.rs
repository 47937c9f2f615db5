//! The waits of a handle: for a lone condition or time, and for what only a plan describes.

use std::sync::Arc;

use bide_core::{Failure, Value};
use bide_executor::{CallError, Check, Condition, Polled};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use smallvec::SmallVec;

use super::state::PyTaskHandle;
use crate::errors::{self, names};
use crate::gil::{self, Raised};
use crate::plan::{Plan, PlannedCondition, finished, outcomes};
use crate::value::Codec;
use crate::wait::{Until, Wait, name_of, proof_of};
use crate::{children, panics, test_hooks};

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
            let PlannedCondition { part, until: Until { condition, is_async, name, .. }, proof } = planned;
            let name: Arc<str> = name.map_or_else(|| name_of(&condition), Ok)?.into();
            refuse_async(py, is_async, &name)?;
            Ok((part, PyCheck { handle, condition, name, codec, proof, last: None }))
        };
        Ok(Self { checks: conditions.into_iter().map(check).collect::<PyResult<_>>()? })
    }

    fn of(&mut self, part: usize) -> Option<&mut PyCheck<'a, 'py>> {
        self.checks.iter_mut().find(|(at, _)| *at == part).map(|(_, check)| check)
    }

    /// Drops each exception that did not end its part: the condition was asked again, or the deadline came first.
    fn keep_endings(&mut self, parts: &[Option<Result<Value, Failure>>]) {
        for (part, check) in &mut self.checks {
            let ended = parts.get(*part).and_then(Option::as_ref).and_then(|outcome| outcome.as_ref().err());
            if check.last.as_ref().map(|(failure, _)| failure) != ended {
                check.last = None;
            }
        }
    }

    /// Puts the exceptions that ended their parts in place of what is stored of them.
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

/// A plan of one part is waited for as that part alone.
impl Check for PlannedChecks<'_, '_> {
    fn ask(&mut self) -> Polled {
        self.ask_part(0)
    }

    fn is_unchanged(&mut self) -> bool {
        self.is_part_unchanged(0)
    }

    fn ask_part(&mut self, part: usize) -> Polled {
        self.of(part).map_or(Polled::False, |check| check.ask())
    }

    fn is_part_unchanged(&mut self, part: usize) -> bool {
        self.of(part).is_none_or(|check| check.is_unchanged())
    }
}

impl PyTaskHandle {
    /// Asks once. What it raised is kept in `last`, for the body to get the original if that ends the wait.
    pub(super) fn ask<'py>(
        &self,
        condition: &Bound<'py, PyAny>,
        name: &str,
        codec: &Codec,
        last: &mut Option<(Failure, Raised)>,
    ) -> Polled {
        let py = condition.py();
        let asked = self.with_context_read_only(py, || {
            let stub = test_hooks::condition(self.body.engine(), self.body.run().id, name, condition)?;
            let value = gil::call0(stub.as_ref().unwrap_or(condition))?;
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

    /// Waits for a condition. Takes what is known of it over, so that nothing of it is kept while the body is parked
    /// but what the wait needs.
    pub(super) fn wait_until<'py>(&self, until: Box<Until<'py>>) -> PyResult<Bound<'py, PyAny>> {
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
    pub(super) fn waited<'py>(
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
    pub(super) fn wait_for_any<'py>(
        &self,
        py: Python<'py>,
        wait: Wait<'py>,
        name: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let waited = match wait {
            Wait::Until(until) => return self.wait_until(until),
            Wait::After(span) => self.body.wait_after(&mut self.here(py), &name.unwrap_or("after").into(), span),
            Wait::At(time) => self.body.wait_until(&mut self.here(py), &name.unwrap_or("at").into(), time),
        };
        waited.map(|()| py.None().into_bound(py)).map_err(|error| self.error(py, &error))
    }

    /// Waits for what only a plan describes.
    #[inline(never)]
    pub(super) fn wait_planned<'py>(
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
        checks.keep_endings(&parts);
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

    pub(super) fn wait_several<'py>(
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
    let Until { condition, is_async, name, timeout, policy } = *until;
    let name = name.map_or_else(|| name_of(&condition), Ok)?;
    refuse_async(condition.py(), is_async, &name)?;
    Ok((Condition { name: name.into(), proof: proof_of(&condition)?, policy, timeout }, condition))
}

/// A condition by `async def` needs an event loop, which the thread of a plain function does not have.
fn refuse_async(py: Python<'_>, is_async: bool, name: &str) -> PyResult<()> {
    if !is_async {
        return Ok(());
    }
    let why = format!(
        "the condition '{name}' is an `async def`, and this body is a plain `def`, which has no event loop: make the body \
         `async def` (with a bide.AsyncTaskHandle), or the condition a plain `def`; as the gate of a task it can stay as \
         it is"
    );
    Err(errors::definition(py, &why))
}

/// What the arguments of `defer_until` ask for; `bide._waits.from_poll` has the defaults and checks them all.
#[inline(never)]
pub(super) fn read_poll<'py>(
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
pub(super) fn read_wait<'py>(wait: &Bound<'py, PyAny>, what: &str) -> PyResult<Wait<'py>> {
    Wait::read(wait)?.map_or_else(
        || {
            let class = wait.get_type().name()?;
            let why = format!("{what} takes bide.until(...), bide.after(...) or bide.at(...), not a {class}");
            Err(errors::definition(wait.py(), &why))
        },
        Ok,
    )
}

/// The `name=` of a wait, checked as those of all waits are.
pub(super) fn checked_name(py: Python<'_>, name: Option<&Bound<'_, PyAny>>, what: &str) -> PyResult<Option<String>> {
    let Some(name) = name.filter(|name| !name.is_none()) else { return Ok(None) };
    let what = PyString::new(py, what).into_any();
    gil::call_args(names(py)?.check_name.bind(py), &[name, &what])?.extract()
}
