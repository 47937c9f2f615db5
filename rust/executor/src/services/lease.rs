//! The lease thread: renews the runner's lease, notices what other processes have written, takes over what nobody
//! has (any more), and looks at the runs that callers here watch.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{RunId, RunStatus};
use bide_store::StoreError;
use bide_sync::{Condvar, Mutex};

use crate::engine::{Engine, Level};
use crate::host::{Dispatch, Host};
use crate::settled::{Settled, Settlement};

/// News are looked for so often, busy or idle.
const LOOK: Duration = Duration::from_millis(50);

/// The lease is renewed so often; it runs out after three times as long.
const RENEW: Duration = Duration::from_secs(5);

/// Stops the thread.
#[derive(Default)]
pub(crate) struct LeaseService {
    stop: Mutex<bool>,
    changed: Condvar,
}

/// What the thread remembers from one look to the next.
pub(crate) struct Watch {
    /// When the lease was renewed last, by the steady clock.
    pub(crate) renewed: Duration,
    /// The last piece of news it saw.
    pub(crate) seen: u64,
}

impl LeaseService {
    pub(crate) fn stop(&self) {
        *self.stop.lock() = true;
        self.changed.notify_all();
    }

    /// Sleeps for one look; true when the service is to end.
    fn sleep(&self) -> bool {
        let mut stop = self.stop.lock();
        if !*stop {
            self.changed.wait_for(&mut stop, LOOK);
        }
        *stop
    }
}

impl<H: Host> Engine<H> {
    /// The lease thread.
    pub(crate) fn run_lease_service(self: Arc<Self>) {
        let mut watch = Watch { renewed: self.clock.steady(), seen: 0 };
        while !self.lease_service.sleep() {
            self.keep_watch(&mut watch);
        }
    }

    /// One look of the lease thread.
    pub(crate) fn keep_watch(self: &Arc<Self>, watch: &mut Watch) {
        if self.stopped().is_some() {
            return;
        }
        let now = self.clock.steady();
        let mut outcome = Ok(());
        if now.saturating_sub(watch.renewed) >= RENEW {
            watch.renewed = now;
            outcome = self.renew();
        }
        match outcome.and_then(|()| self.look(&mut watch.seen)) {
            Ok(()) => {}
            Err(error @ StoreError::Busy { .. }) => self.log(Level::Warning, &error.to_string()),
            Err(error) => self.break_down(&error),
        }
    }

    fn renew(self: &Arc<Self>) -> Result<(), StoreError> {
        let lease = *self.lease.read();
        match self.store().renew(lease, self.clock.now()) {
            Err(StoreError::Fenced { .. }) => {
                self.fenced(lease);
                self.take_up()
            }
            outcome => outcome,
        }
    }

    fn look(self: &Arc<Self>, seen: &mut u64) -> Result<(), StoreError> {
        let news = self.store().news()?;
        if news != *seen {
            self.take_up()?;
            *seen = news;
        }
        self.dispatch.look(self);
        // Without news too: what another runner of this process commits to the store that both share is none.
        self.look_at_watched()
    }

    fn look_at_watched(&self) -> Result<(), StoreError> {
        let watched: Vec<(RunId, Arc<Settled>)> = {
            let mut watched = self.watched.lock();
            watched.retain(|_, settled| settled.strong_count() > 0);
            watched.iter().filter_map(|(id, settled)| Some((*id, settled.upgrade()?))).collect()
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
            settled.settle(Settlement::NotHere(why));
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
            known.unwrap_or_else(|| {
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
