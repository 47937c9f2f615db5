//! bide's own exceptions, which are Python classes, and how Rust's errors become them.

use bide_core::shown::shown;
use bide_core::{Failure, FailureKind};
use bide_executor::{CallError, Settlement};
use bide_store::StoreError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList};

use crate::gil::{self, Raised};
use crate::process::Elsewhere;

/// The Python objects that Rust uses, imported once.
pub(crate) struct Names {
    /// `bide.BideError`.
    pub(crate) bide_error: Py<PyAny>,
    /// `bide.DefinitionError`.
    pub(crate) definition_error: Py<PyAny>,
    /// `bide.StoreError`.
    pub(crate) store_error: Py<PyAny>,
    /// `bide.RunnerClosed`.
    pub(crate) runner_closed: Py<PyAny>,
    /// `bide.ReplayMismatch`.
    pub(crate) replay_mismatch: Py<PyAny>,
    /// `bide.Suspended`.
    pub(crate) suspended: Py<PyAny>,
    /// `bide.Cancelled`.
    pub(crate) cancelled: Py<PyAny>,
    /// `bide.TaskTimeout`.
    pub(crate) task_timeout: Py<PyAny>,
    /// `bide.Skip`.
    pub(crate) skip: Py<PyAny>,
    /// `bide.Unrecorded`.
    pub(crate) unrecorded: Py<PyAny>,
    /// What is stored of an exception that a body may get again.
    pub(crate) describe: Py<PyAny>,
    /// What is stored of an exception that is only ever shown.
    pub(crate) describe_end: Py<PyAny>,
    /// A `bide.TaskFailed` from what is stored of an exception.
    pub(crate) task_failed: Py<PyAny>,
    /// An exception from what is stored of it.
    pub(crate) rebuild: Py<PyAny>,
    /// Makes a `bide.Context` of encoded values.
    pub(crate) context: Py<PyAny>,
    /// The name of a condition.
    pub(crate) name_of: Py<PyAny>,
    /// What proves a condition to be the same.
    pub(crate) proof_of: Py<PyAny>,
    /// The class of `bide.until(...)`.
    pub(crate) until: Py<PyAny>,
    /// The class of `bide.after(...)`.
    pub(crate) after: Py<PyAny>,
    /// The class of `bide.at(...)`.
    pub(crate) at: Py<PyAny>,
    /// What the function of a gate has computed, as seconds.
    pub(crate) computed: Py<PyAny>,
    /// `bide.after`.
    pub(crate) make_after: Py<PyAny>,
    /// `bide.at`.
    pub(crate) make_at: Py<PyAny>,
    /// Checks the `name=` of a wait.
    pub(crate) check_name: Py<PyAny>,
    /// Makes a wait of the arguments of `defer_until`.
    pub(crate) from_poll: Py<PyAny>,
    /// The name, the proof of the arguments and the codec of a step.
    pub(crate) describe_step: Py<PyAny>,
    /// The same of a step with a key, a retry or `once`, checked, and with those.
    pub(crate) describe_step_with: Py<PyAny>,
    /// Says which body a thread executes, for log records.
    pub(crate) logging: Py<PyAny>,
    /// Not empty if log records want that.
    pub(crate) logging_in_use: Py<PyList>,
    /// `datetime.fromtimestamp`.
    pub(crate) from_timestamp: Py<PyAny>,
    /// `contextvars.Context.run`, to be called with the context first.
    pub(crate) run_in_vars: Py<PyAny>,
    /// Makes a `contextvars.Context` with nothing in it.
    pub(crate) no_vars: Py<PyAny>,
    /// Whether contextvars have a context of `decimal` in them.
    pub(crate) has_decimal: Py<PyAny>,
    /// Gives them one of their own.
    pub(crate) own_decimal: Py<PyAny>,
    /// `datetime.UTC`.
    pub(crate) utc: Py<PyAny>,
    /// Makes a `bide.Mapped`.
    pub(crate) make_mapped: Py<PyAny>,
    /// The codec of a value without annotation.
    pub(crate) plain_codec: crate::value::Codec,
}

static NAMES: PyOnceLock<Names> = PyOnceLock::new();

/// The Python side. First asked for when a runner or a graph is made, where importing is safe.
pub(crate) fn names(py: Python<'_>) -> PyResult<&Names> {
    NAMES.get_or_try_init(py, || {
        let errors = py.import("bide._errors")?;
        let stored = py.import("bide._stored_errors")?;
        let codec = py.import("bide._codec")?.getattr("Codec")?;
        let logging = py.import("bide._log_slot")?;
        let waits = py.import("bide._waits")?;
        let datetime = py.import("datetime")?;
        let vars = py.import("contextvars")?.getattr("Context")?;
        let decimal = py.import("bide._decimal")?;
        let of = |module: &Bound<'_, PyModule>, name: &str| module.getattr(name).map(Bound::unbind);
        Ok(Names {
            bide_error: of(&errors, "BideError")?,
            definition_error: of(&errors, "DefinitionError")?,
            store_error: of(&errors, "StoreError")?,
            runner_closed: of(&errors, "RunnerClosed")?,
            replay_mismatch: of(&errors, "ReplayMismatch")?,
            suspended: of(&errors, "Suspended")?,
            cancelled: of(&errors, "Cancelled")?,
            task_timeout: of(&errors, "TaskTimeout")?,
            skip: of(&errors, "Skip")?,
            unrecorded: of(&errors, "Unrecorded")?,
            describe: of(&stored, "describe")?,
            describe_end: of(&stored, "describe_end")?,
            task_failed: of(&stored, "task_failed")?,
            rebuild: of(&stored, "rebuild")?,
            context: py.import("bide._context")?.getattr("Context")?.getattr("_from_encoded")?.unbind(),
            name_of: of(&py.import("bide._fingerprint")?, "name_of")?,
            proof_of: of(&py.import("bide._fingerprint")?, "proof_of")?,
            until: of(&waits, "Until")?,
            after: of(&waits, "After")?,
            at: of(&waits, "At")?,
            computed: of(&waits, "computed")?,
            make_after: of(&waits, "after")?,
            make_at: of(&waits, "at")?,
            check_name: of(&waits, "check_name")?,
            from_poll: of(&waits, "from_poll")?,
            describe_step: of(&py.import("bide._steps")?, "describe_step")?,
            describe_step_with: of(&py.import("bide._steps")?, "describe_step_with")?,
            logging_in_use: logging.getattr("in_use")?.cast_into::<PyList>()?.unbind(),
            logging: logging.into_any().unbind(),
            run_in_vars: vars.getattr("run")?.unbind(),
            no_vars: vars.unbind(),
            has_decimal: of(&decimal, "has_context")?,
            own_decimal: of(&decimal, "own_context")?,
            from_timestamp: datetime.getattr("datetime")?.getattr("fromtimestamp")?.unbind(),
            utc: of(&datetime, "UTC")?,
            make_mapped: of(&py.import("bide._map")?, "make_mapped")?,
            plain_codec: gil::call0(&codec)?.extract()?,
        })
    })
}

/// An exception of one of bide's classes. Its message is one line: names in it are escaped.
pub(crate) fn error(class: &Py<PyAny>, py: Python<'_>, message: &str) -> PyErr {
    let message = pyo3::types::PyString::new(py, &shown(message)).into_any();
    match gil::call1(class.bind(py), &message) {
        Ok(exception) => PyErr::from_value(exception.into_bound()),
        Err(raised) => raised.into_err(py),
    }
}

/// A `DefinitionError`.
pub(crate) fn definition(py: Python<'_>, message: &str) -> PyErr {
    with(py, |names| error(&names.definition_error, py, message))
}

/// A `BideError`.
pub(crate) fn bide(py: Python<'_>, message: &str) -> PyErr {
    with(py, |names| error(&names.bide_error, py, message))
}

/// A `RunnerClosed`.
pub(crate) fn closed(py: Python<'_>, message: &str) -> PyErr {
    with(py, |names| error(&names.runner_closed, py, message))
}

/// What a store refused.
pub(crate) fn store(py: Python<'_>, refused: &StoreError) -> PyErr {
    match refused {
        StoreError::Closed { .. } => closed(py, &format!("{refused}: create a new one")),
        _ => with(py, |names| error(&names.store_error, py, &refused.to_string())),
    }
}

/// Why nothing more happens to a run here.
pub(crate) fn settlement(py: Python<'_>, settlement: &Settlement) -> PyErr {
    with(py, |names| match settlement {
        Settlement::Broken(refused) if matches!(**refused, StoreError::Closed { .. }) => store(py, refused),
        Settlement::Broken(refused) => error(&names.store_error, py, &format!("the runner has stopped: {refused}")),
        Settlement::Panicked(why) => error(&names.bide_error, py, &format!("the runner has stopped: {why}")),
        Settlement::Closed => error(
            &names.runner_closed,
            py,
            "the runner is closed; another runner on the same store can continue the run",
        ),
        Settlement::Elsewhere => error(&names.bide_error, py, "the run was deleted"),
        Settlement::NotHere(why) => error(&names.bide_error, py, &format!("no runner continues the run: {why}")),
        Settlement::Run(status) => error(&names.bide_error, py, &format!("the run is {status}")),
    })
}

fn with(py: Python<'_>, make: impl FnOnce(&Names) -> PyErr) -> PyErr {
    match names(py) {
        Ok(names) => make(names),
        Err(error) => error,
    }
}

/// What a handle's method raises for a wait or step that did not come to an end.
pub(crate) fn wait(py: Python<'_>, error_of: &CallError, task: &str) -> PyErr {
    with(py, |names| match error_of {
        CallError::Suspended => {
            error(&names.suspended, py, "the runner is closing: the body continues from here later")
        }
        CallError::Over(refused) => error(
            &names.bide_error,
            py,
            &format!("the handle of task '{task}' is no longer valid: {refused}; use it only within the body"),
        ),
        CallError::Failed(failure) => rebuild(py, failure),
        CallError::Mismatch(why) => error(&names.replay_mismatch, py, why),
        CallError::TimedOut(why) => error(&names.task_timeout, py, why),
        CallError::Misuse(why) => error(&names.definition_error, py, why),
    })
}

/// A stored failure as an exception to raise again.
pub(crate) fn rebuild(py: Python<'_>, failure: &Failure) -> PyErr {
    with(py, |names| {
        if failure.kind == FailureKind::Cancelled {
            // No `Exception`: what is stored of one may name no such class.
            return error(&names.cancelled, py, &failure.message());
        }
        let json = PyBytes::new(py, failure.as_json().as_bytes());
        match gil::call1(names.rebuild.bind(py), json.as_any()) {
            Ok(exception) => PyErr::from_value(exception.into_bound()),
            Err(raised) => raised.into_err(py),
        }
    })
}

/// What is stored of an exception that a body may get again from its journal.
pub(crate) fn describe(py: Python<'_>, raised: &Raised) -> Failure {
    described(py, raised, |names| &names.describe)
}

/// What is stored of an exception that is only ever shown.
pub(crate) fn describe_end(py: Python<'_>, raised: &Raised) -> Failure {
    described(py, raised, |names| &names.describe_end)
}

fn described(py: Python<'_>, raised: &Raised, by: impl FnOnce(&Names) -> &Py<PyAny>) -> Failure {
    let text = names(py)
        .map_err(|error| Raised::new(py, error))
        .and_then(|names| gil::call1(by(names).bind(py), raised.value(py)))
        .ok()
        .and_then(|bytes| bytes.cast::<PyBytes>().ok().map(|bytes| bytes.as_bytes().to_vec()));
    text.and_then(|text| String::from_utf8(text).ok()).and_then(|text| Failure::from_json(&text).ok()).unwrap_or_else(
        || {
            let class = raised.value(py).get_type().qualname().map_or_else(|_| String::new(), |name| name.to_string());
            Failure::new(FailureKind::Raised, &class, "an exception that could not be described")
        },
    )
}

/// A condition's value that cannot be recorded.
pub(crate) fn unencodable(py: Python<'_>, raised: &Raised, condition: &str) -> Failure {
    let why = describe(py, raised);
    let why = why.message().replacen("a value: result", "its value", 1);
    let message = format!("condition '{condition}': {why}; if only its truth matters, return bool(...)");
    Failure::new(FailureKind::Serialization, "bide.SerializationError", &message)
}

impl From<Elsewhere> for PyErr {
    fn from(error: Elsewhere) -> Self {
        // There is no `py` here; the thread that raises the error is attached, so that this does not block.
        gil::here(|py| closed(py, &error.to_string()))
    }
}
