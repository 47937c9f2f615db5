//! Scheduling of bodies: slots, pacing, parking and work queues; and the queue in which one thread leads for others.
//!
//! A [`Pool`] of worker threads executes jobs of an engine that it knows by the [`Upcalls`] trait alone: it has no
//! store, no runs and no log of its own. The decisions (which body gets a slot, whose poll it is) are made by [`Slots`]
//! and [`Pacer`], machines without threads that other dispatchers and simulators use too.
//!
//! The unit tests of this crate are compiled over loom's locks and atomics, and explore the interleavings of the pool's
//! own code (`models/`).

#![forbid(unsafe_code)]

pub mod bell;
pub mod counts;
pub mod leader;
pub mod pacer;
mod pool;
mod queue;
pub mod slots;
pub mod spin;
mod sync;
mod upcalls;

#[cfg(test)]
mod models;

pub use pacer::Pacer;
pub use pool::{
    Parker, Permit, PollNo, Pool, RETRY_THREAD_AFTER, RestMark, StartWorker, Woken, WorkerThread, be_punctual,
};
pub use queue::Queue;
pub use slots::{HandOff, SlotNo, Slots};
pub use upcalls::{Alarm, Upcalls};
