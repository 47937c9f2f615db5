//! A clock for tests of programs: its time passes only when it is moved. Leases go by the machine's clock all the same,
//! so that no test loses its runs to another runner by moving the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bide_core::Time;
use bide_core::time::micros;
use bide_store::{LeaseTime, Uptime};
use bide_sync::Mutex;

use crate::clock::{Clock, SystemClock};

/// A clock that is moved by hand, forward only.
pub struct TestClock {
    /// What it showed at first.
    start: Time,
    /// How far it was moved since.
    moved: Mutex<Duration>,
    /// Locked by who finds out whether it may be moved, and moves it.
    pub moving: Mutex<()>,
    /// The machine's clock.
    system: Arc<dyn Clock>,
    /// Answers that tests have prescribed for conditions and that were not given yet. While there are any, each poll
    /// happens at its time.
    pub prescribed: AtomicUsize,
    /// Calls of tests that are under way. While there are any, nobody else moves the time by itself.
    pub holds: AtomicUsize,
}

impl TestClock {
    /// A clock that shows this moment.
    #[must_use]
    pub fn new(start: Time) -> Arc<Self> {
        let system = SystemClock::shared();
        let (prescribed, holds) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { start, moved: Mutex::default(), moving: Mutex::default(), system, prescribed, holds })
    }

    /// Moves it to this steady time, unless it is there already. What sleeps is not woken by this.
    pub fn move_to(&self, steady: Duration) {
        let mut moved = self.moved.lock();
        *moved = steady.max(*moved);
    }

    /// Whether every poll is to happen at its time.
    #[must_use]
    pub fn keeps_polls(&self) -> bool {
        self.prescribed.load(Ordering::SeqCst) > 0
    }

    /// Whether a call of a test is under way that others wait for before they move the time.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.holds.load(Ordering::SeqCst) > 0
    }
}

impl Clock for TestClock {
    fn now(&self) -> Time {
        self.start.after(Duration::from_micros(micros(self.steady()).unsigned_abs()))
    }

    fn steady(&self) -> Duration {
        *self.moved.lock()
    }

    fn machine(&self) -> Duration {
        self.system.steady()
    }

    fn is_manual(&self) -> bool {
        true
    }

    fn uptime(&self) -> Option<Uptime> {
        self.system.uptime()
    }

    fn lease_time(&self) -> LeaseTime {
        self.system.lease_time()
    }

    fn lease_micros(&self) -> i64 {
        self.system.lease_micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_time_is_moved_and_that_of_leases_is_not() {
        let clock = TestClock::new(Time(1_000_000));
        let lease = clock.lease_micros();
        clock.move_to(Duration::from_secs(86_400));
        clock.move_to(Duration::from_secs(1));
        assert_eq!((clock.now(), clock.steady()), (Time(86_401_000_000), Duration::from_secs(86_400)));
        assert!(clock.lease_micros() - lease < 86_400_000_000 / 2);
        assert!(clock.machine() < Duration::from_secs(86_400) / 2);
    }
}
