//! What a caller says about a run beside its inputs, as it crosses from Python and back.

use std::collections::BTreeMap;

use bide_core::{RunOptions, Time};
use bide_executor::Source;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::body::{Argument, PyBody};
use crate::value::Codec;

/// `bide._options.Options`: tags, priority, and when the run begins.
#[derive(FromPyObject)]
pub(crate) struct PyOptions {
    tags: BTreeMap<String, String>,
    priority: i32,
    /// In microseconds since 1970.
    start_at: Option<i64>,
}

impl From<PyOptions> for RunOptions {
    fn from(PyOptions { tags, priority, start_at }: PyOptions) -> Self {
        let tags = tags.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { tags, priority, start_at: start_at.map(Time), deadline: None }
    }
}

/// The tags of a run.
pub(crate) fn tags_of<'py>(py: Python<'py>, options: &RunOptions) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in &options.tags {
        dict.set_item(&**name, &**value)?;
    }
    Ok(dict)
}

/// How the bodies and gates of a workflow read an input as a whole; `None` if none does.
pub(crate) fn reader_of<'a>(bodies: &'a [PyBody], input: &str) -> Option<&'a Codec> {
    bodies.iter().find_map(|body| {
        let bindings = std::iter::once(&body.binding).chain(body.gates.iter().map(|gate| &gate.binding));
        let mut arguments = bindings
            .flat_map(|binding| binding.positional.iter().chain(binding.keyword.iter().map(|(_, argument)| argument)));
        arguments.find_map(|argument| match argument {
            Argument::Value { at, codec, .. } => match body.sources.get(*at) {
                Some(Source::Input(name)) if **name == *input => Some(codec),
                _ => None,
            },
            _ => None,
        })
    })
}
