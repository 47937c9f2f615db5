//! One call of a body or of a gate's condition: its arguments, within contextvars and log settings of its own.

use bide_core::run::ElementOutcomes;
use bide_core::shown::shown;
use bide_core::{TaskRef, Value};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use smallvec::SmallVec;

use crate::body::{Argument, Binding, Form};
use crate::errors::{self, Names, names};
use crate::gil::{self, Owned, Raised};
use crate::host::{PyRun, Python3};
use crate::plan::{finished, outcomes};
use crate::value::Codec;
use bide_executor::{Arg, Call};

/// The arguments of one call.
pub(crate) struct Arguments<'a, 'py> {
    /// The attached thread.
    pub(crate) py: Python<'py>,
    /// The run of the task.
    pub(crate) run: &'a PyRun,
    /// The task or element.
    pub(crate) task: TaskRef,
    /// What the engine passes.
    pub(crate) args: &'a [Arg],
    /// The context, if it is wanted.
    pub(crate) context: Option<&'a Owned<'py>>,
    /// The handle, if it is wanted.
    pub(crate) handle: Option<&'a Owned<'py>>,
}

impl<'py> Arguments<'_, 'py> {
    /// Calls a function within contextvars of its own. `empty` are some that an earlier call has not changed: checking
    /// them is cheaper than making others.
    #[inline]
    pub(crate) fn call(
        &self,
        empty: &mut Option<Owned<'py>>,
        function: &Bound<'py, PyAny>,
        binding: &Binding,
    ) -> Result<Owned<'py>, Raised> {
        let names = names(self.py).map_err(|error| Raised::new(self.py, error))?;
        let local = &self.run.local;
        let vars = match local.contextvars() {
            Some(vars) => vars.copied(names, self.py)?,
            None => empty.take().map_or_else(|| gil::call0(names.no_vars.bind(self.py)), Ok)?,
        };
        let result = self.call_within(names, &vars, function, binding);
        if local.contextvars().is_none() && vars.len().is_ok_and(|len| len == 0) {
            *empty = Some(vars);
        }
        result
    }

    /// Calls a function within the contextvars that are current.
    pub(crate) fn call_here(&self, function: &Bound<'py, PyAny>, binding: &Binding) -> Result<Owned<'py>, Raised> {
        self.call_with(function, &[], binding)
    }

    #[inline]
    pub(crate) fn call_within(
        &self,
        names: &Names,
        vars: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        binding: &Binding,
    ) -> Result<Owned<'py>, Raised> {
        self.call_with(names.run_in_vars.bind(self.py), &[vars, function], binding)
    }

    #[inline]
    fn call_with(
        &self,
        run: &Bound<'py, PyAny>,
        first: &[&Bound<'py, PyAny>],
        binding: &Binding,
    ) -> Result<Owned<'py>, Raised> {
        let mut values: SmallVec<[Owned<'py>; 4]> = SmallVec::new();
        for argument in &binding.positional {
            values.push(self.value(argument)?);
        }
        let mut positional: SmallVec<[&Bound<'py, PyAny>; 6]> = SmallVec::new();
        positional.extend(first.iter().copied());
        positional.extend(values.iter().map(|one| &**one));
        if binding.keyword.is_empty() {
            return gil::call_args(run, &positional);
        }
        let (tuple, keywords) = self.with_keywords(&positional, binding)?;
        let keywords = keywords.cast::<PyDict>().map_err(|error| Raised::new(self.py, error.into()))?;
        gil::call(run, &tuple, Some(keywords))
    }

    #[inline(never)]
    fn with_keywords(
        &self,
        positional: &[&Bound<'py, PyAny>],
        binding: &Binding,
    ) -> Result<(gil::OwnedTuple<'py>, Owned<'py>), Raised> {
        let keywords = gil::dict(self.py)?;
        for (name, argument) in &binding.keyword {
            let value = self.value(argument)?;
            gil::set_item(&keywords, name.bind(self.py).as_any(), &value)?;
        }
        Ok((gil::tuple(self.py, positional)?, keywords))
    }

    #[inline(never)]
    fn value(&self, argument: &Argument) -> Result<Owned<'py>, Raised> {
        let copy = |of: Option<&Owned<'py>>| {
            let value = of.map_or_else(|| self.py.None().into_bound(self.py), |of| Bound::clone(of));
            Ok(Owned::from(value))
        };
        match argument {
            Argument::Context => copy(self.context),
            Argument::Handle => copy(self.handle),
            Argument::Gate { at, parts, finish } => {
                let value = |part: &Arg| match part {
                    Arg::Value(value) => Some(Ok(value.clone())),
                    _ => None,
                };
                let parts = self.args.iter().skip(*at).take(*parts).map(value);
                let handle = self.handle.map_or_else(|| self.py.None().into_bound(self.py), |of| Bound::clone(of));
                let value = outcomes(self.py, "", parts, |_| Ok(None))
                    .and_then(|outcomes| finished(finish.bind(self.py), &outcomes, &handle));
                value.map(Owned::from).map_err(|error| Raised::new(self.py, error))
            }
            Argument::Value { at, codec, default } => match (self.args.get(*at), default) {
                (Some(Arg::Value(value)), _) => codec.decode(self.py, value),
                (Some(Arg::Item(index)), _) => codec.decode(self.py, &self.item(*at, *index, codec)?),
                (_, Some(default)) => Ok(Owned::from(default.bind(self.py).clone())),
                (_, None) => Err(self.refused("an argument has no value")),
            },
            Argument::Elements { at, codec, default, form, of, whose } => {
                let outcomes = match self.args.get(*at) {
                    Some(Arg::Elements(outcomes)) => Some(&**outcomes),
                    _ => None,
                };
                match (outcomes, form, default) {
                    (Some(outcomes), Form::Mapped, _) => mapped(self.py, outcomes, codec, of),
                    (Some(outcomes), Form::List, _) if outcomes.missing().is_none() => list(self.py, outcomes, codec),
                    (_, _, Some(default)) => Ok(Owned::from(default.bind(self.py).clone())),
                    (Some(outcomes), _, None) => {
                        let missing = outcomes.missing().unwrap_or_default();
                        Err(self.refused(&format!(
                            "{whose} takes the list of task '{of}', and {of}[{missing}] has no output: annotate the \
                             parameter bide.Mapped[...]"
                        )))
                    }
                    (None, _, None) => Err(self.refused("an argument has no value")),
                }
            }
            Argument::Failure(at) => match self.args.get(*at) {
                Some(Arg::Failure(failed)) => {
                    let (task, failure) = &**failed;
                    let task = PyString::new(self.py, task);
                    let stored = PyBytes::new(self.py, failure.as_json().as_bytes());
                    let make = names(self.py).map_err(|error| Raised::new(self.py, error))?.task_failed.bind(self.py);
                    gil::call_args(make, &[stored.as_any(), task.as_any()])
                }
                _ => copy(None),
            },
            Argument::Named(named) => {
                let dict = gil::dict(self.py)?;
                for one in named {
                    if let Some(Arg::Value(value)) = self.args.get(one.at) {
                        gil::set_item(&dict, one.name.bind(self.py).as_any(), &*one.codec.decode(self.py, value)?)?;
                    }
                }
                Ok(dict)
            }
        }
    }

    /// An item of a list that the task is mapped over, encoded.
    fn item(&self, at: usize, index: u32, codec: &Codec) -> Result<Value, Raised> {
        let bodies = &self.run.workflow.bodies;
        let body = &bodies[self.task.ix as usize];
        let items = self.run.local.items(bodies, body, at, || self.run.list(body.sources.get(at)?));
        let items = items.ok().flatten();
        items
            .and_then(|items| items.get(index, codec.fast()))
            .ok_or_else(|| self.refused(&format!("a list that the task is mapped over has no item {index} any more")))
    }

    fn refused(&self, message: &str) -> Raised {
        let whose = self.run.workflow.graph.name_of(self.task);
        Raised::new(self.py, errors::definition(self.py, &format!("task '{}': {message}", shown(&whose))))
    }
}

/// The outputs of all elements.
#[inline(never)]
pub(crate) fn list<'py>(py: Python<'py>, outcomes: &ElementOutcomes, codec: &Codec) -> Result<Owned<'py>, Raised> {
    let list = PyList::empty(py);
    for (_, value) in &outcomes.completed {
        list.append(&*codec.decode(py, value)?).map_err(|error| Raised::new(py, error))?;
    }
    Ok(Owned::from(list.into_any()))
}

/// What all elements came to, as a `bide.Mapped`.
#[inline(never)]
fn mapped<'py>(py: Python<'py>, outcomes: &ElementOutcomes, codec: &Codec, of: &str) -> Result<Owned<'py>, Raised> {
    let failed = PyList::empty(py);
    for (index, failure) in &outcomes.failed {
        let failure = PyBytes::new(py, failure.as_json().as_bytes());
        failed.append((format!("{of}[{index}]"), failure)).map_err(|error| Raised::new(py, error))?;
    }
    let indexes = outcomes.completed.iter().map(|(index, _)| *index);
    let indexes = PyList::new(py, indexes).map_err(|error| Raised::new(py, error))?;
    let total = outcomes.total.into_pyobject(py).map_err(|error| match error {})?;
    let make = names(py).map_err(|error| Raised::new(py, error))?.make_mapped.bind(py);
    gil::call_args(make, &[&*list(py, outcomes, codec)?, indexes.as_any(), failed.as_any(), total.as_any()])
}

/// Publishes which body this thread executes, for log records, if that is in use.
pub(crate) struct LogScope<'py>(Option<Bound<'py, PyAny>>);

impl<'py> LogScope<'py> {
    pub(crate) fn enter(py: Python<'py>, call: &Call<'_, Python3>) -> Result<Self, Raised> {
        let names = names(py).map_err(|error| Raised::new(py, error))?;
        if names.logging_in_use.bind(py).is_empty() {
            return Ok(Self(None));
        }
        let logging = names.logging.bind(py);
        let enter = gil::getattr(logging, pyo3::intern!(py, "enter"))?;
        let run = PyString::new(py, &call.run.id.to_string()).into_any();
        let task = PyString::new(py, &call.run.workflow.graph.name_of(call.task)).into_any();
        let attempt = call.attempt.into_pyobject(py).map_err(|error| match error {})?.into_any();
        gil::call_args(&enter, &[&run, &task, &attempt])?;
        Ok(Self(Some(gil::getattr(logging, pyo3::intern!(py, "leave"))?.into_bound())))
    }
}

impl Drop for LogScope<'_> {
    fn drop(&mut self) {
        if let Some(leave) = &self.0 {
            let _ = gil::call0(leave);
        }
    }
}
