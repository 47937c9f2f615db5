//! How a future sleeps: what rings it, and its timer.

use std::sync::Arc;

use bide_sched::Alarm;
use tokio::sync::Notify;

use super::rest::Asleep;
use crate::engine::Engine;
use crate::host::Host;
use crate::services::timers::Key;

/// Wakes a future.
pub(super) struct Ring {
    /// What the future waits for.
    rung: Notify,
    /// With a clock that is moved by hand: the sleep that a ring ends.
    asleep: Option<Asleep>,
}

impl Ring {
    pub(super) fn new(asleep: Option<Asleep>) -> Arc<Self> {
        Arc::new(Self { rung: Notify::new(), asleep })
    }

    /// Waits for a ring.
    pub(super) async fn rung(&self) {
        self.rung.notified().await;
    }

    /// What has rung was no reason to wake.
    pub(super) fn continue_sleep(&self) {
        if let Some(asleep) = &self.asleep {
            asleep.set(true);
        }
    }

    fn wake(&self) {
        if let Some(asleep) = &self.asleep {
            asleep.set(false);
        }
    }
}

impl Alarm for Ring {
    fn ring(self: Arc<Self>, _ticket: u64) {
        self.wake();
        self.rung.notify_one();
    }
}

/// A sleep, until it is over or abandoned: cancels its timer then.
pub(super) struct Sleeping<'a, H: Host> {
    /// Whose timer it is.
    pub(super) engine: &'a Engine<H>,
    /// The timer, if there is one.
    pub(super) timer: Option<Key>,
    /// What rings it. Others may keep it for longer.
    pub(super) ring: Arc<Ring>,
}

impl<H: Host> Drop for Sleeping<'_, H> {
    fn drop(&mut self) {
        self.ring.wake();
        if let Some(key) = self.timer.take() {
            self.engine.timers().cancel(key);
        }
    }
}
