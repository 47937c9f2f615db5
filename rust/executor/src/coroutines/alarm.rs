//! How a future sleeps: what rings it, and its timer.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::TaskRef;
use bide_core::record::RunRowId;
use bide_sched::Alarm;
use bide_sync::Mutex;
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

/// Gates between two polls, to be polled at once if somebody asks for it: by the run and the task. A task has several
/// if its gate is a combination.
#[derive(Default)]
pub(super) struct SleepingGates(Mutex<HashMap<Whose, Vec<Arc<Ring>>>>);

/// A run and one of its tasks.
type Whose = (RunRowId, TaskRef);

/// A sleeping gate, found until this is dropped.
pub(super) struct Found<'a> {
    gates: &'a SleepingGates,
    key: Whose,
    ring: Arc<Ring>,
}

impl SleepingGates {
    pub(super) fn add(&self, run: RunRowId, task: TaskRef, ring: &Arc<Ring>) -> Found<'_> {
        let (key, ring) = ((run, task), Arc::clone(ring));
        self.0.lock().entry(key).or_default().push(Arc::clone(&ring));
        Found { gates: self, key, ring }
    }

    /// Ends the sleeps of a task's gate.
    pub(super) fn ring(&self, run: RunRowId, task: TaskRef) {
        let rings = self.0.lock().get(&(run, task)).cloned().unwrap_or_default();
        rings.into_iter().for_each(|ring| ring.ring(0));
    }
}

impl Drop for Found<'_> {
    fn drop(&mut self) {
        let mut gates = self.gates.0.lock();
        if let Some(rings) = gates.get_mut(&self.key) {
            rings.retain(|ring| !Arc::ptr_eq(ring, &self.ring));
            if rings.is_empty() {
                gates.remove(&self.key);
            }
        }
    }
}
