//! The locks of all of bide: those of the standard library, which on Linux are a word each and nothing else.
//!
//! Why not a library of locks: those that keep the waiting threads in a table of the process break in the child of a
//! fork, whose table still lists threads that do not exist there, in memory that is used for something else by then.
//! A Python process may fork at any moment, while a dozen idle workers wait, and use bide in the child.
//!
//! A panic does not poison: the code that catches it discards what the lock was protecting.
//!
//! `rust/sync/loom` compiles this file a second time, with `cfg(loom)`, over loom's locks: the unit tests of
//! `bide-sched` explore the interleavings of its threads, and of the code here. Hence [`atomic`]: what those threads
//! agree by.

#![forbid(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant};

#[cfg(loom)]
use loom::sync as imp;
#[cfg(not(loom))]
use std::sync as imp;

pub use imp::{RwLockReadGuard, atomic};

use atomic::{AtomicU32, Ordering};

/// A constructor that is `const`, as the standard library's are and loom's are not.
macro_rules! const_fn {
    ($(#[$meta:meta])* pub fn $($rest:tt)*) => {
        $(#[$meta])*
        #[cfg(not(loom))]
        pub const fn $($rest)*
        $(#[$meta])*
        #[cfg(loom)]
        pub fn $($rest)*
    };
}

/// A mutual exclusion lock.
#[derive(Debug, Default)]
pub struct Mutex<T>(imp::Mutex<T>);

/// The guard of a locked [`Mutex`]. It is empty only within [`Condvar::wait`] and [`MutexGuard::unlocked`].
pub struct MutexGuard<'a, T> {
    /// The mutex, to lock it again after a wait.
    lock: &'a Mutex<T>,
    /// The guard of the underlying lock.
    held: Option<imp::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    const_fn! {
        /// An unlocked one.
        pub fn new(value: T) -> Self {
            Self(imp::Mutex::new(value))
        }
    }

    /// Locks it. Blocks.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { lock: self, held: Some(held) }
    }

    /// Locks it if nobody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = match self.0.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { lock: self, held: Some(held) })
    }

    /// As [`Mutex::lock`], but gives up at a point in time. Looks every millisecond, so not for where time counts.
    pub fn try_lock_until(&self, until: Instant) -> Option<MutexGuard<'_, T>> {
        loop {
            match self.try_lock() {
                Some(held) => return Some(held),
                None if passed(until) => return None,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl<T> Mutex<T> {
    /// As [`Mutex::try_lock_until`], for a span.
    #[expect(clippy::disallowed_methods, reason = "a span of this thread's own waiting, not a time of bide's")]
    pub fn try_lock_for(&self, span: Duration) -> Option<MutexGuard<'_, T>> {
        self.try_lock_until(Instant::now() + span)
    }
}

impl<'a, T> MutexGuard<'a, T> {
    /// Gives the lock up while `f` runs, and takes it again.
    pub fn unlocked<R>(this: &mut Self, f: impl FnOnce() -> R) -> R {
        this.held = None;
        let result = f();
        this.held = this.lock.lock().held;
        result
    }

    /// Has the lock replaced by what `wait` makes of it.
    fn through(&mut self, wait: impl FnOnce(imp::MutexGuard<'a, T>) -> imp::MutexGuard<'a, T>) {
        self.held = self.held.take().map(wait);
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        match &self.held {
            Some(held) => held,
            None => unreachable!("a guard is empty only while its lock is waited for"),
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.held {
            Some(held) => held,
            None => unreachable!("a guard is empty only while its lock is waited for"),
        }
    }
}

/// Where threads that hold a [`Mutex`] wait for a change of what it protects.
#[derive(Debug, Default)]
pub struct Condvar {
    /// The underlying condition variable.
    inner: imp::Condvar,
    /// How many threads wait. Changed only with the lock held, so that a thread that changes the condition under the
    /// lock and notifies afterwards sees them. Without waiters a notification costs no system call.
    waiters: AtomicU32,
}

/// Whether a wait ended because its time had passed.
#[derive(Clone, Copy, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether it did.
    #[must_use]
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    const_fn! {
        /// One without waiters.
        #[must_use]
        pub fn new() -> Self {
            Self { inner: imp::Condvar::new(), waiters: AtomicU32::new(0) }
        }
    }

    /// Waits for a notification, or for no reason at all. Blocks.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let _waiting = Waiting::begin(&self.waiters);
        guard.through(|held| self.inner.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    /// As [`Condvar::wait`], at most for a span. Blocks.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, span: Duration) -> WaitTimeoutResult {
        let mut timed_out = false;
        let _waiting = Waiting::begin(&self.waiters);
        guard.through(|held| {
            let (held, result) = self.inner.wait_timeout(held, span).unwrap_or_else(PoisonError::into_inner);
            timed_out = result.timed_out();
            held
        });
        WaitTimeoutResult(timed_out)
    }

    /// As [`Condvar::wait`], at most until a point in time. Blocks.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> WaitTimeoutResult {
        self.wait_for(guard, remaining(until))
    }

    /// Waits until `condition` is false, at most for a span. Blocks.
    pub fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        span: Duration,
    ) -> WaitTimeoutResult {
        let since = now();
        while condition(guard) {
            let remaining = span.saturating_sub(since.elapsed());
            if remaining.is_zero() {
                return WaitTimeoutResult(true);
            }
            self.wait_for(guard, remaining);
        }
        WaitTimeoutResult(false)
    }

    /// Whether any thread waits. Reliable for a thread that has changed, with the lock held, what they wait for.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) > 0
    }

    /// Wakes one thread that waits. What it waits for must have been changed with the lock held; notify once that is
    /// released, or the thread wakes only to wait for the lock.
    #[inline]
    pub fn notify_one(&self) {
        if self.has_waiters() {
            self.inner.notify_one();
        }
    }

    /// Wakes all threads that wait, as [`Condvar::notify_one`] wakes one.
    #[inline]
    pub fn notify_all(&self) {
        if self.has_waiters() {
            self.inner.notify_all();
        }
    }
}

/// One that waits. Made and dropped with the lock held.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(waiters: &'a AtomicU32) -> Self {
        waiters.fetch_add(1, Ordering::Relaxed);
        Self(waiters)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A lock for many readers or one writer.
#[derive(Debug, Default)]
pub struct RwLock<T>(imp::RwLock<T>);

impl<T> RwLock<T> {
    const_fn! {
        /// An unlocked one.
        pub fn new(value: T) -> Self {
            Self(imp::RwLock::new(value))
        }
    }

    /// Waits until it can be read. Blocks.
    #[inline]
    pub fn read(&self) -> imp::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it can be changed. Blocks.
    #[inline]
    pub fn write(&self) -> imp::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::disallowed_methods, reason = "a lock's patience is not the engine's time")]
fn now() -> Instant {
    Instant::now()
}

fn remaining(until: Instant) -> Duration {
    until.saturating_duration_since(now())
}

fn passed(until: Instant) -> bool {
    remaining(until).is_zero()
}
