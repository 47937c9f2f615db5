//! An operator's hand: what somebody does to what a task waits for; and a run that is adopted by changed code.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{Ask, DefinitionError, RunId};
use serde::Serialize;

use super::blocking::blocking;
use super::closures::Closures;
use super::codec::encode;
use super::control::{Asking, asking, refused};
use super::error::Error;
use super::run_handle::RunHandle;
use super::runner::{Runner, register};
use super::workflow::Workflow;
use crate::engine::Engine;
use crate::runs::convert::NotAdopted;

fn satisfying<T: Serialize + ?Sized>(engine: &Arc<Engine<Closures>>, run: RunId, task: Arc<str>, value: &T) -> Asking {
    match encode(value) {
        Ok(value) => asking(engine, run, Ask::Satisfy { task, value }),
        Err(why) => {
            refused(engine, run, Error::Serialization(format!("the value for task '{task}' cannot be stored: {why}")))
        }
    }
}

impl Runner {
    /// Satisfies what a task waits for with this value: its gate, or its body's oldest wait. A request that finds
    /// nothing to act on changes nothing.
    pub fn satisfy<T: Serialize + ?Sized>(&self, run: RunId, task: impl Into<Arc<str>>, value: &T) -> Asking {
        satisfying(&self.engine, run, task.into(), value)
    }

    /// Gives what a task waits for more time: moves its deadline.
    pub fn extend(&self, run: RunId, task: impl Into<Arc<str>>, span: Duration) -> Asking {
        asking(&self.engine, run, Ask::Extend { task: task.into(), span })
    }

    /// Asks the condition that a task waits for now.
    pub fn poll_now(&self, run: RunId, task: impl Into<Arc<str>>) -> Asking {
        asking(&self.engine, run, Ask::PollNow { task: task.into() })
    }

    /// Skips a task that has not ended; what its body still does changes nothing.
    pub fn skip(&self, run: RunId, task: impl Into<Arc<str>>) -> Asking {
        asking(&self.engine, run, Ask::Skip { task: task.into() })
    }

    /// Has a run that no version of its workflow fits, and that nobody executes, continue with this one, because
    /// somebody vouches for the fit. What is recorded of tasks that the workflow does not have is deleted.
    ///
    /// # Errors
    /// If there is no such run, if a runner executes it or it has completed, or if the workflow lacks one of its tasks
    /// that has not ended.
    pub async fn adopt(
        &self,
        run: RunId,
        workflow: &Workflow,
        by: Option<&str>,
        reason: Option<&str>,
    ) -> Result<(), Error> {
        let (workflow, by, reason) = (workflow.clone(), by.map(Into::into), reason.map(Into::into));
        let name = workflow.name().to_owned();
        let adopted = blocking(&self.engine, move |engine| {
            let registered = register(engine, &workflow)?;
            Ok::<_, Error>(engine.adopt(run, &registered, by, reason)?)
        });
        match adopted.await?? {
            Ok(()) => Ok(()),
            Err(NotAdopted::NoRun) => Err(Error::unknown_run(run)),
            Err(NotAdopted::Completed) => Err(Error::TooLate(format!("run {run} has completed"))),
            Err(NotAdopted::Executed) => {
                Err(Error::TooLate(format!("run {run} is executed by a runner, whose code it fits")))
            }
            Err(NotAdopted::KeyTaken) => {
                Err(Error::Definition(DefinitionError(format!("a run of workflow '{name}' has the key of run {run}"))))
            }
            Err(NotAdopted::Unfinished(tasks)) => {
                let tasks: Vec<String> = tasks.iter().map(|task| format!("'{task}'")).collect();
                let tasks = tasks.join(", ");
                Err(Error::Definition(DefinitionError(format!(
                    "workflow '{name}' cannot continue run {run}: it lacks {tasks}, not ended there"
                ))))
            }
        }
    }
}

impl RunHandle {
    /// As [`Runner::satisfy`], of this run.
    pub fn satisfy<T: Serialize + ?Sized>(&self, task: impl Into<Arc<str>>, value: &T) -> Asking {
        satisfying(&self.engine, self.id(), task.into(), value)
    }

    /// As [`Runner::extend`], of this run.
    pub fn extend(&self, task: impl Into<Arc<str>>, span: Duration) -> Asking {
        asking(&self.engine, self.id(), Ask::Extend { task: task.into(), span })
    }

    /// As [`Runner::poll_now`], of this run.
    pub fn poll_now(&self, task: impl Into<Arc<str>>) -> Asking {
        asking(&self.engine, self.id(), Ask::PollNow { task: task.into() })
    }

    /// As [`Runner::skip`], of this run.
    pub fn skip(&self, task: impl Into<Arc<str>>) -> Asking {
        asking(&self.engine, self.id(), Ask::Skip { task: task.into() })
    }
}
