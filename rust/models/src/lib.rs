//! The slot hand-off and the wake rule under every interleaving of a few threads, by loom.
//!
//! What is checked is not a copy: the executor's `pool.rs` with all that is below it, `slots.rs`, `pacer.rs` and
//! `bide-sync` are compiled here a second time, with `cfg(loom)` (see `build.rs`), over loom's locks and atomics.
//! Stand-ins are only what they are built on: the deques ([`deque`]), and an engine with nothing to say
//! ([`surroundings`]). A worker's loop is told again in [`play`], less what it does with bodies.
//!
//! Not here: the committer's sleep, timers, async lanes.

#![forbid(unsafe_code)]
#![cfg(test)]
#![expect(unreachable_pub, dead_code, unused_imports, reason = "the included sources are public and used elsewhere")]

// The included sources name these crates; here they are modules of this one.
extern crate self as bide_sync;
extern crate self as crossbeam_deque;

#[path = "../../executor/src/counts.rs"]
mod counts;
mod deque;
#[path = "../../executor/src/pacer.rs"]
mod pacer;
mod play;
#[path = "../../executor/src/pool.rs"]
mod pool;
#[path = "../../executor/src/slots.rs"]
mod slots;
mod surroundings;
#[path = "../../sync/src/lib.rs"]
mod sync;

mod hand_off;
mod polls;

pub(crate) use deque::{Injector, Steal, Stealer, Worker};
pub(crate) use surroundings::{commit, engine, flow, gates, host, spin, timers};
pub(crate) use sync::{Condvar, Mutex, atomic};
