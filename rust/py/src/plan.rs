//! Waits of every kind but a lone condition or time, as `bide._combine.plan` describes them: for a body and for gates.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Part, PartRequest};
use bide_core::{Address, GateSpec, GateUntil, MessageKind, RunId, Value};
use bide_executor::CallError;
use bide_executor::alike::Alike;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyList};

use crate::body::Purpose;
use crate::messages::run_id;
use crate::wait::{Until, Wait, proof_of, time_of};
use crate::{errors, gil};

/// `bide._combine.Part`: kind, name, timeout, and what its kind has.
#[derive(FromPyObject)]
struct PlannedPart<'py>(PyBackedStr, PyBackedStr, Option<f64>, Bound<'py, PyAny>);

/// `bide._combine.Plan`: the parts, and what makes the value of their outcomes.
pub(crate) struct Plan<'py> {
    parts: Vec<PlannedPart<'py>>,
    finish: Bound<'py, PyAny>,
}

/// A condition among the parts of a plan.
pub(crate) struct PlannedCondition<'py> {
    /// Which part it is.
    pub(crate) part: usize,
    /// The condition, with when it is polled.
    pub(crate) until: Until<'py>,
    /// What proves it to be the same.
    pub(crate) proof: Option<Arc<[u8]>>,
}

/// What a gate calls, of one of its parts.
pub(crate) struct Called<'py> {
    /// Which part it is.
    pub(crate) part: usize,
    /// The function.
    pub(crate) function: Bound<'py, PyAny>,
    /// Whether it is a coroutine function.
    pub(crate) is_async: bool,
    /// What it is called for.
    pub(crate) purpose: Purpose,
}

impl<'py> Plan<'py> {
    /// The plan of a wait; `what` takes it, and `unique`: no two parts may have one name.
    pub(crate) fn of(
        wait: &Bound<'py, PyAny>,
        timeout: Option<&Bound<'py, PyAny>>,
        what: &str,
        unique: bool,
    ) -> PyResult<Self> {
        let py = wait.py();
        let plan = py.import("bide._combine")?.getattr("plan")?;
        let keywords = pyo3::types::PyDict::new(py);
        keywords.set_item("unique", unique)?;
        let none = py.None().into_bound(py);
        let what = pyo3::types::PyString::new(py, what);
        let arguments = pyo3::types::PyTuple::new(py, [wait, timeout.unwrap_or(&none), what.as_any()])?;
        let (parts, finish) = gil::call(&plan, &arguments, Some(&keywords))?.extract()?;
        Ok(Self { parts, finish })
    }

    /// A `bide._combine.Plan` that was made already.
    pub(crate) fn read(plan: &Bound<'py, PyAny>) -> PyResult<Self> {
        let (parts, finish) = plan.extract()?;
        Ok(Self { parts, finish })
    }

    /// How many parts there are.
    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// What makes the value of the outcomes.
    pub(crate) fn finish(&self) -> &Bound<'py, PyAny> {
        &self.finish
    }

    /// The parts as a body asks for them, and their conditions.
    pub(crate) fn requests(&self) -> PyResult<(Vec<PartRequest>, Vec<PlannedCondition<'py>>)> {
        let mut conditions = Vec::new();
        let mut requests: Vec<PartRequest> = Vec::with_capacity(self.parts.len());
        for (at, PlannedPart(kind, name, timeout, what)) in self.parts.iter().enumerate() {
            let part = match &**kind {
                "until" => {
                    let until = condition(what)?;
                    let proof = proof_of(&until.condition)?;
                    let part = Part::Condition { proof: proof.clone(), policy: until.policy };
                    conditions.push(PlannedCondition { part: at, until, proof });
                    part
                }
                "after" => Part::After(Duration::from_secs_f64(what.extract()?)),
                "at" => Part::Until(time_of(what.extract()?)),
                "any" => Part::Any(what.extract()?),
                "all" => Part::All(what.extract()?),
                "child" => Part::Child(child(what)?),
                kind => Part::Message(address(kind, what)?),
            };
            static NAMES: Alike<str> = Alike::new();
            // Thousands of children may have the name of the one before.
            let name = match requests.last() {
                Some(before) if *before.name == **name => Arc::clone(&before.name),
                _ => NAMES.shared(name),
            };
            requests.push(PartRequest { name, part, timeout: timeout.map(Duration::from_secs_f64) });
        }
        Ok((requests, conditions))
    }

    /// The parts as a gate declares them, with what they call.
    pub(crate) fn gate(&self) -> PyResult<(GateSpec, Vec<Called<'py>>)> {
        let mut called = Vec::new();
        let gate = self.gate_part(0, &mut called)?;
        Ok((gate, called))
    }

    fn gate_part(&self, at: usize, called: &mut Vec<Called<'py>>) -> PyResult<GateSpec> {
        let PlannedPart(kind, name, timeout, what) = &self.parts[at];
        let mut members = || -> PyResult<Vec<GateSpec>> {
            let members: Vec<usize> = what.extract()?;
            members.into_iter().map(|at| self.gate_part(at, called)).collect()
        };
        let until = match &**kind {
            "any" => GateUntil::Any(members()?),
            "all" => GateUntil::All(members()?),
            "until" => {
                let Until { condition: function, is_async, policy, .. } = condition(what)?;
                called.push(Called { part: at, function, is_async, purpose: Purpose::Condition(policy) });
                GateUntil::Condition
            }
            "computed after" | "computed at" => {
                let purpose = if **kind == *"computed after" { Purpose::Span } else { Purpose::Moment };
                let (function, is_async) = what.extract()?;
                called.push(Called { part: at, function, is_async, purpose });
                GateUntil::Computed
            }
            "after" => GateUntil::After(Duration::from_secs_f64(what.extract()?)),
            "at" => GateUntil::At(time_of(what.extract()?)),
            "child" | "answer" => {
                let why = "a gate cannot wait for a child run or a callback, which only a body makes";
                return Err(errors::definition(what.py(), why));
            }
            kind => GateUntil::Message(address(kind, what)?),
        };
        Ok(GateSpec { name: (&**name).into(), until, timeout: timeout.map(Duration::from_secs_f64) })
    }
}

fn condition<'py>(until: &Bound<'py, PyAny>) -> PyResult<Until<'py>> {
    match Wait::read(until)? {
        Some(Wait::Until(until)) => Ok(*until),
        _ => Err(errors::definition(until.py(), "a part of a wait is not a condition")),
    }
}

fn address(kind: &str, name: &Bound<'_, PyAny>) -> PyResult<Address> {
    let kind = match kind {
        "signal" => MessageKind::Signal,
        "request" => MessageKind::Request,
        "answer" => MessageKind::Answer,
        other => return Err(errors::definition(name.py(), &format!("a wait of the kind '{other}' is not known"))),
    };
    Ok(Address { kind, name: name.extract::<String>()?.into() })
}

fn child(id: &Bound<'_, PyAny>) -> PyResult<RunId> {
    let text: PyBackedStr = id.extract()?;
    run_id(id.py(), &text)
}

/// The outcomes of parts as `finish` takes them: stored bytes, an exception, None, or for a child run that has ended,
/// whose number is known to `child`, what that makes of it.
pub(crate) fn outcomes<'py>(
    py: Python<'py>,
    task: &str,
    parts: impl IntoIterator<Item = Option<Result<Value, bide_core::Failure>>>,
    mut child: impl FnMut(usize) -> PyResult<Option<Bound<'py, PyAny>>>,
) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for (at, part) in parts.into_iter().enumerate() {
        let failed_otherwise =
            matches!(&part, Some(Err(failure)) if failure.kind != bide_core::FailureKind::ChildFailed);
        if part.is_some()
            && !failed_otherwise
            && let Some(ended) = child(at)?
        {
            list.append(ended)?;
            continue;
        }
        match part {
            None => list.append(py.None())?,
            Some(Ok(value)) => list.append(PyBytes::new(py, value.as_bytes()))?,
            Some(Err(failure)) => {
                let error = errors::wait(py, &CallError::Failed(failure), task);
                list.append(error.into_value(py))?;
            }
        }
    }
    Ok(list)
}

/// The value of a whole of these outcomes. The handle of the body is for requests, which it answers.
pub(crate) fn finished<'py>(
    finish: &Bound<'py, PyAny>,
    outcomes: &Bound<'py, PyList>,
    handle: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    Ok(gil::call_args(finish, &[outcomes.as_any(), handle])?.into_bound())
}
