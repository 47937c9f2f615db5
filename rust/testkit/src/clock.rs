//! A clock that is moved by hand.

use std::sync::Arc;
use std::time::Duration;

use bide_core::Time;
use bide_core::time::micros;
use bide_executor::Clock;
use bide_store::{Boot, Uptime};
use bide_sync::Mutex;

/// Where a virtual wall clock begins: some day of 2026.
pub const START: Time = Time(1_795_000_000_000_000);

/// A clock that is moved by hand: steady time and uptime only forward, the wall either way.
#[derive(Debug)]
pub struct VirtualClock(Mutex<Readings>);

#[derive(Debug)]
struct Readings {
    /// Microseconds since 1970.
    wall: i64,
    /// Since the clock was made.
    steady: Duration,
    /// Microseconds, as steady time but for the time asleep.
    uptime: i64,
    /// How much faster the wall goes than steady time, in parts of a million.
    drift: i64,
}

impl VirtualClock {
    /// A clock at [`START`].
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Readings { wall: START.0, steady: Duration::ZERO, uptime: 3_600_000_000, drift: 0 })))
    }

    /// Makes the wall clock run faster than steady time from here on, by this many parts in a million; slower, if
    /// negative.
    pub fn drift(&self, parts: i64) {
        self.0.lock().drift = parts;
    }

    /// Lets time pass.
    pub fn advance(&self, span: Duration) {
        let mut readings = self.0.lock();
        readings.wall += micros(span) + micros(span) * readings.drift / 1_000_000;
        readings.steady += span;
        readings.uptime += micros(span);
    }

    /// The machine sleeps: the wall and the uptime advance, steady time does not.
    pub fn sleep(&self, span: Duration) {
        let mut readings = self.0.lock();
        readings.wall += micros(span);
        readings.uptime += micros(span);
    }

    /// Sets the wall clock, forward or back.
    pub fn set_wall_by(&self, milliseconds: i64) {
        self.0.lock().wall += milliseconds * 1000;
    }
}

/// The clock of a machine whose wall shows another time than that of others.
pub struct SkewedClock {
    /// A clock that is right.
    pub right: Arc<VirtualClock>,
    /// How far ahead this one is, in milliseconds.
    pub ahead: i64,
}

impl Clock for SkewedClock {
    fn now(&self) -> Time {
        Time(self.right.now().0 + self.ahead * 1000)
    }

    fn steady(&self) -> Duration {
        self.right.steady()
    }

    /// Its leases, too, would count by another boot.
    fn uptime(&self) -> Option<Uptime> {
        let up = self.right.uptime()?;
        Some(if self.ahead == 0 { up } else { Uptime { boot: Boot(2), micros: up.micros + self.ahead * 1000 } })
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Time {
        Time(self.0.lock().wall)
    }

    fn steady(&self) -> Duration {
        self.0.lock().steady
    }

    fn uptime(&self) -> Option<Uptime> {
        Some(Uptime { boot: Boot(1), micros: self.0.lock().uptime })
    }
}
