//! Bodies that have begun: which of them have executed for long, and the clock as it was read for them last.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bide_core::Time;

use super::body::CoroutineBody;
use super::dispatch::Coroutines;
use crate::clock::Clock;
use crate::host::Host;

/// A body's start is written once it has executed for this long, so that other processes can see it.
const SHOW_AFTER: Duration = Duration::from_millis(100);

impl<H: Host> Coroutines<H> {
    /// A body has begun. Most end in their first step, during which no other one is begun: nothing is kept of those.
    pub(super) fn begins(&self, body: &Arc<CoroutineBody<H>>) {
        let body = Arc::downgrade(body);
        let before = std::mem::replace(&mut self.state.lock().latest, (body, None));
        drop(before);
    }

    /// A body has suspended for the first time.
    pub(super) fn suspends(&self, body: &Arc<CoroutineBody<H>>, now: Duration) {
        let mut state = self.state.lock();
        let body = Arc::downgrade(body);
        if state.latest.0.ptr_eq(&body) {
            state.latest = (Weak::new(), None);
        }
        state.recent.push_back((now, body));
    }

    /// A body that has executed for long and was not shown to other processes yet.
    pub(super) fn next_to_show(&self, now: Duration) -> Option<Weak<CoroutineBody<H>>> {
        let state = &mut *self.state.lock();
        let (latest, since) = &mut state.latest;
        if latest.strong_count() > 0 {
            let since = *since.get_or_insert(now);
            if now.saturating_sub(since) >= SHOW_AFTER {
                return Some(std::mem::take(&mut state.latest).0);
            }
        }
        let (since, _) = state.recent.front()?;
        (now.saturating_sub(*since) >= SHOW_AFTER).then(|| state.recent.pop_front().map(|(_, body)| body))?
    }

    /// The wall's time at this moment of the lease's clock, which is now.
    pub(super) fn wall(&self, clock: &dyn Clock, now: i64) -> Time {
        self.seen.lock().wall(clock, now)
    }

    /// A body ends now: returns the wall's time, and the machine's.
    pub(super) fn ends_at(&self, clock: &dyn Clock) -> (Time, Duration) {
        let (wall, machine) = (clock.now(), clock.machine());
        self.seen.lock().see(wall, machine);
        self.ended.store(u64::try_from(machine.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        (wall, machine)
    }

    /// When a body ended last, in the machine's time.
    #[must_use]
    pub fn last_end(&self) -> Duration {
        Duration::from_nanos(self.ended.load(Ordering::Relaxed))
    }
}
