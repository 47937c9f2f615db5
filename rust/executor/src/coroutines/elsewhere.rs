//! What a body needs whose work is done elsewhere: to be woken by its end, and to tell whoever has done it that the result
//! is committed.

use std::sync::atomic::Ordering;

use super::body::CoroutineBody;
use crate::host::Host;

impl<H: Host> CoroutineBody<H> {
    /// Ends the sleep of a wait: its condition is asked at once.
    pub fn wake(&self) {
        self.run().ring(self.task());
    }

    /// Has the end of the body committed before its slot is released, and [`CoroutineBody::is_recorded`] say so.
    pub fn wants_record(&self) {
        self.recorded.wanted.store(true, Ordering::Relaxed);
    }

    /// Whether the end of the body is committed, if that was wanted.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.recorded.done.load(Ordering::Acquire)
    }
}
