//! Where callers wait for a run, and what is reported to them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bide_core::RunStatus;
use bide_sched::{counts, spin};
use bide_store::StoreError;
use bide_sync::{Condvar, Mutex, MutexGuard};

/// Why nothing more will happen to a run here.
#[derive(Clone, Debug)]
pub enum Settlement {
    /// It has ended or is paused, and that is committed.
    Run(RunStatus),
    /// The runner was closed; the next runner on the store continues the run.
    Closed,
    /// The runner stopped because of its store.
    Broken(Box<StoreError>),
    /// The runner stopped because of a bug in bide; asks for a report.
    Panicked(std::sync::Arc<str>),
    /// Another runner has it now, or it was deleted.
    Elsewhere,
    /// No runner executes it, and this one cannot; holds the reason.
    NotHere(String),
}

impl Settlement {
    /// Whether it stands whatever comes: what has completed is neither resumed nor retried.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Run(RunStatus::Completed))
    }
}

type Callback = Box<dyn FnOnce() + Send>;

/// Where callers wait.
#[derive(Default)]
pub struct Settled {
    /// The settlement, and who waits for it.
    state: Mutex<State>,
    /// Notified when the run settles.
    changed: Condvar,
    /// The settlement is set: for a look without the lock.
    is_set: AtomicBool,
    /// How many callers wait for it now: see [`super::watch::Awaiting`].
    pub(super) awaiting: AtomicU32,
    /// A caller has got it, or has waited when it was reported.
    observed: AtomicBool,
}

#[derive(Default)]
struct State {
    settlement: Option<Settlement>,
    /// It is about to be reported: the commit that it waits for is under way.
    coming: bool,
    #[expect(clippy::box_collection, reason = "most runs have none, and there may be a hundred thousand of them")]
    callbacks: Option<Box<Vec<Callback>>>,
}

impl Settled {
    /// Of a run whose caller waits for it from the beginning, or not.
    pub(crate) fn new(awaited: bool) -> Self {
        Self { observed: AtomicBool::new(awaited), ..Self::default() }
    }

    /// Reports it to those who wait. The first report counts.
    pub fn settle(&self, settlement: Settlement) {
        let callbacks = {
            let mut state = self.state.lock();
            if state.settlement.is_some() {
                return;
            }
            state.settlement = Some(settlement);
            if self.is_awaited() {
                self.observe();
            }
            self.is_set.store(true, Ordering::Release);
            state.callbacks.take()
        };
        if self.changed.has_waiters() {
            counts::add_wake();
            self.changed.notify_all();
        }
        for callback in callbacks.map_or_else(Vec::new, |callbacks| *callbacks) {
            callback();
        }
    }

    /// The commit begins after which it can be reported. Sleeping callers are woken now, because waking takes about as
    /// long as the commit.
    pub(crate) fn announce(&self) {
        if self.changed.has_waiters() && spin::pays() {
            self.state.lock().coming = true;
            counts::add_wake();
            self.changed.notify_all();
        }
    }

    /// What was reported, if anything was.
    #[must_use]
    pub fn get(&self) -> Option<Settlement> {
        self.state.lock().settlement.clone()
    }

    /// Whether it was reported. Takes no lock.
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// A caller gets it, or is going to wait for it from the beginning.
    pub fn observe(&self) {
        self.observed.store(true, Ordering::Relaxed);
    }

    /// A caller has given up before it was reported: only others may get it.
    pub fn give_up(&self) {
        let state = self.state.lock();
        if state.settlement.is_none() {
            self.observed.store(false, Ordering::Relaxed);
        }
    }

    /// Whether a caller waits for it now.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaiting.load(Ordering::Relaxed) > 0
    }

    /// Whether a caller has got it, or has waited when it was reported.
    pub(crate) fn is_observed(&self) -> bool {
        self.observed.load(Ordering::Relaxed)
    }

    /// Waits for it, at most for a span. Blocks.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a caller's patience is not the engine's time")]
    pub fn wait(&self, span: Duration) -> Option<Settlement> {
        let begun = Instant::now();
        let mut state = self.state.lock();
        while state.settlement.is_none() {
            let remaining = span.saturating_sub(begun.elapsed());
            if remaining.is_zero() {
                break;
            }
            self.changed.wait_for(&mut state, remaining);
            if std::mem::take(&mut state.coming) && state.settlement.is_none() {
                MutexGuard::unlocked(&mut state, || spin::until(|| self.is_set.load(Ordering::Acquire)));
            }
        }
        if state.settlement.is_some() {
            self.observe();
        }
        state.settlement.clone()
    }

    /// Calls back once it is reported: at once, if it was. The callback must not block.
    pub fn on_settled(&self, callback: Box<dyn FnOnce() + Send>) {
        let mut state = self.state.lock();
        if state.settlement.is_some() {
            drop(state);
            callback();
        } else {
            state.callbacks.get_or_insert_default().push(callback);
        }
    }
}
