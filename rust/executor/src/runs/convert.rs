//! Runs of another version of a registered workflow: those that fit are converted to that, others a person may adopt.

use std::sync::Arc;

use bide_core::fit::{self, Fit};
use bide_core::record::StoredRun;
use bide_core::{Ask, Control as Asked, RunId, RunStatus};
use bide_store::{Conversion, Converted, StoreError};

use crate::host::Host;
use crate::runs::recover::Recovery;
use crate::runs::run::RegisteredWorkflow;

/// Why a run was not adopted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdopted {
    /// There is no such run.
    NoRun,
    /// It has completed.
    Completed,
    /// A runner executes it.
    Executed,
    /// The workflow does not have these of its tasks, which have not ended, or has them in another form.
    Unfinished(Vec<Arc<str>>),
    /// A run of the workflow has its key.
    KeyTaken,
}

/// What changes of a run that is to continue with this workflow.
fn conversion<H: Host>(workflow: &RegisteredWorkflow<H>, stored: &StoredRun) -> Conversion {
    Conversion {
        from: Arc::clone(&stored.run.version),
        workflow: workflow.number,
        version: workflow.version,
        tasks: fit::moves(&workflow.graph, &workflow.ids, &stored.tasks),
        told: None,
    }
}

impl<H: Host> Recovery<H> {
    /// Converts the runs of a version, of which only some fit this workflow, that have no owner. Whether there were any.
    pub(super) fn convert_runs(&self, workflow: &RegisteredWorkflow<H>, version: i64) -> Result<bool, StoreError> {
        let store = self.control.store();
        let mut any = false;
        for id in store.unowned_of(version)? {
            if let Some(stored) = store.load(id)?
                && fit::of_run(&workflow.graph, &stored).is_none()
            {
                // If it is not free, this may be the answer to a call that was repeated after a lost connection.
                any |= store.convert(id, &conversion(workflow, &stored))? != Converted::KeyTaken;
            }
        }
        Ok(any)
    }

    /// As [`Recovery::convert_runs`], of all versions of which some runs fit, dead runners' included.
    pub(super) fn convert_registered(&self, workflow: &RegisteredWorkflow<H>) -> Result<(), StoreError> {
        let fits: Vec<(i64, Fit)> = workflow.fits.lock().iter().map(|(version, fit)| (*version, *fit)).collect();
        let some: Vec<i64> =
            fits.into_iter().filter(|(_, fit)| *fit == Fit::Some).map(|(version, _)| version).collect();
        if some.is_empty() || self.control.is_closing() {
            return Ok(());
        }
        // Of no version: this only releases the runs of dead runners.
        self.control.store().claim(self.control.lease(), &[], self.control.clock.lease_time(), 0)?;
        some.into_iter().try_for_each(|version| self.convert_runs(workflow, version).map(drop))
    }

    /// Has a run that nobody executes continue with this workflow, because a person vouches for the fit. Blocks.
    ///
    /// # Errors
    /// From the store. The inner one: why it was not adopted.
    pub(crate) fn adopt(
        &self,
        id: RunId,
        workflow: &RegisteredWorkflow<H>,
        by: Option<Arc<str>>,
        reason: Option<Arc<str>>,
        number: i64,
    ) -> Result<Result<(), NotAdopted>, StoreError> {
        let store = self.control.store();
        store.claim(self.control.lease(), &[], self.control.clock.lease_time(), 0)?;
        let Some(stored) = store.load(id)? else { return Ok(Err(NotAdopted::NoRun)) };
        let (run, graph) = (&stored.run, &workflow.graph);
        if *run.version == *graph.version() && *run.workflow == **graph.workflow() {
            // It fits already: registering the workflow may just have converted it.
            return Ok(Ok(()));
        }
        if run.status == RunStatus::Completed {
            return Ok(Err(NotAdopted::Completed));
        }
        if run.runner.is_some() {
            return Ok(Err(NotAdopted::Executed));
        }
        let unfinished = fit::unfinished(graph, &stored);
        if !unfinished.is_empty() {
            return Ok(Err(NotAdopted::Unfinished(unfinished)));
        }
        let told = Asked { ask: Ask::Adopt, by, reason }.told(number, self.control.clock.now());
        let converted = store.convert(id, &Conversion { told: Some(told), ..conversion(workflow, &stored) })?;
        match converted {
            Converted::Done => self.recover().map(Ok),
            // The answer to a call that was repeated after a lost connection, or somebody was faster.
            Converted::NotFree if store.load(id)?.is_some_and(|now| *now.run.version == *graph.version()) => {
                self.recover().map(Ok)
            }
            Converted::NotFree => Ok(Err(NotAdopted::Executed)),
            Converted::KeyTaken => Ok(Err(NotAdopted::KeyTaken)),
        }
    }
}
