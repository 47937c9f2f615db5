//! The lease thread: renews the runner's lease, notices what other processes have written, takes over what nobody
//! has (any more), and looks at the runs that callers here watch. And the check that every body is preceded by:
//! [`Engine::lease_holds`].
//!
//! A process that was stopped for longer than its lease goes on in the middle of what it did, and others may have its
//! runs by then. So whoever is about to start something asks the clock whether the lease has run out, and if so renews
//! it before, or is told that it is lost. By the machine's uptime: others judge by it too, it counts while the machine
//! sleeps, and nobody can set it. Where the system has none it is the wall, and one that was set back to before the last
//! renewal counts as run out: what has passed since is not known then.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bide_core::{RunId, RunStatus};
use bide_store::{ChangedRuns, Changes, LEASE, Lease, LeaseTime, Seen, StoreError};
use bide_sync::{Condvar, Mutex, MutexGuard};

use crate::engine::{Engine, Level};
use crate::failpoint::{self, Failpoint};
use crate::host::{Attached, Dispatch, Host};
use crate::runs::settled::{Settled, Settlement};

/// For so long the thread waits for changes of the store before it does its other work.
const LOOK: Duration = Duration::from_millis(50);

/// The lease is renewed so often; it runs out after three times as long.
const RENEW: Duration = Duration::from_secs(5);

/// How long the lease lasts, in microseconds.
const LASTS: u64 = LEASE.as_micros() as u64;

/// Stops the thread, and knows until when the lease lasts.
#[derive(Default)]
pub(crate) struct LeaseService {
    stop: Mutex<bool>,
    changed: Condvar,
    /// When the lease was given or renewed last: [`LeaseTime::micros`].
    since: AtomicI64,
    /// Whoever renews holds this, so that one does and the others wait for it.
    renewing: Mutex<()>,
}

/// What the thread remembers from one look to the next.
pub(crate) struct Watch {
    /// When the lease was renewed last, by the steady clock.
    pub(crate) renewed: Duration,
    /// Up to which change of the store it has dealt with them.
    pub(crate) seen: Seen,
}

impl LeaseService {
    /// The store has given or renewed the lease for a span that begins then.
    pub(crate) fn lasts_from(&self, time: LeaseTime) {
        self.since.store(time.micros(), Ordering::Relaxed);
    }

    /// One load and one comparison: a time before the last renewal is a huge unsigned span.
    #[inline]
    fn lasts_until_after(&self, now: i64) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        (now.wrapping_sub(since) as u64) < LASTS
    }

    pub(crate) fn stop(&self) {
        *self.stop.lock() = true;
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        *self.stop.lock()
    }

    /// Sleeps for as long as it would wait for changes, or until it is to end.
    fn sleep(&self) {
        let mut stop = self.stop.lock();
        if !*stop {
            self.changed.wait_for(&mut stop, LOOK);
        }
    }
}

impl<H: Host> Engine<H> {
    /// The lease thread.
    pub(crate) fn run_lease_service(self: Arc<Self>) {
        let mut watch = Watch { renewed: self.clock.steady(), seen: Seen::default() };
        self.lease_service.sleep();
        while !self.lease_service.is_stopped() {
            // A store that cannot be asked must not be asked without a rest.
            if !self.keep_watch(&mut watch, LOOK) {
                self.lease_service.sleep();
            }
        }
    }

    /// One turn of the lease thread: waits for changes, renews the lease if it is time, and deals with the changes. False
    /// if it could not wait.
    pub(crate) fn keep_watch(self: &Arc<Self>, watch: &mut Watch, timeout: Duration) -> bool {
        if self.stopped().is_some() {
            return false;
        }
        failpoint::hit(Failpoint::Lease);
        let changes = self.store().wait_for_changes(watch.seen, timeout);
        let waited = changes.is_ok();
        if self.lease_service.is_stopped() {
            return waited;
        }
        let now = self.clock.steady();
        let renews = now.saturating_sub(watch.renewed) >= RENEW || !self.lease_holds();
        let mut outcome = Ok(());
        if renews {
            watch.renewed = now;
            outcome = self.renew();
        }
        let outcome = outcome.and_then(|()| changes).and_then(|changes| self.deal_with(&changes, renews, watch));
        match outcome {
            Ok(()) => {}
            Err(error @ StoreError::Busy { .. }) => self.log(Level::Warning, &error.to_string()),
            Err(error) => self.break_down(&error),
        }
        waited
    }

    fn renew(self: &Arc<Self>) -> Result<(), StoreError> {
        let lease = *self.lease.read();
        self.renew_once(lease, self.lease_service.renewing.lock())?;
        if *self.lease.read() == lease { Ok(()) } else { self.take_up() }
    }

    /// Renews this lease; if it is lost, its runs are dropped and there is a new one.
    fn renew_once(self: &Arc<Self>, lease: Lease, _renewing: MutexGuard<'_, ()>) -> Result<(), StoreError> {
        let now = self.clock.lease_time();
        match self.store().renew(lease, now) {
            Ok(()) => self.lease_service.lasts_from(now),
            Err(StoreError::Fenced { .. }) => self.fenced(lease),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the lease has not run out, by the clock: the check before each body.
    #[inline]
    pub(crate) fn lease_holds(&self) -> bool {
        self.lease_holds_at(self.clock.lease_micros())
    }

    /// The same, by what the clock has just shown ([`crate::clock::Clock::lease_micros`]).
    #[inline]
    pub(crate) fn lease_holds_at(&self, now: i64) -> bool {
        self.lease_service.lasts_until_after(now)
    }

    /// A lease that has run out is renewed before anything starts. False if nothing may start any more. Blocks if it
    /// has; a lost lease drops its runs, so that what was about to start finds its run over.
    pub(crate) fn make_sure_of_lease(self: &Arc<Self>) -> bool {
        loop {
            let renewing = self.lease_service.renewing.lock();
            if self.stopped().is_some() || self.is_closing() {
                return false;
            }
            if self.lease_holds() {
                return true;
            }
            let lease = *self.lease.read();
            match self.renew_once(lease, renewing) {
                Ok(()) => {}
                Err(error @ StoreError::Busy { .. }) => self.log(Level::Warning, &error.to_string()),
                Err(error) => self.break_down(&error),
            }
        }
    }

    /// As [`Engine::make_sure_of_lease`], for a thread that holds what others want: it lets go of that only if the
    /// lease has run out.
    #[inline]
    pub(crate) fn is_sure_of_lease(self: &Arc<Self>, at: &mut dyn Attached) -> bool {
        self.lease_holds() || at.detach(|| self.make_sure_of_lease())
    }

    fn deal_with(self: &Arc<Self>, changes: &Changes, renewed: bool, watch: &mut Watch) -> Result<(), StoreError> {
        if changes.unowned {
            self.take_up()?;
        }
        if let Some(warning) = self.store().warning() {
            self.log(Level::Warning, &warning);
        }
        self.dispatch.look(self);
        match &changes.runs {
            // Whether a runner is late with its lease shows without a change.
            _ if renewed => self.look_at_watched(&ChangedRuns::Any)?,
            changed => self.look_at_watched(changed)?,
        }
        // Only now: what could not be dealt with is seen again.
        watch.seen = changes.seen;
        Ok(())
    }

    fn look_at_watched(&self, changed: &ChangedRuns) -> Result<(), StoreError> {
        let may_have = |id: &RunId| match changed {
            ChangedRuns::These(runs) => runs.contains(&id.row()),
            ChangedRuns::Any => true,
        };
        let watched: Vec<(RunId, Arc<Settled>)> = {
            let mut watched = self.watched.lock();
            watched.retain(|_, settled| settled.strong_count() > 0);
            let changed = watched.iter().filter(|(id, _)| may_have(id));
            changed.filter_map(|(id, settled)| Some((*id, settled.upgrade()?))).collect()
        };
        for (id, settled) in watched {
            self.look_at(id, &settled)?;
        }
        Ok(())
    }

    fn look_at(&self, id: RunId, settled: &Settled) -> Result<(), StoreError> {
        let Some(run) = self.store().standing(id)? else {
            settled.settle(Settlement::Elsewhere);
            return Ok(());
        };
        if run.status.is_ended() || run.status == RunStatus::Paused {
            settled.settle(Settlement::Run(run.status));
        } else if let Some(why) = self.why_not_here(&run) {
            settled.settle(Settlement::NotHere(why.to_string()));
        }
        Ok(())
    }

    /// Where to wait for a run that is executed elsewhere, or by nobody.
    ///
    /// # Errors
    /// From the store.
    pub fn watch(&self, id: RunId) -> Result<Arc<Settled>, StoreError> {
        let settled = {
            let mut watched = self.watched.lock();
            let known = watched.get(&id).and_then(std::sync::Weak::upgrade);
            // What was said is not said again: a run that nobody had may be executed by now.
            known.filter(|settled| settled.get().is_none()).unwrap_or_else(|| {
                let settled = Arc::new(Settled::default());
                watched.insert(id, Arc::downgrade(&settled));
                settled
            })
        };
        // Registered first, then looked: an end in between is not missed.
        self.look_at(id, &settled)?;
        Ok(settled)
    }
}
