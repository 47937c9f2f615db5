//! The one clock. Everything that asks for the time is given one of these; nothing else reads the system's.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bide_core::Time;
use bide_store::{Boot, LeaseTime, Uptime};

/// Tells the time: of the wall, for what is stored, a steady one, for spans, and the machine's uptime, for leases.
pub trait Clock: Send + Sync + 'static {
    /// The wall's time, UTC. May jump.
    fn now(&self) -> Time;

    /// A steady time since some fixed point; never goes back.
    fn steady(&self) -> Duration;

    /// The time since the machine was started, the time asleep included; `None` if the system cannot tell.
    fn uptime(&self) -> Option<Uptime>;

    /// What a lease is given and judged by.
    fn lease_time(&self) -> LeaseTime {
        LeaseTime { wall: self.now(), uptime: self.uptime() }
    }
}

/// The system's clock.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
    /// `None`: the system cannot tell its uptime.
    boot: Option<Boot>,
}

impl SystemClock {
    /// The system's clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the system's clock")]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self { origin: Instant::now(), boot: Boot::current() })
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the system's clock")]
    fn now(&self) -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(bide_core::time::micros(since))
    }

    fn steady(&self) -> Duration {
        self.origin.elapsed()
    }

    fn uptime(&self) -> Option<Uptime> {
        self.boot.and_then(Uptime::since)
    }
}
