//! The runs that an engine has in memory, and the runs executed elsewhere that callers here wait for.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Weak};

use bide_core::RunId;
use bide_core::record::RunRowId;
use bide_store::ChangedRuns;
use bide_sync::{Mutex, RwLock};

use crate::host::Host;
use crate::runs::run::Run;
use crate::runs::settled::Settlement;
use crate::runs::watched::WatchedRun;

/// Runs that callers wait for, by row number and id.
type WatchedRuns<H> = BTreeMap<(RunRowId, RunId), Weak<WatchedRun<H>>>;

/// The runs of an engine.
pub(crate) struct LiveRuns<H: Host> {
    /// Executed here, by row number.
    live: Mutex<HashMap<RunRowId, Arc<Run<H>>>>,
    /// Runs that are executed elsewhere or not at all, with where callers here wait for them. By row number, since
    /// changes name runs by it.
    watched: Mutex<WatchedRuns<H>>,
    /// Runs that were given back and that a caller here still holds: for when they come back.
    given_back: Mutex<HashMap<RunId, Weak<Run<H>>>>,
    /// Held for reading from before a run is created or read until it is executed here, and for writing while messages
    /// are read for all runs: one that comes in between reaches its run by one of the two.
    pub(crate) adopting: RwLock<()>,
}

impl<H: Host> Default for LiveRuns<H> {
    fn default() -> Self {
        Self {
            live: Mutex::default(),
            watched: Mutex::default(),
            given_back: Mutex::default(),
            adopting: RwLock::default(),
        }
    }
}

impl<H: Host> LiveRuns<H> {
    /// From here on the run is executed here.
    pub(crate) fn adopt(&self, run: &Arc<Run<H>>) {
        self.live.lock().insert(run.id.row(), Arc::clone(run));
        let watched = self.watched.lock().get(&(run.id.row(), run.id)).and_then(Weak::upgrade);
        if let Some(watched) = watched {
            watched.is_here(run);
        }
    }

    pub(crate) fn get(&self, id: RunId) -> Option<Arc<Run<H>>> {
        // The row number is only a part of an id.
        self.by_row(id.row()).filter(|run| run.id == id)
    }

    /// The run with this row number.
    pub(crate) fn by_row(&self, row: RunRowId) -> Option<Arc<Run<H>>> {
        self.live.lock().get(&row).cloned()
    }

    /// Whether a run with this row number is executed here.
    pub(crate) fn has(&self, row: RunRowId) -> bool {
        self.live.lock().contains_key(&row)
    }

    pub(crate) fn len(&self) -> usize {
        self.live.lock().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Run<H>>> {
        self.live.lock().values().cloned().collect()
    }

    /// The run was lost with an earlier lease: its callers are to look for it elsewhere. It may be here again, as
    /// another value, under a newer lease.
    pub(crate) fn release(&self, run: &Arc<Run<H>>) {
        let mut live = self.live.lock();
        if live.get(&run.id.row()).is_some_and(|known| Arc::ptr_eq(known, run)) {
            live.remove(&run.id.row());
        }
        drop(live);
        run.settled.settle(Settlement::Elsewhere);
    }

    /// The run has ended or is paused, and that is committed.
    pub(crate) fn remove(&self, run: &Run<H>) {
        let mut live = self.live.lock();
        if live.get(&run.id.row()).is_some_and(|known| std::ptr::eq(&raw const **known, run)) {
            live.remove(&run.id.row());
        }
    }

    /// Reports a run's settlement to those who wait for it.
    pub(crate) fn settle(&self, run: &Run<H>, settlement: &Settlement) {
        run.settled.settle(settlement.clone());
        let watched = self.watched.lock().remove(&(run.id.row(), run.id));
        if let Some(watched) = watched.and_then(|watched| watched.upgrade()) {
            if watched.settled.is_awaited() {
                run.settled.observe();
            }
            watched.settled.settle(settlement.clone());
        }
    }

    /// Another runner has the runs now: drops them all.
    pub(crate) fn abandon_all(&self) {
        let runs: Vec<_> = self.live.lock().drain().map(|(_, run)| run).collect();
        for run in runs {
            run.state.lock().abandon();
            run.settled.settle(Settlement::Elsewhere);
        }
    }

    /// Nothing happens here any more: drops all runs, and reports that to those who wait.
    pub(crate) fn settle_all(&self, settlement: &Settlement) {
        let runs: Vec<_> = self.live.lock().drain().map(|(_, run)| run).collect();
        for run in runs {
            run.settled.settle(settlement.clone());
        }
        let watched: Vec<_> = {
            let watched = std::mem::take(&mut *self.watched.lock());
            watched.values().filter_map(Weak::upgrade).collect()
        };
        for watched in watched {
            watched.settled.settle(settlement.clone());
        }
    }

    /// Where to wait for a run that is executed elsewhere. What was reported there is not reported again, because a run
    /// that had no owner may be executed by now.
    pub(crate) fn watch(&self, id: RunId) -> Arc<WatchedRun<H>> {
        let mut watched = self.watched.lock();
        let known = watched.get(&(id.row(), id)).and_then(Weak::upgrade);
        known.filter(|known| !known.settled.is_set()).unwrap_or_else(|| {
            let kept = self.given_back.lock().get(&id).and_then(Weak::upgrade);
            let new = Arc::new(WatchedRun::new(id, kept.map(|run| H::copy_local(&run.local))));
            watched.insert((id.row(), id), Arc::downgrade(&new));
            new
        })
    }

    /// Where to wait for a run that is about to be created.
    pub(crate) fn watch_upcoming(&self, id: RunId, local: Option<H::Local>) -> Arc<WatchedRun<H>> {
        let new = Arc::new(WatchedRun::upcoming(id, local));
        self.watched.lock().insert((id.row(), id), Arc::downgrade(&new));
        new
    }

    /// These runs are given back: their callers are to look for them elsewhere.
    pub(crate) fn give_back(&self, runs: &[Arc<Run<H>>]) {
        {
            // Before their callers hear of it, who then wait for what comes back.
            let mut known = self.given_back.lock();
            known.retain(|_, run| run.strong_count() > 0);
            known.extend(runs.iter().map(|run| (run.id, Arc::downgrade(run))));
        }
        runs.iter().for_each(|run| self.release(run));
    }

    /// What the host keeps with a run that was submitted here and belonged to nobody.
    pub(crate) fn take_local(&self, id: RunId) -> Option<H::Local> {
        let watched = self.watched.lock().get(&(id.row(), id)).and_then(Weak::upgrade);
        let kept = || self.given_back.lock().remove(&id)?.upgrade().map(|run| H::copy_local(&run.local));
        watched.and_then(|watched| watched.take_local()).or_else(kept)
    }

    /// The watched runs that may have changed and that a caller still waits for.
    pub(crate) fn watched(&self, changed: &ChangedRuns) -> Vec<Arc<WatchedRun<H>>> {
        let mut watched = self.watched.lock();
        let waits = |watched: &Weak<WatchedRun<H>>| watched.upgrade().filter(|watched| !watched.settled.is_set());
        match changed {
            ChangedRuns::Any => {
                watched.retain(|_, watched| watched.strong_count() > 0);
                watched.values().filter_map(waits).collect()
            }
            ChangedRuns::These(_) if watched.is_empty() => Vec::new(),
            ChangedRuns::These(runs) => {
                let of = |run: &RunRowId| watched.range((*run, RunId(u128::MIN))..=(*run, RunId(u128::MAX)));
                runs.iter().flat_map(of).filter_map(|(_, watched)| waits(watched)).collect()
            }
        }
    }

    /// The watched run before this one in the order of their creation, and up to `most` of those after it.
    pub(crate) fn beside(&self, id: RunId, most: usize) -> (Option<RunId>, Vec<Arc<WatchedRun<H>>>) {
        let place = (id.row(), id);
        let watched = self.watched.lock();
        let before = watched.range(..place).next_back().map(|((_, id), _)| *id);
        let after = watched.range((Bound::Excluded(place), Bound::Unbounded)).take(most);
        (before, after.filter_map(|(_, watched)| watched.upgrade()).collect())
    }
}
