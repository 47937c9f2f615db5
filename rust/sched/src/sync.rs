//! The synchronization primitives of the pool: locks, atomics and lock-free deques. The unit tests get loom's instead,
//! so that they can go through the interleavings.

#[cfg(not(test))]
pub(crate) use bide_sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(test)]
pub(crate) use bide_sync_loom::{Condvar, Mutex, MutexGuard, atomic};

#[cfg(test)]
pub(crate) use crate::models::deque::{Injector, Steal, Stealer, Worker as Deque};
#[cfg(not(test))]
pub(crate) use crossbeam_deque::{Injector, Steal, Stealer, Worker as Deque};
