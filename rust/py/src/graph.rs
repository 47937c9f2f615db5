//! `_core.Graph`: a workflow's shape, validated.

use std::sync::Arc;

use bide_core::{DefinitionError, Graph, RunIf, TaskSpec};
use pyo3::prelude::*;

use crate::{errors, panics};

/// A validated graph of named tasks.
#[pyclass(frozen, module = "bide._core", name = "Graph")]
pub(crate) struct PyGraph(Arc<Graph>);

#[pymethods]
impl PyGraph {
    #[new]
    fn new(py: Python<'_>, name: &str, tasks: Vec<(String, Vec<String>, String)>) -> PyResult<Self> {
        panics::method(|| {
            let specs = tasks
                .into_iter()
                .map(|(name, dependencies, rule)| {
                    let mut spec = TaskSpec::new(name);
                    spec.dependencies = dependencies.into_iter().map(Into::into).collect();
                    spec.run_if = run_if(&rule).ok_or_else(|| errors::definition(py, &format!("run_if='{rule}'")))?;
                    Ok(spec)
                })
                .collect::<PyResult<Vec<_>>>()?;
            let built = Graph::build(name, specs, false);
            built.map(|graph| Self(Arc::new(graph))).map_err(|DefinitionError(why)| errors::definition(py, &why))
        })
    }

    /// The tasks by their distance from the roots.
    #[getter]
    fn levels(&self) -> Vec<Vec<&str>> {
        self.0.levels().iter().map(|level| level.iter().map(|ix| &**self.0.name(*ix)).collect()).collect()
    }

    /// The tasks that depend on nothing.
    #[getter]
    fn roots(&self) -> Vec<&str> {
        self.0.roots().iter().map(|ix| &**self.0.name(*ix)).collect()
    }

    /// The tasks that nothing depends on.
    #[getter]
    fn leaves(&self) -> Vec<&str> {
        self.0.leaves().iter().map(|ix| &**self.0.name(*ix)).collect()
    }

    /// The stable hash of the graph.
    #[getter]
    fn version(&self) -> &str {
        self.0.version()
    }

    /// All tasks in topological order, ties in declaration order.
    fn topological_sort(&self) -> Vec<&str> {
        self.0.order().iter().map(|ix| &**self.0.name(*ix)).collect()
    }
}

/// A rule by its name in Python.
pub(crate) fn run_if(name: &str) -> Option<RunIf> {
    match name {
        "succeeded" => Some(RunIf::Succeeded),
        "failed" => Some(RunIf::Failed),
        "done" => Some(RunIf::Done),
        _ => None,
    }
}
