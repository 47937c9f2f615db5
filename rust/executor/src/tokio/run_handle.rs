//! A handle of a run, to wait with.

use std::fmt;
use std::sync::Arc;

use bide_core::{RunId, RunStatus};
use tokio::sync::oneshot;

use super::blocking::blocking;
use super::closures::Closures;
use super::error::{Error, RunFailed};
use super::result::RunResult;
use crate::engine::Engine;
use crate::runs::settled::Settlement;
use crate::runs::watch::{Awaiting, Handle};

/// A run that was submitted, or that a key names.
#[derive(Clone)]
pub struct RunHandle {
    /// The engine that the run was submitted to.
    pub(super) engine: Arc<Engine<Closures>>,
    /// The run, in memory or watched.
    handle: Handle<Closures>,
}

impl fmt::Debug for RunHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunHandle({})", self.id())
    }
}

impl RunHandle {
    pub(super) fn new(engine: &Arc<Engine<Closures>>, handle: Handle<Closures>) -> Self {
        Self { engine: Arc::clone(engine), handle }
    }

    pub(super) fn engine(&self) -> &Arc<Engine<Closures>> {
        &self.engine
    }

    /// The run's id.
    #[must_use]
    pub fn id(&self) -> RunId {
        self.handle.id()
    }

    /// Waits until the run has ended.
    ///
    /// # Errors
    /// [`Error::Failed`] with the whole result if a task failed; else why the run does not continue here.
    pub async fn result(&self) -> Result<RunResult, Error> {
        let mut handle = self.renewed().await?;
        loop {
            let settlement = self.settled(&handle).await?;
            handle = handle.ended_here().unwrap_or(handle);
            match (settlement, &handle) {
                (Settlement::Run(status), _) => {
                    let result = self.snapshot(&handle).await?;
                    return match status {
                        RunStatus::Completed => Ok(result),
                        RunStatus::Paused | RunStatus::Pending | RunStatus::Running => Err(Error::Blocked(format!(
                            "run {} of '{}' is paused: {}",
                            result.id,
                            result.workflow,
                            result.blocked_by.as_deref().unwrap_or("on request")
                        ))),
                        RunStatus::Failed | RunStatus::Cancelled => Err(Error::Failed(Box::new(RunFailed { result }))),
                    };
                }
                // Another runner has claimed it: wait for its end there.
                (Settlement::Elsewhere, Handle::Live(_)) => {
                    let id = handle.id();
                    handle = Handle::Watched(blocking(&self.engine, move |engine| engine.watch(id)).await??);
                }
                (Settlement::Elsewhere, Handle::Watched(watched)) => return Err(Error::unknown_run(watched.id)),
                (settlement, _) => return Err(Error::settled(settlement)),
            }
        }
    }

    /// How the run stands now.
    ///
    /// # Errors
    /// From the store.
    pub async fn status(&self) -> Result<RunStatus, Error> {
        Ok(self.snapshot(&self.renewed().await?).await?.status)
    }

    /// The run as it is executed now: it may have been retried or resumed.
    async fn renewed(&self) -> Result<Handle<Closures>, Error> {
        let handle = self.handle.clone();
        if handle.settled().get().is_none() {
            return Ok(handle);
        }
        blocking(&self.engine, move |engine| Ok(engine.renewed(&handle)?.unwrap_or(handle))).await?
    }

    async fn settled(&self, handle: &Handle<Closures>) -> Result<Settlement, Error> {
        if let Some(settlement) = handle.settled().get() {
            return Ok(settlement);
        }
        if let Handle::Watched(watched) = handle {
            self.check_recoverable(watched.id).await?;
        }
        let _awaiting = Awaiting::new(handle);
        let (report, settled) = oneshot::channel();
        handle.settled().on_settled(Box::new(move || {
            let _ = report.send(());
        }));
        let _ = settled.await;
        handle.settled().get().ok_or(Error::Closed)
    }

    /// Whether any runner can execute a run that is not executed here; without one the caller would wait for ever.
    async fn check_recoverable(&self, id: RunId) -> Result<(), Error> {
        let standing = blocking(&self.engine, move |engine| engine.store().standing(id)).await??;
        let run = standing.ok_or_else(|| Error::unknown_run(id))?;
        match blocking(&self.engine, move |engine| engine.why_not_here(id, &run)).await? {
            Some(why) => Err(Error::Blocked(format!("no runner continues run {id}: {why}"))),
            None => Ok(()),
        }
    }

    async fn snapshot(&self, handle: &Handle<Closures>) -> Result<RunResult, Error> {
        match handle {
            Handle::Live(run) => {
                let run = Arc::clone(run);
                let stored = blocking(&self.engine, move |engine| engine.committed(&run)).await??;
                Ok(RunResult::of(stored))
            }
            Handle::Watched(watched) => {
                let (id, watched) = (watched.id, Arc::clone(watched));
                let stored = blocking(&self.engine, move |engine| engine.load(&watched)).await??;
                stored.map(RunResult::of).ok_or_else(|| Error::unknown_run(id))
            }
        }
    }
}
