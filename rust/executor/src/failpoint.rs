//! Failpoints: places where a test can make bide itself panic, or have it wait. A panic is a bug, and no test can wait for
//! one; what happens between two commits is otherwise a matter of luck.
//!
//! Without the feature `failpoints` they do nothing.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use bide_sync::{Condvar, Mutex};

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

/// After how many more commits a thread waits; 0: none does.
static COMMITS: AtomicU32 = AtomicU32::new(0);

/// Whether a thread waits after its commit.
static HELD: Mutex<bool> = Mutex::new(false);
static RELEASED: Condvar = Condvar::new();

/// Makes the thread that has the nth commit from now on made wait before anything follows from that, until [`release`].
/// Other threads continue, and may commit. 0: none waits.
pub fn hold_after_commit(nth: u32) {
    COMMITS.store(nth, Ordering::SeqCst);
}

/// Whether a thread waits after its commit.
#[must_use]
pub fn is_held() -> bool {
    *HELD.lock()
}

/// The thread that waits after its commit continues.
pub fn release() {
    *HELD.lock() = false;
    RELEASED.notify_all();
}

/// A commit was made. Costs one relaxed load.
#[inline]
pub fn committed() {
    if cfg!(feature = "failpoints") && COMMITS.load(Ordering::Relaxed) > 0 {
        hold_if_last();
    }
}

#[cold]
#[inline(never)]
fn hold_if_last() {
    let before = COMMITS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |commits| commits.checked_sub(1));
    if before == Ok(1) {
        let mut held = HELD.lock();
        *held = true;
        while *held {
            RELEASED.wait(&mut held);
        }
    }
}
