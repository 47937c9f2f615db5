//! The slot hand-off, the wake rule and the pacing of polls under every interleaving of a few threads, by loom.
//!
//! What runs here is the pool itself, compiled over loom's locks and atomics (see `sync.rs`): its worker loop, and a
//! body's way through a wait. Stand-ins are the deques ([`deque`]) and the engine above ([`engine`]), whose bodies say
//! what a model is about.
//!
//! The queue of leaders and followers has a model of its own, and so have a wait that another thread closes
//! ([`closed`]) and those who wait for what others commit ([`bell`]).
//!
//! Not here: the committer's sleep, the timer thread's order, async lanes.

mod bell;
mod closed;
pub(crate) mod deque;
mod engine;
mod hand_off;
mod leader;
mod polls;
