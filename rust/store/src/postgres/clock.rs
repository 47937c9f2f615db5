//! The server's clock, which all runners of a store go by: this machine's, and how far the server's is from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bide_core::Time;
use bide_sync::Mutex;

use crate::{Boot, Clock, Uptime};

/// A machine's clock that is further away than this from the server's is reported.
const SKEW: i64 = 1_000_000;

/// How far the server's clock is from this machine's.
pub(super) struct ServerClock {
    boot: Option<Boot>,
    /// From what [`here`] shows, in microseconds.
    offset: AtomicI64,
    is_measured: AtomicBool,
    /// The wall clocks are far from each other: by how much, until it is reported.
    skewed: Mutex<Option<i64>>,
    is_skewed: AtomicBool,
}

/// When a question was asked.
pub(super) struct Asked {
    here: i64,
    wall: i64,
}

fn wall() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl ServerClock {
    pub(super) fn new() -> Self {
        Self {
            boot: Boot::current(),
            offset: AtomicI64::new(0),
            is_measured: AtomicBool::new(false),
            skewed: Mutex::new(None),
            is_skewed: AtomicBool::new(false),
        }
    }

    /// A clock that nobody sets and that goes on while the machine sleeps, where there is one.
    fn here(&self) -> i64 {
        self.boot.and_then(Uptime::since).map_or_else(wall, |up| up.micros)
    }

    pub(super) fn now(&self) -> Time {
        Time(self.here().saturating_add(self.offset.load(Ordering::Relaxed)))
    }

    pub(super) fn begin(&self) -> Asked {
        Asked { here: self.here(), wall: wall() }
    }

    /// The server has answered that its clock shows this.
    pub(super) fn measured(&self, asked: Asked, server: i64) {
        let took = self.here().saturating_sub(asked.here);
        let middle = asked.here.saturating_add(took / 2);
        let offset = server.saturating_sub(middle);
        let before = self.offset.load(Ordering::Relaxed);
        // What the way of the question and the answer explains is no change of a clock.
        if !self.is_measured.swap(true, Ordering::Relaxed) || (offset - before).abs() > took / 2 {
            self.offset.store(offset, Ordering::Relaxed);
        }
        let skew = server.saturating_sub(asked.wall.saturating_add(took / 2));
        let is_far = skew.abs() > SKEW.saturating_add(took);
        if is_far && !self.is_skewed.swap(true, Ordering::Relaxed) {
            *self.skewed.lock() = Some(skew);
        } else if !is_far {
            self.is_skewed.store(false, Ordering::Relaxed);
        }
    }

    /// That the clocks are far from each other, once each time this begins.
    pub(super) fn warning(&self, store: &str) -> Option<String> {
        let skew = self.skewed.lock().take()?;
        let by = Duration::from_micros(skew.unsigned_abs());
        let which = if skew > 0 { "behind" } else { "ahead of" };
        Some(format!(
            "this machine's clock is {by:.1?} {which} that of {store}; bide goes by the server's, but what bodies read of \
             this one's differs from it: have both synchronised (NTP)"
        ))
    }
}

/// What an engine uses.
pub(super) struct SharedClock {
    pub(super) here: Arc<dyn Clock>,
    pub(super) server: Arc<ServerClock>,
}

impl Clock for SharedClock {
    fn now(&self) -> Time {
        if self.here.is_manual() { self.here.now() } else { self.server.now() }
    }

    fn steady(&self) -> Duration {
        self.here.steady()
    }

    fn machine(&self) -> Duration {
        self.here.machine()
    }

    fn is_manual(&self) -> bool {
        self.here.is_manual()
    }

    /// A lease counts by the server's clock, since others than this machine judge it.
    fn uptime(&self) -> Option<Uptime> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_the_servers_and_a_large_difference_is_reported_once() {
        let clock = ServerClock::new();
        assert_eq!(clock.warning("store"), None);
        let ahead = wall() + 3_600_000_000;
        clock.measured(clock.begin(), ahead);
        assert!((clock.now().0 - ahead).abs() < 60_000_000);
        let warning = clock.warning("store").unwrap_or_default();
        assert!(warning.contains("behind that of store"), "{warning}");
        clock.measured(clock.begin(), wall() + 3_600_000_000);
        assert_eq!(clock.warning("store"), None);
        clock.measured(clock.begin(), wall());
        clock.measured(clock.begin(), wall() - 3_600_000_000);
        assert!(clock.warning("store").unwrap_or_default().contains("ahead of"));
    }
}
