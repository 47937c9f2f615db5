//! Runs as their callers see them, executed here, elsewhere or not at all: their state, and where to wait for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bide_core::record::StoredRun;
use bide_core::{RunId, RunStatus};
use bide_store::{ChangedRuns, Standing, StoreError};

use crate::control::Control;
use crate::host::Host;
use crate::ledger::CommitPath;
use crate::runs::follow::ring_changed;
use crate::runs::recover::Recovery;
use crate::runs::run::Run;
use crate::runs::settled::{Settled, Settlement};
use crate::runs::watched::{ReadAhead, WatchedRun};

/// How long a caller waits for a commit under way before it reads the rows instead.
const COMMIT_WAIT: Duration = Duration::from_millis(50);

/// How many watched runs are looked at in one call of the store.
const LOOK: usize = 1_024;

/// A run that a caller may wait for.
pub enum Handle<H: Host> {
    /// It is executed by this engine (or was).
    Live(Arc<Run<H>>),
    /// It is executed elsewhere or not at all, or it has ended.
    Watched(Arc<WatchedRun<H>>),
}

impl<H: Host> Clone for Handle<H> {
    fn clone(&self) -> Self {
        match self {
            Self::Live(run) => Self::Live(Arc::clone(run)),
            Self::Watched(watched) => Self::Watched(Arc::clone(watched)),
        }
    }
}

impl<H: Host> Handle<H> {
    /// The run's id.
    #[must_use]
    pub fn id(&self) -> RunId {
        match self {
            Self::Live(run) => run.id,
            Self::Watched(watched) => watched.id,
        }
    }

    /// The same run in memory, if it has ended or was paused here since it was not there.
    #[must_use]
    pub fn ended_here(&self) -> Option<Self> {
        match self {
            Self::Live(_) => None,
            Self::Watched(watched) => watched.ended_here().map(Self::Live),
        }
    }

    /// Where to wait for it.
    #[must_use]
    pub fn settled(&self) -> &Settled {
        match self {
            Self::Live(run) => &run.settled,
            Self::Watched(watched) => &watched.settled,
        }
    }
}

/// A caller waits for a run, until this is dropped: it gets to know how the run ends.
pub struct Awaiting<H: Host>(Handle<H>);

impl<H: Host> Awaiting<H> {
    /// A caller begins to wait.
    #[must_use]
    pub fn new(handle: &Handle<H>) -> Self {
        handle.settled().awaiting.fetch_add(1, Ordering::Relaxed);
        Self(handle.clone())
    }
}

impl<H: Host> Drop for Awaiting<H> {
    fn drop(&mut self) {
        self.0.settled().awaiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks at runs for their callers.
pub(crate) struct Watch<H: Host> {
    /// The store, and the runs that are executed here.
    pub(super) control: Arc<Control<H>>,
    /// Keeps commits away while a run is shown.
    path: Arc<CommitPath<H>>,
    /// Says why a run is not executed here.
    pub(super) recovery: Arc<Recovery<H>>,
    /// Reads those that have ended elsewhere.
    reads: ReadAhead,
}

impl<H: Host> Watch<H> {
    pub(crate) fn new(control: &Arc<Control<H>>, path: &Arc<CommitPath<H>>, recovery: &Arc<Recovery<H>>) -> Arc<Self> {
        let (control, path, recovery) = (Arc::clone(control), Arc::clone(path), Arc::clone(recovery));
        Arc::new(Self { control, path, recovery, reads: ReadAhead::default() })
    }

    /// A handle of a run that exists.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn handle(&self, id: RunId) -> Result<Handle<H>, StoreError> {
        match self.control.runs.get(id) {
            Some(run) => Ok(Handle::Live(run)),
            None => self.watch(id).map(Handle::Watched),
        }
    }

    /// Handles of runs that exist, in their order.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn handles(&self, ids: impl Iterator<Item = RunId>) -> Result<Vec<Handle<H>>, StoreError> {
        let mut unknown = Vec::new();
        let handles = ids
            .map(|id| {
                let live = self.control.runs.get(id).map(Handle::Live);
                live.unwrap_or_else(|| {
                    let watched = self.control.runs.watch(id);
                    unknown.push(Arc::clone(&watched));
                    Handle::Watched(watched)
                })
            })
            .collect();
        self.look_at(&unknown)?;
        self.control.settle_late_comers();
        Ok(handles)
    }

    /// Where to wait for runs that are about to be created without an owner: before that, so that their ends are not
    /// missed.
    pub(crate) fn upcoming(&self, runs: impl Iterator<Item = (RunId, Option<H::Local>)>) -> Vec<Arc<WatchedRun<H>>> {
        runs.map(|(id, local)| self.control.runs.watch_upcoming(id, local)).collect()
    }

    /// The same for one that is to be created with another id.
    pub(crate) fn renumbered(&self, run: &WatchedRun<H>, id: RunId) -> Arc<WatchedRun<H>> {
        self.control.runs.watch_upcoming(id, run.take_local())
    }

    /// They were created.
    pub(crate) fn created(&self, runs: Vec<Arc<WatchedRun<H>>>) -> Vec<Handle<H>> {
        runs.iter().for_each(|run| run.set_created());
        self.control.settle_late_comers();
        runs.into_iter().map(Handle::Watched).collect()
    }

    /// A watched run as it is stored. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn load(&self, watched: &WatchedRun<H>) -> Result<Option<StoredRun>, StoreError> {
        self.reads.load(&*self.control.store(), &self.control.runs, watched)
    }

    /// A new handle of a run of which a settlement was reported that does not hold any more: it was claimed, resumed or
    /// retried since. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn renewed(&self, handle: &Handle<H>) -> Result<Option<Handle<H>>, StoreError> {
        let stopped = self.control.stopped();
        let continues = match handle.settled().get() {
            // Of an engine that has stopped over its store: what it knew last may not hold any more.
            Some(Settlement::Run(status))
                if status != RunStatus::Completed && matches!(stopped, Some(Settlement::Broken(_))) =>
            {
                self.control.store().standing(handle.id())?.is_some_and(|standing| standing.status != status)
            }
            _ if stopped.is_some() => false,
            Some(Settlement::NotHere(_)) => true,
            Some(Settlement::Run(status)) if status != RunStatus::Completed => {
                let standing = self.control.store().standing(handle.id())?;
                standing.is_some_and(|standing| standing.status != status)
            }
            _ => false,
        };
        continues.then(|| self.handle(handle.id())).transpose()
    }

    /// Where to wait for a run that is executed elsewhere or not at all.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn watch(&self, id: RunId) -> Result<Arc<WatchedRun<H>>, StoreError> {
        // Registered before the look, so that an end in between is not missed.
        let watched = self.control.runs.watch(id);
        self.look_at(std::slice::from_ref(&watched))?;
        // Registered before this is asked, stopped before all are settled: one of the two sees the other.
        self.control.settle_late_comers();
        Ok(watched)
    }

    /// Checks the watched runs that may have changed.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn look(&self, changed: &ChangedRuns) -> Result<(), StoreError> {
        ring_changed(&self.control.followers, changed);
        self.look_at(&self.control.runs.watched(changed))
    }

    fn look_at(&self, watched: &[Arc<WatchedRun<H>>]) -> Result<(), StoreError> {
        // What is executed here is reported as it ends.
        let elsewhere: Vec<_> = watched.iter().filter(|watched| !self.control.runs.has(watched.id.row())).collect();
        let mut alive = HashMap::new();
        for some in elsewhere.chunks(LOOK) {
            // Asked before the look: one that is created after it is not missed there.
            let (ids, exist): (Vec<RunId>, Vec<bool>) =
                some.iter().map(|watched| (watched.id, watched.exists())).unzip();
            let standings = self.control.store().standings(&ids)?;
            for ((watched, standing), exists) in some.iter().zip(standings).zip(exist) {
                if exists || standing.is_some() {
                    self.report(watched, standing.as_ref(), &mut alive);
                }
            }
        }
        Ok(())
    }

    /// Tells those who wait for a run if nothing more is to be expected. `alive`: which runners are known to be there, or not.
    fn report(&self, watched: &WatchedRun<H>, standing: Option<&Standing>, alive: &mut HashMap<i64, bool>) {
        let settlement = match standing {
            None => Settlement::Elsewhere,
            Some(run) if run.status.is_ended() || (run.status == RunStatus::Paused && !run.held) => {
                Settlement::Run(run.status)
            }
            Some(run) => match self.recovery.why_not_here_if(watched.id, run, |runner| {
                *alive.entry(runner).or_insert_with(|| self.recovery.is_alive(runner))
            }) {
                Some(why) => Settlement::NotHere(why.to_string()),
                None => return,
            },
        };
        watched.settled.settle(settlement);
    }

    /// A run of this engine as it stands, with nothing in it that is not committed: what is being committed may still
    /// fail. Blocks, but not on a store that others keep locked: the answer is what its rows say then.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn committed(&self, run: &Run<H>) -> Result<StoredRun, StoreError> {
        self.committed_as(run, Run::snapshot)
    }

    /// As [`Watch::committed`], with another reading of what is in memory.
    ///
    /// # Errors
    /// From the store.
    pub(super) fn committed_as(
        &self,
        run: &Run<H>,
        snapshot: impl Fn(&Run<H>) -> StoredRun,
    ) -> Result<StoredRun, StoreError> {
        let mut stored = self.read_committed(run, snapshot)?;
        self.explain_children(run, &mut stored);
        Ok(stored)
    }

    /// Adds to the rows of bodies that wait for a child why no runner executes that child.
    fn explain_children(&self, run: &Run<H>, stored: &mut StoredRun) {
        let awaited = run.state.lock().awaited_children();
        for (task, child) in awaited {
            if self.control.runs.get(child).is_some() {
                continue;
            }
            // What cannot be read is not explained.
            let Ok(Some(standing)) = self.control.store().standing(child) else { continue };
            let why = match standing.status {
                RunStatus::Paused => Some(format!("run {child} is paused")),
                _ => self.recovery.why_not_here(child, &standing).map(|why| why.to_string()),
            };
            let number = run.workflow.ids[task.ix as usize];
            let row = stored.rows.iter_mut().find(|row| row.task == number && row.map == task.map);
            if let (Some(why), Some(row)) = (why, row) {
                let wait = row.blocked_by.as_deref().unwrap_or("waits for a child run");
                row.blocked_by = Some(format!("{wait}; {why}").into());
            }
        }
    }

    fn read_committed(&self, run: &Run<H>, snapshot: impl Fn(&Run<H>) -> StoredRun) -> Result<StoredRun, StoreError> {
        match run.settled.get() {
            // It was committed before this was reported.
            Some(Settlement::Run(_) | Settlement::Closed) => return Ok(snapshot(run)),
            // What was being committed is in memory and perhaps nowhere else.
            Some(Settlement::Broken(why)) => return self.control.store().load(run.id)?.ok_or(*why),
            Some(Settlement::Panicked(_) | Settlement::Elsewhere | Settlement::NotHere(_)) | None => {}
        }
        if run.settled.get().is_none()
            && let Some(_lock) = self.path.ledger.try_lock_for(COMMIT_WAIT)
            && self.control.stopped().is_none()
            && run.settled.get().is_none()
        {
            // A commit holds the commit lock: what is in memory now is in the store.
            return Ok(snapshot(run));
        }
        self.control.store().load(run.id).map(|stored| stored.unwrap_or_else(|| snapshot(run)))
    }
}
