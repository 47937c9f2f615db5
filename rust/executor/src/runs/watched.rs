//! A run that is waited for without being in memory: where to wait for it, and what was read of it ahead of its caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bide_core::record::StoredRun;
use bide_core::{RunId, RunStatus};
use bide_store::{Store, StoreError};
use bide_sync::Mutex;

use crate::host::Host;
use crate::runs::live::LiveRuns;
use crate::runs::run::Run;
use crate::runs::settled::{Settled, Settlement};

/// How many runs are read at most in one call of the store.
const MOST_AHEAD: usize = 64;

/// Runs with more bytes of results than this are not read ahead: their caller may never ask for them.
const LARGE: usize = 1 << 20;

/// A run that is waited for without being in memory.
pub struct WatchedRun<H: Host> {
    /// Its id.
    pub id: RunId,
    /// Where to wait for it.
    pub settled: Settled,
    /// It was created: if it is not in the store, it was deleted.
    exists: AtomicBool,
    /// What the host keeps with the run, if it was submitted here: for when it comes to be executed here.
    local: Mutex<Option<H::Local>>,
    /// The run as it is executed here, if this runner has claimed it since.
    here: Mutex<Option<Arc<Run<H>>>>,
    /// The run as it was completed elsewhere, until its caller takes it.
    read: Mutex<Option<Box<StoredRun>>>,
}

impl<H: Host> WatchedRun<H> {
    /// Of a run that exists, with what the host keeps with it, if it was submitted here.
    pub(super) fn new(id: RunId, local: Option<H::Local>) -> Self {
        Self::with(id, true, local)
    }

    /// Of a run that is about to be created.
    pub(super) fn upcoming(id: RunId, local: Option<H::Local>) -> Self {
        Self::with(id, false, local)
    }

    fn with(id: RunId, exists: bool, local: Option<H::Local>) -> Self {
        let (exists, local) = (AtomicBool::new(exists), Mutex::new(local));
        Self { id, settled: Settled::default(), exists, local, here: Mutex::default(), read: Mutex::default() }
    }

    /// What the host keeps with the run; returned once.
    pub(super) fn take_local(&self) -> Option<H::Local> {
        self.local.lock().take()
    }

    /// It was created.
    pub(super) fn set_created(&self) {
        self.exists.store(true, Ordering::Release);
    }

    /// Whether it was created.
    pub(super) fn exists(&self) -> bool {
        self.exists.load(Ordering::Acquire)
    }

    /// This runner executes it from here on.
    pub(super) fn is_here(&self, run: &Arc<Run<H>>) {
        *self.here.lock() = Some(Arc::clone(run));
    }

    /// The run in memory, if it has ended or was paused here.
    #[must_use]
    pub fn ended_here(&self) -> Option<Arc<Run<H>>> {
        let here = self.here.lock().clone();
        here.filter(|run| matches!(run.settled.get(), Some(Settlement::Run(_))))
    }

    fn can_be_read_ahead(&self) -> bool {
        // What is completed does not change any more.
        matches!(self.settled.get(), Some(Settlement::Run(RunStatus::Completed)))
            && self.here.lock().is_none()
            && self.read.lock().is_none()
    }
}

/// Reads runs for those who wait for them. Of one who reads many runs in the order of their creation, as after
/// `submit_many`, it reads those that come next in the same round trip, twice as many each time.
#[derive(Default)]
pub(crate) struct ReadAhead {
    state: Mutex<Reads>,
}

#[derive(Default)]
struct Reads {
    /// The run that was read last.
    last: Option<RunId>,
    /// How many were to be read together then.
    together: usize,
}

impl ReadAhead {
    /// A run as it is stored.
    pub(crate) fn load<H: Host>(
        &self,
        store: &dyn Store,
        runs: &LiveRuns<H>,
        watched: &WatchedRun<H>,
    ) -> Result<Option<StoredRun>, StoreError> {
        if let Some(read) = watched.read.lock().take() {
            self.state.lock().last = Some(watched.id);
            return Ok(Some(*read));
        }
        if !store.is_shared() {
            return store.load(watched.id);
        }
        let (before, mut after) = runs.beside(watched.id, 2 * MOST_AHEAD);
        let together = {
            let mut state = self.state.lock();
            let continues = before.is_some() && before == state.last;
            state.last = Some(watched.id);
            state.together = if continues { (2 * state.together).clamp(1, MOST_AHEAD) } else { 1 };
            state.together
        };
        after.retain(|watched| watched.can_be_read_ahead());
        after.truncate(together - 1);
        if after.is_empty() {
            return store.load(watched.id);
        }
        let ids: Vec<RunId> = std::iter::once(watched.id).chain(after.iter().map(|watched| watched.id)).collect();
        let (mut own, mut bytes) = (None, 0);
        for stored in store.load_many(&ids)? {
            bytes += stored
                .rows
                .iter()
                .map(|row| row.output.as_ref().map_or(0, |output| output.as_bytes().len()))
                .sum::<usize>();
            if stored.run.id == watched.id {
                own = Some(stored);
            } else if let Some(watched) = after.iter().find(|watched| watched.id == stored.run.id) {
                *watched.read.lock() = Some(Box::new(stored));
            }
        }
        if bytes > LARGE {
            self.state.lock().together = 0;
        }
        Ok(own)
    }
}
