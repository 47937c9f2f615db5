//! Waiting without sleeping, for something that is at most a commit away. Waking a thread that sleeps takes as long as
//! a commit, so a thread is woken while the commit is made that it waits for, and spins until that is done.
//!
//! On a busy machine spinning is worse than sleeping: it takes the processor from the thread that commits. Spins that
//! time out there make the next ones rarer: the more in a row, the longer the pause.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A spin times out after this, which is about two commits.
const TIMEOUT: Duration = Duration::from_micros(50);

/// After this many timeouts in a row the pause no longer grows.
const MAX_TIMEOUTS: u32 = 10;

/// Timeouts in a row. One number for the process, because it is the machine that is busy.
static TIMEOUTS: AtomicU32 = AtomicU32::new(0);
/// How many more times spinning is skipped.
static PAUSE: AtomicU32 = AtomicU32::new(0);

/// Whether to wake a thread before there is anything for it, so that it spins. Counts as one try.
#[inline]
pub fn pays() -> bool {
    if cfg!(test) {
        // In the models every thread that may be woken early is.
        return true;
    }
    let pause = PAUSE.load(Ordering::Relaxed);
    PAUSE.store(pause.saturating_sub(1), Ordering::Relaxed);
    pause == 0
}

/// Spins until `condition` holds, but not for long.
#[expect(clippy::disallowed_methods, reason = "how long a thread spins is not the engine's time")]
pub fn until(condition: impl Fn() -> bool) {
    if cfg!(test) || condition() {
        // A condition that holds at once does not show whether spinning would have paid. In the models a thread that is
        // woken early finds nothing: that what it waits for comes in time is one more interleaving anyway.
        return;
    }
    let start = Instant::now();
    while !condition() {
        if start.elapsed() >= TIMEOUT {
            let timeouts = (TIMEOUTS.load(Ordering::Relaxed) + 1).min(MAX_TIMEOUTS);
            TIMEOUTS.store(timeouts, Ordering::Relaxed);
            PAUSE.store(1 << timeouts, Ordering::Relaxed);
            return;
        }
        for _ in 0..16 {
            std::hint::spin_loop();
        }
    }
    TIMEOUTS.store(TIMEOUTS.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
}
