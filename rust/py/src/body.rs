//! A task as the host keeps it: its callables, and where their arguments come from.
//!
//! Not here: how they are read from Python (`workflow.rs`) and how they are called (`host.rs`).

use bide_core::PollPolicy;
use bide_executor::{Source, TaskLimit};
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::{PyTraverseError, PyVisit};

use crate::gil::{self, Kept, Raised};
use crate::value::Codec;

/// A task's callable and how it is called.
pub(crate) struct PyBody {
    /// The function.
    pub(crate) function: Kept,
    /// Whether it is a coroutine function.
    pub(crate) is_async: bool,
    /// Where its arguments come from.
    pub(crate) binding: Binding,
    /// How its return value is stored.
    pub(crate) returns: Codec,
    /// What its `Retry` says, if it has one.
    pub(crate) retry: Option<PyRetry>,
    /// Its limit, if it has one.
    pub(crate) limit: Option<Box<TaskLimit>>,
    /// What its gate calls.
    pub(crate) gates: Box<[PyGate]>,
    /// The values that the engine hands in: those of the body, then those of the gate's condition.
    pub(crate) sources: Box<[Source]>,
    /// Of a mapped task, for each source that is an item of a list: the number of that list in the workflow.
    pub(crate) lists: Box<[Option<usize>]>,
}

/// Which failures of a task are retried.
pub(crate) struct PyRetry {
    /// `Retry.matches`: whether an exception is retried.
    pub(crate) matches: Kept,
    /// Whether a `TaskTimeout` is.
    pub(crate) covers_timeout: bool,
}

impl PyRetry {
    /// Whether an exception is retried.
    ///
    /// # Errors
    /// The user's function that decides it raised; what the attempt has failed with then.
    pub(crate) fn covers(&self, py: Python<'_>, exception: &Bound<'_, PyAny>) -> Result<bool, Raised> {
        covers(self.matches.bind(py), exception)
    }
}

/// As [`PyRetry::covers`], by its `matches`.
pub(crate) fn covers(matches: &Bound<'_, PyAny>, exception: &Bound<'_, PyAny>) -> Result<bool, Raised> {
    gil::is_truthy(&*gil::call1(matches, exception)?)
}

/// A function of a gate, and how it is called.
pub(crate) struct PyGate {
    /// Which part of the gate it is.
    pub(crate) part: u16,
    /// The function.
    pub(crate) function: Kept,
    /// Whether it is a coroutine function.
    pub(crate) is_async: bool,
    /// Where its arguments come from.
    pub(crate) binding: Binding,
    /// What it is called for.
    pub(crate) purpose: Purpose,
}

/// What a function of a gate is called for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// It is a condition, polled by this policy.
    Condition(PollPolicy),
    /// It computes a span.
    Span,
    /// It computes a moment.
    Moment,
}

/// Where the arguments of a call come from.
pub(crate) struct Binding {
    /// Those passed by position.
    pub(crate) positional: Box<[Argument]>,
    /// Those passed by keyword.
    pub(crate) keyword: Box<[(Py<PyString>, Argument)]>,
    /// Whether one of them is the context.
    pub(crate) wants_context: bool,
}

/// One argument.
pub(crate) enum Argument {
    /// The context.
    Context,
    /// The handle.
    Handle,
    /// A value that the engine hands in, by its position among the sources; else the default.
    Value {
        /// The position.
        at: usize,
        /// The reader's codec.
        codec: Codec,
        /// Used where there is no value.
        default: Option<Kept>,
    },
    /// The value of the gate: made of the outcomes of its parts, which are handed in from this position on.
    Gate {
        /// The position.
        at: usize,
        /// How many parts.
        parts: usize,
        /// What makes the value.
        finish: Kept,
    },
    /// What the elements of a mapped task came to.
    Elements {
        /// Its position among the sources.
        at: usize,
        /// The reader's codec of one output.
        codec: Codec,
        /// Used for a list that is not complete.
        default: Option<Kept>,
        /// Which form the reader asks for.
        form: Form,
        /// The name of the mapped task.
        of: Box<str>,
        /// How to name the reader in an error.
        whose: Box<str>,
    },
    /// What failed of a task as a `bide.TaskFailed`, or None, by its position among the sources.
    Failure(usize),
    /// The outputs of several tasks as a dict.
    Named(Box<[NamedOutput]>),
}

/// How a reader takes the outputs of a mapped task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A list, with a value of each element.
    List,
    /// A `bide.Mapped`.
    Mapped,
}

/// One of the outputs in a dict.
pub(crate) struct NamedOutput {
    /// The name of the task, which is its key.
    pub(crate) name: Py<PyString>,
    /// Its position among the sources.
    pub(crate) at: usize,
    /// The reader's codec.
    pub(crate) codec: Codec,
}

impl Purpose {
    /// The name in Python of what it computes; none of a condition.
    pub(crate) const fn computes(self) -> Option<&'static str> {
        match self {
            Self::Condition(_) => None,
            Self::Span => Some("after"),
            Self::Moment => Some("at"),
        }
    }
}

impl PyBody {
    /// What this part of the gate calls.
    pub(crate) fn gate(&self, part: u16) -> Option<&PyGate> {
        self.gates.iter().find(|gate| gate.part == part)
    }

    /// Shows the garbage collector every Python object in here.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&*self.function)?;
        self.returns.traverse(visit)?;
        self.binding.traverse(visit)?;
        if let Some(retry) = &self.retry {
            visit.call(&*retry.matches)?;
        }
        for gate in &self.gates {
            visit.call(&*gate.function)?;
            gate.binding.traverse(visit)?;
        }
        Ok(())
    }
}

impl Binding {
    /// Whether one of them is the handle, or is made with it.
    pub(crate) fn wants_handle(&self) -> bool {
        let all = self.positional.iter().chain(self.keyword.iter().map(|(_, argument)| argument));
        all.into_iter().any(|argument| matches!(argument, Argument::Handle | Argument::Gate { .. }))
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for argument in self.positional.iter().chain(self.keyword.iter().map(|(_, argument)| argument)) {
            match argument {
                Argument::Value { codec, default, .. } | Argument::Elements { codec, default, .. } => {
                    codec.traverse(visit)?;
                    default.iter().try_for_each(|default| visit.call(&**default))?;
                }
                Argument::Gate { finish, .. } => visit.call(&**finish)?,
                Argument::Named(named) => named.iter().try_for_each(|one| one.codec.traverse(visit))?,
                Argument::Context | Argument::Handle | Argument::Failure(_) => {}
            }
        }
        Ok(())
    }
}
