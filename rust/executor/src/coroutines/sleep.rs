//! What ends the sleep of a future: an alarm, and a timer that is cancelled with it.

use std::sync::Arc;

use bide_sched::Alarm;
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::host::Host;
use crate::services::timers::Key;

/// Wakes a future.
pub(super) struct Ring(pub(super) Arc<Notify>);

impl Alarm for Ring {
    fn ring(self: Arc<Self>, _ticket: u64) {
        self.0.notify_one();
    }
}

/// Cancels a timer when the sleep is over or abandoned.
pub(super) struct CancelTimer<'a, H: Host>(pub(super) &'a Engine<H>, pub(super) Option<Key>);

impl<H: Host> Drop for CancelTimer<'_, H> {
    fn drop(&mut self) {
        if let Some(key) = self.1.take() {
            self.0.timers().cancel(key);
        }
    }
}
