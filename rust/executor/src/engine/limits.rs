//! What is asked of an engine's limits, and the start of their service.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bide_core::{Outcome, TaskRef};
use bide_store::{LimitInfo, StoreError};

use crate::engine::Engine;
use crate::host::{Host, Ready};
use crate::limits::Limiter;
use crate::runs::run::Run;
use crate::services::limits::LimitService;
use crate::slot_queue::SlotQueue;

impl<H: Host> Engine<H> {
    /// All limits of the store, by name. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub fn limits(&self) -> Result<Vec<LimitInfo>, StoreError> {
        self.store().limits(self.now())
    }

    /// What limits hold back.
    #[inline]
    pub(crate) fn limiter(&self) -> &Limiter<H> {
        &self.control.limits
    }

    /// A body has ended that has recorded nothing, and the caller is about to have its end committed. Returns the one that
    /// may start because of it.
    #[inline]
    pub(crate) fn passes_on(&self, run: &Run<H>, task: TaskRef, attempt: u32, outcome: &Outcome) -> Option<Ready<H>> {
        self.control.limits.passes_on(run, task, attempt, outcome)
    }

    /// The bodies that wait for a slot to continue.
    pub(crate) fn slot_queue(&self) -> &SlotQueue {
        &self.control.slot_queue
    }

    /// Starts the service of limits with the first one.
    pub(super) fn serve_limits(&self) -> Result<(), StoreError> {
        if self.control.limits.is_active() && !self.limits_started.swap(true, Ordering::Relaxed) {
            let (control, timers) = (Arc::clone(&self.control), Arc::clone(&self.timers));
            self.start_service(Arc::new(LimitService { control, timers }))?;
        }
        Ok(())
    }
}
