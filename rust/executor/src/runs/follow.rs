//! Those who follow what live runs show: they are woken when there may be something new of their run.
//!
//! A follower reads the store, and what it reads is committed. If its run is executed here it is woken by each commit
//! of events; of a run that another process executes it looks at the store again and again.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bide_core::{RunId, StoredEvents};
use bide_store::ChangedRuns;
use bide_sync::{Condvar, Mutex};

/// How often a follower looks at the store for a run that another process executes.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// And for one that is executed here, whose commits wake it: only in case that changes.
pub(crate) const RECHECK: Duration = Duration::from_secs(1);

type Callback = Box<dyn FnOnce() + Send>;

/// Where the followers of a run wait.
#[derive(Default)]
pub struct Bell {
    /// How often it has rung, and who waits.
    state: Mutex<BellState>,
    /// Notified when it rings.
    changed: Condvar,
}

#[derive(Default)]
struct BellState {
    rings: u64,
    /// Called when it rings the next time.
    callbacks: Vec<Callback>,
}

impl Bell {
    fn ring(&self) {
        let callbacks = {
            let mut state = self.state.lock();
            state.rings += 1;
            std::mem::take(&mut state.callbacks)
        };
        self.changed.notify_all();
        for callback in callbacks {
            callback();
        }
    }

    /// How often it has rung: ask before you look at the store.
    #[must_use]
    pub fn rings(&self) -> u64 {
        self.state.lock().rings
    }

    /// Waits until it has rung more often than `seen`, at most for a span. Blocks.
    pub fn wait(&self, seen: u64, span: Duration) {
        let mut state = self.state.lock();
        if state.rings == seen {
            self.changed.wait_for(&mut state, span);
        }
    }

    /// Calls back once it has rung more often than `seen`. The callback must not block.
    pub fn on_ring(&self, seen: u64, callback: Callback) {
        let mut state = self.state.lock();
        if state.rings == seen {
            state.callbacks.push(callback);
            return;
        }
        drop(state);
        callback();
    }
}

/// The bells of the runs that are followed here.
#[derive(Default)]
pub(crate) struct Followers(Mutex<Bells>);

#[derive(Default)]
struct Bells {
    by_run: HashMap<RunId, Weak<Bell>>,
    /// With this many, those that nobody waits for any more are dropped.
    most: usize,
}

impl Followers {
    pub(crate) fn bell(&self, run: RunId) -> Arc<Bell> {
        let bells = &mut *self.0.lock();
        if let Some(bell) = bells.by_run.get(&run).and_then(Weak::upgrade) {
            return bell;
        }
        if bells.by_run.len() >= bells.most {
            bells.by_run.retain(|_, bell| bell.strong_count() > 0);
            bells.most = 2 * bells.by_run.len() + 16;
        }
        let bell = Arc::new(Bell::default());
        bells.by_run.insert(run, Arc::downgrade(&bell));
        bell
    }

    /// There may be something new of this run.
    pub(crate) fn ring(&self, run: RunId) {
        let bell = self.0.lock().by_run.get(&run).and_then(Weak::upgrade);
        if let Some(bell) = bell {
            bell.ring();
        }
    }

    /// There may be something new of the runs that have changed.
    pub(crate) fn ring_changed(&self, changed: &ChangedRuns) {
        let may_have_changed = |run: &RunId| match changed {
            ChangedRuns::Any => true,
            ChangedRuns::These(runs) => runs.contains(&run.row()),
        };
        let bells: Vec<Arc<Bell>> = {
            let bells = self.0.lock();
            let changed = bells.by_run.iter().filter(|(run, _)| may_have_changed(run));
            changed.filter_map(|(_, bell)| bell.upgrade()).collect()
        };
        bells.iter().for_each(|bell| bell.ring());
    }

    /// Nothing happens here any more.
    pub(crate) fn ring_all(&self) {
        self.ring_changed(&ChangedRuns::Any);
    }
}

/// What a follower has read.
#[derive(Debug)]
pub struct Followed {
    /// The events, in order.
    pub events: Vec<StoredEvents>,
    /// The run had ended before these were read. If fewer than were asked for came, they are the last.
    pub ended: bool,
}
