//! What callers ask of schedules: the scheduler's own answers. All of these block.

use std::sync::Arc;

use bide_core::Time;
use bide_store::StoreError;

use crate::engine::Engine;
use crate::host::Host;
use crate::runs::run::RegisteredWorkflow;
use crate::runs::schedules::{ScheduleError, ScheduleRequest, ScheduleView, StartedRun};

impl<H: Host> Engine<H> {
    /// Defines a schedule of a workflow, or changes it.
    ///
    /// # Errors
    /// See [`ScheduleError`]; then nothing has changed.
    pub fn schedule(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        request: &ScheduleRequest,
    ) -> Result<ScheduleView, ScheduleError> {
        let view = self.scheduler.define(workflow, request)?;
        self.has_changed()?;
        Ok(view)
    }

    /// All schedules of the store, by name.
    ///
    /// # Errors
    /// From the store.
    pub fn schedules(&self) -> Result<Vec<ScheduleView>, StoreError> {
        self.scheduler.list()
    }

    /// Pauses a schedule: it has no ticks until it is resumed.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub fn pause_schedule(&self, name: &str) -> Result<(), ScheduleError> {
        self.scheduler.pause(name)?;
        self.has_changed()
    }

    /// Resumes a paused schedule, with the first tick from now on.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub fn resume_schedule(&self, name: &str) -> Result<(), ScheduleError> {
        self.scheduler.resume(name)?;
        self.has_changed()
    }

    /// Removes a schedule. Its runs stay.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub fn unschedule(&self, name: &str) -> Result<(), ScheduleError> {
        self.scheduler.remove(name)?;
        self.has_changed()
    }

    /// Starts a run of a schedule now, also if it is paused or another run has not ended.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub fn trigger(&self, name: &str) -> Result<StartedRun, ScheduleError> {
        self.scheduler.trigger(name)
    }

    /// Starts a run for each tick from one moment to another, both included, that has none yet; at most `most`. Returns
    /// the runs of all these ticks.
    ///
    /// # Errors
    /// See [`ScheduleError`]; some of the runs may have been started.
    pub fn backfill(
        &self,
        name: &str,
        since: Time,
        until: Time,
        most: usize,
    ) -> Result<Vec<StartedRun>, ScheduleError> {
        self.scheduler.backfill(name, since, until, most)
    }

    /// The thread that serves schedules hears of a change at once: clocks that are moved by hand may be moved next.
    fn has_changed(&self) -> Result<(), ScheduleError> {
        if !self.is_client() {
            self.schedules_service.read()?;
        }
        Ok(())
    }

    /// See [`crate::services::schedules::SchedulesService::rest`].
    pub(crate) fn schedules_rest(&self) -> Option<u64> {
        self.schedules_service.rest()
    }
}
