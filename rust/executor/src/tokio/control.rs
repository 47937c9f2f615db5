//! Control of runs, as it is asked for: cancel, pause, resume, retry.

use std::future::IntoFuture;
use std::sync::Arc;

use bide_core::graph::split_element;
use bide_core::nearest::did_you_mean;
use bide_core::{Ask, Control, RunId, RunStatus};
use bide_store::Sent;

use super::blocking::blocking;
use super::closures::{BoxFuture, Closures};
use super::error::Error;
use super::run_handle::RunHandle;
use super::runner::Runner;
use crate::engine::Engine;

/// A request to a run, to be awaited. When that returns it is committed; the process that executes the run carries it
/// out.
#[must_use = "this is asked when it is awaited"]
pub struct Asking {
    /// The engine that asks.
    engine: Arc<Engine<Closures>>,
    /// Of which run.
    run: RunId,
    /// What.
    control: Control,
    /// Why it is not asked.
    refused: Option<Error>,
}

impl Asking {
    /// Who asks. Kept in the history of the run.
    pub fn by(mut self, who: impl Into<Arc<str>>) -> Self {
        self.control.by = Some(who.into());
        self
    }

    /// Why. Kept in the history of the run.
    pub fn reason(mut self, why: impl Into<Arc<str>>) -> Self {
        self.control.reason = Some(why.into());
        self
    }

    /// Of a retry: goes back to this task or element, even if it has completed, and also in a run that was paused
    /// because a record does not match.
    pub fn from_task(mut self, task: impl Into<Arc<str>>) -> Self {
        if let Ask::Retry { from, .. } = &mut self.control.ask {
            *from = Some(task.into());
        }
        self
    }

    /// Of a cancellation: the run ends at once, without clean-up. Of a retry: what the tasks have recorded is dropped.
    pub fn at_once(mut self) -> Self {
        match &mut self.control.ask {
            Ask::Cancel { force } => *force = true,
            Ask::Retry { fresh, .. } => *fresh = true,
            _ => {}
        }
        self
    }
}

impl IntoFuture for Asking {
    type Output = Result<(), Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { engine, run, control, refused } = self;
            refused.map_or(Ok(()), Err)?;
            if let Some(why) = engine.stopped() {
                return Err(Error::settled(why.clone()));
            }
            let what = control.ask.name();
            let is_retry = matches!(control.ask, Ask::Retry { .. });
            let standing = blocking(&engine, move |engine| engine.store().standing(run)).await??;
            let status = standing.ok_or_else(|| Error::unknown_run(run))?.status;
            let too_late =
                |status| Err(Error::TooLate(format!("run {run} has ended ({status}): {what} comes too late")));
            if let Some(task) = control.ask.task() {
                check_task(&engine, run, task).await?;
            }
            match status {
                RunStatus::Paused if matches!(control.ask, Ask::Retry { from: Some(_), .. }) => {}
                RunStatus::Cancelled if what == "cancel" => return Ok(()),
                RunStatus::Failed | RunStatus::Cancelled if is_retry => {}
                _ if is_retry => {
                    let why = format!("run {run} is {status}: only a run that failed or was cancelled can be retried");
                    return Err(Error::TooLate(why));
                }
                ended if ended.is_ended() => return too_late(ended),
                _ => {}
            }
            match blocking(&engine, move |engine| engine.ask(run, &control)).await?? {
                Sent::Ended(RunStatus::Cancelled) if what == "cancel" => Ok(()),
                Sent::Ended(status) => too_late(status),
                Sent::NoRun => Err(Error::unknown_run(run)),
                _ => Ok(()),
            }
        })
    }
}

/// Refuses a task that a run does not have.
async fn check_task(engine: &Arc<Engine<Closures>>, run: RunId, task: &str) -> Result<(), Error> {
    let stored = blocking(engine, move |engine| engine.store().load(run)).await??;
    let stored = stored.ok_or_else(|| Error::unknown_run(run))?;
    let known = |name: &str| stored.tasks.iter().find(|known| *known.name == *name);
    let element = || {
        let (of, map) = split_element(task)?;
        let id = known(of)?.id;
        stored.rows.iter().find(|row| row.task == id && row.map == map)
    };
    if known(task).is_some() || element().is_some() {
        return Ok(());
    }
    let hint = did_you_mean(task, stored.tasks.iter().map(|known| &*known.name));
    Err(Error::Unknown(format!("run {run} of '{}' has no task '{task}'{hint}", stored.run.workflow)))
}

pub(super) fn asking(engine: &Arc<Engine<Closures>>, run: RunId, ask: Ask) -> Asking {
    Asking { engine: Arc::clone(engine), run, control: Control::new(ask), refused: None }
}

pub(super) fn refused(engine: &Arc<Engine<Closures>>, run: RunId, why: Error) -> Asking {
    Asking { refused: Some(why), ..asking(engine, run, Ask::Pause) }
}

impl Runner {
    /// Cancels a run: nothing new starts, but tasks that run whatever happens. A body gets a failure of the kind
    /// `Cancelled`, once: out of its wait, or of its next call that is not a replay; then it can clean up. A body that
    /// awaits something else than its handle is not interrupted.
    pub fn cancel(&self, run: RunId) -> Asking {
        asking(&self.engine, run, Ask::Cancel { force: false })
    }

    /// Pauses a run: no body starts or resumes, and what they wait for is recorded.
    pub fn pause(&self, run: RunId) -> Asking {
        asking(&self.engine, run, Ask::Pause)
    }

    /// Continues a run that was paused, on request or because it could not continue as it was.
    pub fn resume(&self, run: RunId) -> Asking {
        asking(&self.engine, run, Ask::Resume)
    }

    /// Continues a failed or cancelled run from its failed and cancelled tasks and all that depends on them.
    pub fn retry(&self, run: RunId) -> Asking {
        asking(&self.engine, run, Ask::Retry { from: None, fresh: false })
    }
}

impl RunHandle {
    /// As [`Runner::cancel`], of this run.
    pub fn cancel(&self) -> Asking {
        asking(&self.engine, self.id(), Ask::Cancel { force: false })
    }

    /// As [`Runner::pause`], of this run.
    pub fn pause(&self) -> Asking {
        asking(&self.engine, self.id(), Ask::Pause)
    }

    /// As [`Runner::resume`], of this run.
    pub fn resume(&self) -> Asking {
        asking(&self.engine, self.id(), Ask::Resume)
    }

    /// As [`Runner::retry`], of this run.
    pub fn retry(&self) -> Asking {
        asking(&self.engine, self.id(), Ask::Retry { from: None, fresh: false })
    }
}
