//! Registering workflows. The store gives them numbers, and may give others once it has lost rows: then all are registered
//! again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bide_core::record::NewTask;
use bide_core::{Graph, TaskId};
use bide_store::StoreError;
use bide_sync::Mutex;

use crate::host::Host;
use crate::runs::recover::Recovery;
use crate::runs::registry::too_long_names;
use crate::runs::run::RegisteredWorkflow;

/// A history that no store has: one of the workflows may have numbers from before.
const UNKNOWN: u64 = u64::MAX;

impl<H: Host> Recovery<H> {
    /// Registers a workflow: its unfinished runs without an owner are recovered from now on.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn register(
        &self,
        graph: Arc<Graph>,
        bodies: Arc<[H::Body]>,
    ) -> Result<Arc<RegisteredWorkflow<H>>, StoreError> {
        let known = self.workflows.read().get(graph.workflow()).cloned();
        if let Some(workflow) = known.filter(|workflow| Arc::ptr_eq(&workflow.graph, &graph)) {
            return Ok(workflow);
        }
        let (workflow, before) = {
            let _registering = self.registering.lock();
            let workflow = Arc::new(self.record(graph, bodies)?);
            let before = self.workflows.write().insert(Arc::clone(&workflow));
            (workflow, before)
        };
        if !self.control.is_client()
            && let Err(error) = self.recover_registered(&workflow)
        {
            // As if it had not been registered: the next try recovers what is there.
            let _registering = self.registering.lock();
            let mut workflows = self.workflows.write();
            match before {
                Some(before) => drop(workflows.insert(before)),
                None => workflows.remove(workflow.graph.workflow()),
            }
            // It may have been registered before the store has lost rows.
            self.history.store(UNKNOWN, Ordering::Release);
            return Err(error);
        }
        Ok(workflow)
    }

    /// Registers all workflows once more if the store has lost rows meanwhile: they may have other numbers from then on.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn keep_registered(&self) -> Result<(), StoreError> {
        if self.history.load(Ordering::Acquire) == self.control.store().history() {
            return Ok(());
        }
        let _registering = self.registering.lock();
        let history = self.control.store().history();
        if self.history.load(Ordering::Acquire) == history {
            return Ok(());
        }
        let mut known = self.workflows.read().all();
        known.retain(|workflow| workflow.history != history);
        if !known.is_empty() || self.history.load(Ordering::Acquire) != UNKNOWN {
            // These go by the numbers of before.
            self.control.sharing.forget_left();
        }
        for workflow in known {
            let again = self.record(Arc::clone(&workflow.graph), Arc::clone(&workflow.bodies))?;
            self.workflows.write().replace(&workflow, again);
        }
        self.history.store(history, Ordering::Release);
        Ok(())
    }

    /// The workflow with the numbers that it has now.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn current(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
    ) -> Result<Arc<RegisteredWorkflow<H>>, StoreError> {
        self.keep_registered()?;
        let known = self.workflow(workflow.graph.workflow());
        match known.filter(|known| Arc::ptr_eq(&known.graph, &workflow.graph)) {
            Some(known) => Ok(known),
            None if workflow.history == self.control.store().history() => Ok(Arc::clone(workflow)),
            // Another version is registered by now.
            None => self.record(Arc::clone(&workflow.graph), Arc::clone(&workflow.bodies)).map(Arc::new),
        }
    }

    /// Has the store record a workflow.
    fn record(&self, graph: Arc<Graph>, bodies: Arc<[H::Body]>) -> Result<RegisteredWorkflow<H>, StoreError> {
        if let Some(why) = too_long_names::<H>(&graph, &bodies, self.control.longest_name) {
            return Err(StoreError::Unavailable(format!("{}: {why}", self.control.store().name())));
        }
        let tasks = NewTask::all_of(&graph);
        let history = self.control.store().history();
        let stored = self.control.store().register(graph.workflow(), graph.version(), &tasks)?;
        if !stored.tasks.iter().map(|task| &task.name).eq(tasks.iter().map(|task| &task.name)) {
            return Err(StoreError::Corrupt(format!(
                "{}: the recorded tasks of workflow '{}' are not those of its version; the file was changed by another \
                 program or is damaged",
                self.control.store().name(),
                graph.workflow(),
            )));
        }
        if stored.signals.as_deref() != graph.signals() {
            self.control.store().declare(stored.version, graph.signals())?;
        }
        let ids: Arc<[TaskId]> = stored.tasks.iter().map(|task| task.id).collect();
        if !self.control.is_client() {
            self.define_limits(&bodies)?;
        }
        let late_handles = bodies.iter().map(|_| AtomicBool::default()).collect();
        Ok(RegisteredWorkflow {
            bodies,
            number: stored.number,
            version: stored.version,
            ids,
            history,
            recorded: stored.tasks,
            fits: Mutex::default(),
            late_handles,
            by_id: OnceLock::new(),
            graph,
        })
    }

    /// Records the limits of a workflow's tasks.
    fn define_limits(&self, bodies: &[H::Body]) -> Result<(), StoreError> {
        for limit in bodies.iter().filter_map(|body| H::limit(body)) {
            if let Some(before) = self.control.store().define_limit(&limit.spec)? {
                self.control.warn(&format!(
                    "{} replaces what was defined before: {before}; it counts for all runners of the store",
                    limit.spec
                ));
            }
            self.control.limits.activate();
        }
        Ok(())
    }
}
