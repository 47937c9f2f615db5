//! Whether the end of a body is committed, for a host that wants to know.

use std::sync::atomic::AtomicBool;

/// The commit of a body's end.
#[derive(Default)]
pub(in crate::coroutines) struct Recorded {
    /// The host waits for it. Set by the body, before its end.
    pub(in crate::coroutines) wanted: AtomicBool,
    /// It was made. Set before what the host waits for is done.
    pub(in crate::coroutines) done: AtomicBool,
}
