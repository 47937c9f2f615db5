//! One call of a body or of a gate's condition: its arguments, within contextvars and log settings of its own.

use bide_core::Value;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use smallvec::SmallVec;

use crate::body::{Argument, Binding};
use crate::errors::{self, Names, names};
use crate::gil::{self, Owned, Raised};
use crate::host::{Local, Python3};
use crate::plan::{finished, outcomes};
use bide_executor::Call;

/// The arguments of one call.
pub(crate) struct Arguments<'a, 'py> {
    /// The attached thread.
    pub(crate) py: Python<'py>,
    /// The values that the engine passes; `None` where there is none.
    pub(crate) args: &'a [Option<Value>],
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
        local: &Local,
        empty: &mut Option<Owned<'py>>,
        function: &Bound<'py, PyAny>,
        binding: &Binding,
    ) -> Result<Owned<'py>, Raised> {
        let names = names(self.py).map_err(|error| Raised::new(self.py, error))?;
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

    #[inline]
    fn call_within(
        &self,
        names: &Names,
        vars: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        binding: &Binding,
    ) -> Result<Owned<'py>, Raised> {
        let run = names.run_in_vars.bind(self.py);
        let mut values: SmallVec<[Owned<'py>; 4]> = SmallVec::new();
        for argument in &binding.positional {
            values.push(self.value(argument)?);
        }
        let mut positional: SmallVec<[&Bound<'py, PyAny>; 6]> = SmallVec::new();
        positional.extend([vars, function]);
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
                let parts = self.args.iter().skip(*at).take(*parts).map(|part| part.clone().map(Ok));
                let value = outcomes(self.py, "", parts).and_then(|outcomes| finished(finish.bind(self.py), &outcomes));
                value.map(Owned::from).map_err(|error| Raised::new(self.py, error))
            }
            Argument::Value { at, codec, default } => match (self.args.get(*at).and_then(Option::as_ref), default) {
                (Some(value), _) => codec.decode(self.py, value),
                (None, Some(default)) => Ok(Owned::from(default.bind(self.py).clone())),
                (None, None) => Err(Raised::new(self.py, errors::definition(self.py, "an argument has no value"))),
            },
        }
    }
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
        let task = PyString::new(py, call.run.workflow.graph.name(call.task.ix)).into_any();
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
