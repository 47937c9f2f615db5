//! Bodies that block a thread: the pool of worker threads, what a body may do there, its timeout, gates, and the sources of watches.

pub(crate) mod body;
pub(crate) mod gates;
pub(crate) mod limit;
pub(crate) mod pool;
mod sources;
mod work;
pub(crate) mod worker;
