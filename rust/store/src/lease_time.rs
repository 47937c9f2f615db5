//! The clock that leases count in.
//!
//! The wall clock can be set: forward, and every lease on the machine seems to have run out; back, and none does. So a
//! lease counts the time since the machine was started, which cannot be set and which includes the time asleep. Such a
//! time means something only during the boot that it was read in, so the boot goes with it.

use std::time::Duration;

use bide_core::Time;
use bide_core::time::micros;

/// One boot of one machine, as far as processes on it can compare their clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Boot(pub u128);

/// The time since the machine was started, the time asleep included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uptime {
    /// The boot from which it is counted.
    pub boot: Boot,
    /// Microseconds since then.
    pub micros: i64,
}

/// Now, as leases are given and judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    /// By the wall: for the lease of a runner that has no other clock (another system, an older bide).
    pub wall: Time,
    /// By the clock that cannot be set, where there is one.
    pub uptime: Option<Uptime>,
}

impl LeaseTime {
    /// This time plus a span, by both clocks.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let later = |up: Uptime| Uptime { micros: up.micros.saturating_add(micros(span)), ..up };
        Self { wall: self.wall.after(span), uptime: self.uptime.map(later) }
    }

    /// In microseconds of the clock in which a lease that is given now counts.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.uptime.map_or(self.wall.0, |up| up.micros)
    }
}

impl From<Time> for LeaseTime {
    /// On a system that has the wall clock only.
    fn from(wall: Time) -> Self {
        Self { wall, uptime: None }
    }
}

impl Uptime {
    /// What the system shows now of this boot.
    #[must_use]
    pub fn since(boot: Boot) -> Option<Self> {
        system::uptime().map(|micros| Self { boot, micros })
    }
}

impl Boot {
    /// This boot, if the system reports it.
    #[must_use]
    pub fn current() -> Option<Self> {
        system::boot()
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::sync::OnceLock;

    use super::Boot;

    /// The inode of the machine's first time namespace, in every Linux.
    const FIRST_NAMESPACE: u64 = 0xefff_fffa;

    /// Once it could be read. No thread waits for this: a fork in the middle must not keep the child waiting.
    static BOOT: OnceLock<Boot> = OnceLock::new();

    pub(super) fn boot() -> Option<Boot> {
        if let Some(boot) = BOOT.get() {
            return Some(*boot);
        }
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let id = u128::from_str_radix(&id.trim().replace('-', ""), 16).ok()?;
        // In another time namespace the same boot's clock shows another time.
        let namespace = fs::metadata("/proc/self/ns/time").map_or(FIRST_NAMESPACE, |file| file.ino());
        let boot = Boot(id ^ u128::from(namespace ^ FIRST_NAMESPACE));
        let _ = BOOT.set(boot);
        Some(boot)
    }

    /// In microseconds.
    pub(super) fn uptime() -> Option<i64> {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a live local of the type that the call fills in.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
        (result == 0).then_some(now.tv_sec * 1_000_000 + now.tv_nsec / 1000)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::Boot;

    pub(super) fn boot() -> Option<Boot> {
        None
    }

    pub(super) fn uptime() -> Option<i64> {
        None
    }
}
