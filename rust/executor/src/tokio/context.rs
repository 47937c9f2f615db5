//! The argument of a closure: the inputs and outputs that it may read, and its handle.

use std::ops::Deref;
use std::sync::Arc;

use bide_core::nearest::did_you_mean;
use bide_core::{RunId, TaskRef};
use serde::de::DeserializeOwned;

use super::closures::Closures;
use super::codec::{decode, serialization_failure};
use super::handle::TaskHandle;
use super::kinds::{Outcome, Outcomes};
use super::lane::{Entry, Lane};
use super::task_error::TaskError;
use crate::runs::run::Run;

/// The inputs of a run, and the outputs of other tasks, that a task may read.
#[derive(Clone)]
pub struct Scope {
    /// The run, for inputs and outputs.
    pub(super) run: Arc<Run<Closures>>,
    /// The task that reads them.
    pub(super) task: TaskRef,
}

impl Scope {
    pub(super) fn new(run: &Arc<Run<Closures>>, task: TaskRef) -> Self {
        Self { run: Arc::clone(run), task }
    }

    /// An input of the run.
    ///
    /// # Errors
    /// If the run has no such input, or it is of another type.
    pub fn input<T: DeserializeOwned>(&self, name: &str) -> Result<T, TaskError> {
        let value = self.run.input(name).ok_or_else(|| {
            let hint = did_you_mean(name, self.run.inputs.iter().map(|(name, _)| &**name));
            TaskError::definition(&format!(
                "task '{}' reads the input '{name}', which the run has not{hint}",
                self.task_name()
            ))
        })?;
        decode(value).map_err(|why| self.does_not_fit(&format!("the input '{name}'"), &why))
    }

    /// What a task returned that this one depends on.
    ///
    /// # Errors
    /// If this task does not depend on it, if it did not complete, or if its output is of another type.
    pub fn output<T: DeserializeOwned>(&self, task: &str) -> Result<T, TaskError> {
        self.try_output(task)?.ok_or_else(|| {
            let message = format!("task '{}' reads the output of '{task}', which did not complete", self.task_name());
            TaskError::definition(&message)
        })
    }

    /// As [`output`](Self::output), for tasks that run even if others did not complete; `None` if it did not.
    ///
    /// # Errors
    /// If this task does not depend on it, or if its output is of another type.
    pub fn try_output<T: DeserializeOwned>(&self, task: &str) -> Result<Option<T>, TaskError> {
        let graph = &self.run.workflow.graph;
        let dependencies = graph.dependencies(self.task.ix);
        let Some(ix) = graph.find(task).filter(|ix| dependencies.contains(ix)) else {
            let hint = did_you_mean(task, dependencies.iter().map(|ix| &**graph.name(*ix)));
            let whose = self.task_name();
            return Err(TaskError::definition(&format!(
                "task '{whose}' reads the output of '{task}', on which it does not depend{hint}; name it in after"
            )));
        };
        let value = self.run.state.lock().output(TaskRef::plain(ix)).cloned();
        let decoded = value.map(|value| decode(&value)).transpose();
        decoded.map_err(|why| self.does_not_fit(&format!("the output of '{task}'"), &why))
    }

    /// The run's id.
    #[must_use]
    pub fn run_id(&self) -> RunId {
        self.run.id
    }

    /// The run's key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.run.key.as_deref()
    }

    /// The task's name.
    #[must_use]
    pub fn task_name(&self) -> &str {
        self.run.workflow.graph.name(self.task.ix)
    }

    fn does_not_fit(&self, what: &str, why: &str) -> TaskError {
        let message = format!("task '{}': {what} does not read back as what is asked for: {why}", self.task_name());
        TaskError::failed(serialization_failure(&message))
    }
}

/// What a task's closure is called with: what it was given, and on request a handle to wait with.
#[derive(Clone)]
pub struct TaskContext {
    /// Inputs and outputs that the body may read.
    pub(super) scope: Scope,
    /// The lane that executes the body.
    pub(super) lane: Arc<Lane>,
    /// The number of the attempt.
    pub(super) attempt: u32,
    /// Which body of its lane this is: a context that outlives its body gets no handle any more.
    pub(super) turn: u64,
}

impl TaskContext {
    /// Which try this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What the task's gate was satisfied with: of [`signal`](crate::signal) the value that was sent, of a condition
    /// what it answered, of a combination what that returns. A request is answered with the value that this returns.
    ///
    /// # Errors
    /// If the task has no gate, or its value is of another type.
    pub fn gate<T: 'static>(&self) -> Result<T, TaskError> {
        let (graph, ix) = (&self.run.workflow.graph, self.task.ix);
        let task = self.task_name();
        let gates = graph.spec(ix).gate.as_ref().zip(self.run.workflow.bodies[ix as usize].gate.as_ref());
        let (spec, gate) =
            gates.ok_or_else(|| TaskError::definition(&format!("task '{task}' reads its gate, and it has none")))?;
        let parts: Vec<_> = {
            let state = self.run.state.lock();
            let part = |number| {
                let (name, value) = (Arc::clone(&spec.part(number)?.name), state.gate_value(self.task, number));
                Some(Outcome { name, value, child: None })
            };
            (0..).map_while(part).collect()
        };
        let value = (gate.value)(&Outcomes { task, parts: &parts, handle: &|| self.handle() })?;
        value.downcast().map(|value| *value).map_err(|_| {
            let (is, asked) = (gate.type_name, std::any::type_name::<T>());
            TaskError::definition(&format!("task '{task}': the value of its gate is of the type {is}, not {asked}"))
        })
    }

    /// The handle, to wait and to record steps with. A body that does not ask for it does not pay for it.
    #[must_use]
    pub fn handle(&self) -> TaskHandle {
        let body = Entry { run: &self.run, task: self.task, attempt: self.attempt, turn: self.turn };
        TaskHandle(self.lane.body(&body))
    }
}

impl Deref for TaskContext {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        &self.scope
    }
}
