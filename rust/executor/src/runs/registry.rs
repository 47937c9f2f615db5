//! The workflows that are registered with an engine.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::Graph;
use bide_core::longest::{too_long, too_long_of_workflow};

use crate::host::Host;
use crate::runs::run::RegisteredWorkflow;

/// The registered workflows.
pub(crate) struct RegisteredWorkflows<H: Host> {
    /// Every registered workflow, by its name.
    by_name: HashMap<Arc<str>, Arc<RegisteredWorkflow<H>>>,
    /// By the store's number, which is the same for all versions.
    names: HashMap<i64, Arc<str>>,
}

impl<H: Host> Default for RegisteredWorkflows<H> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), names: HashMap::new() }
    }
}

impl<H: Host> RegisteredWorkflows<H> {
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<RegisteredWorkflow<H>>> {
        self.by_name.get(name)
    }

    pub(crate) fn numbered(&self, workflow: i64) -> Option<&Arc<RegisteredWorkflow<H>>> {
        self.by_name.get(self.names.get(&workflow)?)
    }

    /// Answers what it replaces.
    pub(crate) fn insert(&mut self, workflow: Arc<RegisteredWorkflow<H>>) -> Option<Arc<RegisteredWorkflow<H>>> {
        let name = Arc::clone(workflow.graph.workflow());
        self.names.insert(workflow.number, Arc::clone(&name));
        self.by_name.insert(name, workflow)
    }

    /// All of them, in order of their numbers.
    pub(crate) fn all(&self) -> Vec<Arc<RegisteredWorkflow<H>>> {
        let mut all: Vec<_> = self.by_name.values().cloned().collect();
        all.sort_unstable_by_key(|workflow| workflow.number);
        all
    }

    /// Another one of the same graph takes the place of one that is registered still.
    pub(crate) fn replace(&mut self, old: &Arc<RegisteredWorkflow<H>>, new: RegisteredWorkflow<H>) {
        let name = old.graph.workflow();
        if self.get(name).is_some_and(|known| Arc::ptr_eq(known, old)) {
            if self.names.get(&old.number).is_some_and(|of_number| of_number == name) {
                self.names.remove(&old.number);
            }
            self.insert(Arc::new(new));
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.by_name.remove(name);
    }
}

/// Why a store does not take the names of a workflow: the commit of each of its runs would fail. `None`: it does.
pub(crate) fn too_long_names<H: Host>(graph: &Graph, bodies: &[H::Body], longest: Option<usize>) -> Option<String> {
    let mut limits = bodies.iter().filter_map(|body| H::limit(body));
    let of_limits = || limits.find_map(|limit| too_long("name of a limit", &limit.spec.name, longest));
    too_long_of_workflow(graph, longest).or_else(of_limits)
}
