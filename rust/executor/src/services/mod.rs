//! Background services: each has one file, a loop on a thread of its own, and a stop that may be called twice.

pub(crate) mod lease;
pub(crate) mod retention;
pub(crate) mod timers;
