//! The clock that users of a store pass in.

use std::time::Duration;

use bide_core::Time;

use crate::{LeaseTime, Uptime};

/// The clocks: wall time for what is stored, steady time for spans, and the machine's uptime for leases.
pub trait Clock: Send + Sync + 'static {
    /// The wall time, UTC. May jump.
    fn now(&self) -> Time;

    /// A steady time since some fixed point; never goes back.
    fn steady(&self) -> Duration;

    /// Steady time that no test moves: how long a thread has taken, how old a lease is. As [`Clock::steady`], unless that
    /// is moved by hand.
    fn machine(&self) -> Duration {
        self.steady()
    }

    /// Whether wall and steady time stand still until they are moved by hand. Whoever moves them wakes what sleeps.
    fn is_manual(&self) -> bool {
        false
    }

    /// The time since the machine was started, the time asleep included; `None` if the system does not report it.
    fn uptime(&self) -> Option<Uptime>;

    /// What a lease is given and judged by.
    fn lease_time(&self) -> LeaseTime {
        LeaseTime { wall: self.now(), uptime: self.uptime() }
    }

    /// As [`LeaseTime::micros`] of now, with one look at one clock.
    fn lease_micros(&self) -> i64 {
        self.uptime().map_or_else(|| self.now().0, |up| up.micros)
    }
}
