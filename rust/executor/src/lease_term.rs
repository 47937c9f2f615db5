//! Until when a lease lasts, by the clock.
//!
//! A process that was stopped for longer than its lease continues in the middle of what it did, and others may have its
//! runs by then. So before a body, a step or a poll starts, the clock is asked whether the lease has run out. It is
//! judged by the machine's uptime: other runners use it too, it includes time asleep, and it cannot be set. Where the
//! system has no uptime the wall clock is used. A wall clock that was set back to before the last renewal counts as run
//! out, because the time that has passed since is then unknown.

use std::sync::atomic::{AtomicI64, Ordering};

use bide_store::{LEASE, LeaseTime};
use bide_sync::{Mutex, MutexGuard};

/// How long a lease lasts, in microseconds.
const LASTS: u64 = LEASE.as_micros() as u64;

/// The time for which the current lease was given.
pub(crate) struct LeaseTerm {
    /// When the lease was given or renewed last: [`LeaseTime::micros`].
    since: AtomicI64,
    /// Locked by the thread that renews, so that only one does and the others wait for it.
    renewing: Mutex<()>,
}

impl LeaseTerm {
    pub(crate) fn beginning(time: LeaseTime) -> Self {
        Self { since: AtomicI64::new(time.micros()), renewing: Mutex::default() }
    }

    /// The store has given or renewed the lease: its term begins at this time.
    pub(crate) fn begin(&self, time: LeaseTime) {
        self.since.store(time.micros(), Ordering::Relaxed);
    }

    /// Whether the lease lasts still: one load and one comparison, because a time before the last renewal is a huge
    /// unsigned span.
    #[inline]
    pub(crate) fn holds_at(&self, now: i64) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        (now.wrapping_sub(since) as u64) < LASTS
    }

    /// The right to renew. Waits for a renewal under way.
    pub(crate) fn renewing(&self) -> MutexGuard<'_, ()> {
        self.renewing.lock()
    }
}
