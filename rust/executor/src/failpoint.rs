//! Failpoints: places where a test can make bide itself panic. A panic is a bug, and no test can wait for one.
//!
//! None is on the way of every body. Without the feature `failpoints` they do nothing.

use std::sync::atomic::{AtomicU8, Ordering};

/// A place where a test can ask for a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failpoint {
    /// On a caller's thread, within one of its calls.
    Caller = 1,
    /// On a worker, where it looks at what a body has raised.
    Body,
    /// On a thread that polls gates.
    Gate,
    /// Wherever something is committed, with the commit lock held.
    Commit,
    /// On a worker that has just been given a slot.
    Worker,
    /// On the lease thread.
    Lease,
}

impl Failpoint {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 6] = [
        ("caller", Self::Caller),
        ("body", Self::Body),
        ("gate", Self::Gate),
        ("commit", Self::Commit),
        ("worker", Self::Worker),
        ("lease", Self::Lease),
    ];
}

/// The failpoint that is armed; 0: none.
static ARMED: AtomicU8 = AtomicU8::new(0);

/// Makes the next thread of this process that passes the failpoint panic there.
pub fn panic_once_at(failpoint: Failpoint) {
    ARMED.store(failpoint as u8, Ordering::SeqCst);
}

/// Passes a failpoint. Costs one relaxed load.
#[inline]
pub fn hit(failpoint: Failpoint) {
    if cfg!(feature = "failpoints") && ARMED.load(Ordering::Relaxed) == failpoint as u8 {
        panic_if_first(failpoint);
    }
}

#[cold]
#[inline(never)]
fn panic_if_first(failpoint: Failpoint) {
    let first = ARMED.compare_exchange(failpoint as u8, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    assert!(!first, "a test has asked for this");
}
