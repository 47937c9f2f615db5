//! Waiting without sleeping, for what is at most a commit away: to wake a thread that sleeps takes as long as a commit.
//! So a thread is woken while the commit is made that it waits for, and waits out the rest awake.
//!
//! On a machine that is busy that is worse than sleeping: the thread that waits takes the processor from the one that
//! is to commit. There it is found to be in vain, and left for a while; the longer, the more often.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// About two commits.
const PATIENCE: Duration = Duration::from_micros(50);

/// After so many times in vain in a row, the pause grows no longer.
const MOST: u32 = 10;

/// How often in a row it was in vain. Of the process, since the machine is busy or is not.
static IN_VAIN: AtomicU32 = AtomicU32::new(0);
/// So many times it is not tried.
static PAUSE: AtomicU32 = AtomicU32::new(0);

/// Whether to wake a thread before there is anything for it, so that it waits awake. Counts as a try.
pub(crate) fn pays() -> bool {
    let pause = PAUSE.load(Ordering::Relaxed);
    PAUSE.store(pause.saturating_sub(1), Ordering::Relaxed);
    pause == 0
}

/// Waits until something is so, but not for long.
#[expect(clippy::disallowed_methods, reason = "how long a thread spins is not the engine's time")]
pub(crate) fn until(so: impl Fn() -> bool) {
    if so() {
        // Which says nothing of whether waiting for it would have paid.
        return;
    }
    let begun = Instant::now();
    while !so() {
        if begun.elapsed() >= PATIENCE {
            let in_vain = (IN_VAIN.load(Ordering::Relaxed) + 1).min(MOST);
            IN_VAIN.store(in_vain, Ordering::Relaxed);
            PAUSE.store(1 << in_vain, Ordering::Relaxed);
            return;
        }
        for _ in 0..16 {
            std::hint::spin_loop();
        }
    }
    IN_VAIN.store(IN_VAIN.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
}
