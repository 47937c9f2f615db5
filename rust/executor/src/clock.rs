//! The one clock. Everything that asks for the time is given one of these; nothing else reads the system's.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bide_core::Time;
use bide_core::time::micros;
pub use bide_store::Clock;
use bide_store::{Boot, Uptime};

/// The last reading of the wall clock. A worker that executes one short body after another has just read the wall clock
/// when the next one starts. From the lease's clock, which it has to read, this computes the current wall time.
#[derive(Default)]
pub(crate) struct LastSeen {
    /// The wall time that was read last.
    wall: Time,
    /// In microseconds, at the same moment.
    steady: i64,
    /// How far the clock of the lease is ahead of steady time; it moves when the machine sleeps.
    ahead: Option<i64>,
}

impl LastSeen {
    /// The span in microseconds after which the wall clock is read again: it may have been set.
    const RECENT: i64 = 1000;

    /// The wall and steady time were read together.
    pub(crate) fn see(&mut self, wall: Time, steady: Duration) {
        self.wall = wall;
        self.steady = micros(steady);
    }

    /// What the wall shows at this moment of the lease's clock, which is now.
    pub(crate) fn wall(&mut self, clock: &dyn Clock, now: i64) -> Time {
        if clock.is_manual() {
            return clock.now();
        }
        if let Some(ahead) = self.ahead {
            let span = now - ahead - self.steady;
            if (0..Self::RECENT).contains(&span) {
                return Time(self.wall.0 + span);
            }
        }
        let (wall, steady) = (clock.now(), clock.steady());
        self.see(wall, steady);
        self.ahead = Some(now - self.steady);
        wall
    }
}

/// The system's clock.
#[derive(Debug)]
pub struct SystemClock {
    /// The moment from which steady time counts.
    origin: Instant,
    /// The current boot; `None` if the system does not report its uptime.
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
        Time(micros(since))
    }

    fn steady(&self) -> Duration {
        self.origin.elapsed()
    }

    fn uptime(&self) -> Option<Uptime> {
        self.boot.and_then(Uptime::since)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Wall, steady time and uptime, in microseconds, and how often each was read.
    #[derive(Default)]
    struct Hands(Mutex<([i64; 3], [u32; 3])>);

    impl Hands {
        fn read(&self, which: usize) -> i64 {
            let (times, reads) = &mut *self.0.lock().unwrap_or_else(|lock| lock.into_inner());
            reads[which] += 1;
            times[which]
        }

        fn pass(&self, spans: [i64; 3]) {
            let (times, reads) = &mut *self.0.lock().unwrap_or_else(|lock| lock.into_inner());
            *reads = [0; 3];
            times.iter_mut().zip(spans).for_each(|(time, span)| *time += span);
        }

        fn reads(&self) -> u32 {
            self.0.lock().unwrap_or_else(|lock| lock.into_inner()).1.iter().sum()
        }
    }

    impl Clock for Hands {
        fn now(&self) -> Time {
            Time(self.read(0))
        }

        fn steady(&self) -> Duration {
            Duration::from_micros(self.read(1).unsigned_abs())
        }

        fn uptime(&self) -> Option<Uptime> {
            Some(Uptime { boot: Boot(1), micros: self.read(2) })
        }
    }

    #[test]
    fn the_wall_is_read_again_unless_it_was_read_just_now() {
        const ASLEEP: i64 = 3_600_000_000;
        for (spans, reads) in [
            ([0, 0, 0], 0),
            ([999, 999, 999], 0),
            ([1000, 1000, 1000], 2),
            ([ASLEEP, 5, ASLEEP], 2),
            // The wall was set, and more than a moment has passed.
            ([-ASLEEP, 1500, 1500], 2),
            ([ASLEEP, 1500, 1500], 2),
        ] {
            let (hands, mut seen) = (Hands::default(), LastSeen::default());
            hands.pass([1_795_000_000_000_000, 77, 500_000]);
            assert_eq!(seen.wall(&hands, hands.lease_micros()), hands.now());
            seen.see(hands.now(), hands.steady());
            hands.pass(spans);
            let shown = seen.wall(&hands, 500_000 + spans[2]);
            assert_eq!(hands.reads(), reads, "{spans:?}");
            assert_eq!(shown, hands.now(), "{spans:?}");
        }
    }
}
