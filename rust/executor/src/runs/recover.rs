//! Taking up unfinished runs that nobody executes: at the start, after a crash of another, after a lost lease.

use std::fmt;
use std::sync::Arc;

use bide_core::record::RunUpdate;
use bide_core::{BlockReason, DecodeError, Event, Failure, RunState, RunStatus, Write, recover};
use bide_store::{Lease, Standing, StoreError};

use crate::engine::{Engine, Level};
use crate::host::Host;
use crate::ledger::QueuedEvent;
use crate::runs::registry::RegisteredWorkflow;
use crate::runs::run::{Inputs, Run};
use crate::runs::submit::Wanted;

/// So many runs are claimed in one commit.
const CLAIM: usize = 256;

/// Why a run is not executed by a runner: its workflow is not registered there, or only in another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRegistered {
    /// The run's workflow and version, as messages show them.
    pub wanted: String,
    /// The version that is registered, as messages show it, if any is.
    pub have: Option<String>,
}

impl fmt::Display for NotRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not registered here", self.wanted)?;
        self.have.as_ref().map_or(Ok(()), |have| write!(f, " (have {have})"))
    }
}

impl<H: Host> Engine<H> {
    /// Takes up what nobody executes and what fits a registered workflow. Blocks. Costs what there is to take up, however
    /// many workflows are registered.
    pub(crate) fn take_up(self: &Arc<Self>) -> Result<(), StoreError> {
        let lease = *self.lease.read();
        match self.take_up_unowned() {
            Err(StoreError::Fenced { .. }) => {
                self.fenced(lease);
                self.take_up_unowned()
            }
            outcome => outcome,
        }
    }

    /// Takes up what nobody executes and what fits this workflow, which is registered by now.
    pub(crate) fn take_up_registered(
        self: &Arc<Self>,
        workflow: &Arc<RegisteredWorkflow<H>>,
    ) -> Result<(), StoreError> {
        let lease = *self.lease.read();
        match self.learn_versions(workflow).and_then(|versions| self.take_up_versions(workflow, &versions)) {
            Err(StoreError::Fenced { .. }) => {
                self.fenced(lease);
                self.take_up_unowned()
            }
            outcome => outcome,
        }
    }

    fn take_up_unowned(self: &Arc<Self>) -> Result<(), StoreError> {
        if self.is_closing() {
            return Ok(());
        }
        // Of no version: what dead runners had belongs to nobody from here on.
        self.store().claim(*self.lease.read(), &[], self.clock.lease_time(), 0)?;
        let unowned = self.store().unowned()?;
        for of_workflow in unowned.chunk_by(|(one, _), (other, _)| one == other) {
            let workflow = self.workflows.read().numbered(of_workflow[0].0).cloned();
            let Some(workflow) = workflow else { continue };
            let mut versions = Vec::with_capacity(of_workflow.len());
            for (_, version) in of_workflow {
                if self.fits(&workflow, *version)? {
                    versions.push(*version);
                }
            }
            if !versions.is_empty() {
                self.take_up_versions(&workflow, &versions)?;
            }
        }
        Ok(())
    }

    /// Whether runs of a recorded version can go on with this one.
    fn fits(&self, workflow: &RegisteredWorkflow<H>, version: i64) -> Result<bool, StoreError> {
        let known = workflow.fits.lock().get(&version).copied();
        match known {
            Some(fits) => Ok(fits),
            None => Ok(self.learn_versions(workflow)?.contains(&version)),
        }
    }

    /// The recorded versions whose runs can go on with this one.
    fn learn_versions(&self, workflow: &RegisteredWorkflow<H>) -> Result<Vec<i64>, StoreError> {
        let recorded = self.store().versions(workflow.number)?;
        let mut known = workflow.fits.lock();
        for stored in recorded {
            let fits = *stored.hash == *workflow.graph.version() || recover::fits(&workflow.graph, &stored.tasks);
            known.insert(stored.version, fits);
        }
        Ok(known.iter().filter(|(_, fits)| **fits).map(|(version, _)| *version).collect())
    }

    /// Takes up what nobody executes of these versions.
    fn take_up_versions(
        self: &Arc<Self>,
        workflow: &Arc<RegisteredWorkflow<H>>,
        versions: &[i64],
    ) -> Result<(), StoreError> {
        if self.is_closing() {
            return Ok(());
        }
        loop {
            let lease = *self.lease.read();
            let claimed = self.store().claim(lease, versions, self.clock.lease_time(), CLAIM);
            let claimed = claimed.inspect_err(|error| {
                if matches!(error, StoreError::Unknown(_)) {
                    self.owns_what_it_does_not_know(error);
                }
            })?;
            let more = claimed.len() == CLAIM;
            let mut begin = Vec::with_capacity(claimed.len());
            let mut outcome = Ok(());
            for id in claimed {
                match self.revive(workflow, lease, id) {
                    Ok(Some(run)) => {
                        begin.push(QueuedEvent { run, event: Event::Begin, at: self.clock.now(), completion: None });
                    }
                    Ok(None) => {}
                    // The others are claimed too: they must begin all the same.
                    Err(error) => outcome = Err(error),
                }
            }
            let mut ready = Vec::new();
            self.commit(&mut begin, &mut ready);
            self.dispatch_ready(&mut ready);
            self.settle_late_comers();
            outcome.inspect_err(|error| {
                // What does not read back nobody can execute.
                if !matches!(error, StoreError::Corrupt(_)) {
                    self.owns_what_it_does_not_know(error);
                }
            })?;
            if !more {
                return Ok(());
            }
        }
    }

    /// After a claim of unknown outcome, or one whose runs could not be loaded, this runner owns runs that it does not
    /// execute. While it lives nobody else will: so it stops.
    fn owns_what_it_does_not_know(self: &Arc<Self>, error: &StoreError) {
        self.break_down(error);
    }

    fn revive(
        self: &Arc<Self>,
        workflow: &Arc<RegisteredWorkflow<H>>,
        lease: Lease,
        id: bide_core::RunId,
    ) -> Result<Option<Arc<Run<H>>>, StoreError> {
        let Some(stored) = self.store().load(id)? else { return Ok(None) };
        let corrupt =
            |why: DecodeError| StoreError::Corrupt(format!("run {id} of '{}': {why}", workflow.graph.workflow()));
        let inputs: Inputs = stored.run.unpacked_inputs().map_err(corrupt)?.into();
        let version = (*stored.run.version != *workflow.graph.version()).then_some(workflow.version);
        let (key, created_at) = (stored.run.key.clone(), stored.run.created_at);
        let failure = stored.run.failure.clone();
        let state = match RunState::recover(&workflow.graph, &workflow.ids, version, stored) {
            Ok(state) => state,
            Err(why) => {
                let reason = corrupt(why).to_string();
                self.log(Level::Error, &reason);
                self.put_aside(lease, id, failure, reason)?;
                return Ok(None);
            }
        };
        let wanted = Wanted { inputs, key, local: H::Local::default() };
        let run = Arc::new(Run::new(workflow, lease, state, wanted, created_at));
        self.adopt(&run);
        Ok(Some(run))
    }

    /// Pauses a run that does not read back, so that whoever waits for it hears why.
    fn put_aside(
        &self,
        lease: Lease,
        id: bide_core::RunId,
        failure: Option<Failure>,
        reason: String,
    ) -> Result<(), StoreError> {
        let blocked_by = Some(BlockReason::Other(reason.into()));
        let update = RunUpdate { failure, blocked_by, ..RunUpdate::new(id.row(), RunStatus::Paused) };
        self.store().commit(lease, &mut vec![Write::Run(Box::new(update))]).map(|_committed| ())
    }

    /// From here on the run is executed by this engine.
    pub(crate) fn adopt(&self, run: &Arc<Run<H>>) {
        self.runs.lock().insert(run.id.row(), Arc::clone(run));
    }

    /// Why an unfinished run that no living runner has is not executed here. Blocks.
    #[must_use]
    pub fn why_not_here(&self, run: &Standing) -> Option<NotRegistered> {
        let alive = |runner| self.store().is_alive(runner, self.clock.lease_time()).unwrap_or(true);
        if run.status.is_ended() || run.runner.is_some_and(alive) {
            return None;
        }
        let (workflow, version) = (&*run.workflow, &*run.version);
        let wanted = bide_core::graph::title(workflow, version);
        match self.workflows.read().get(workflow) {
            None => Some(NotRegistered { wanted, have: None }),
            Some(workflow) if workflow.graph.version() == version => None,
            Some(workflow) => {
                let versions = self.store().versions(workflow.number).unwrap_or_default();
                let recorded = versions.iter().find(|stored| *stored.hash == *version);
                if recorded.is_some_and(|stored| recover::fits(&workflow.graph, &stored.tasks)) {
                    return None;
                }
                let have = bide_core::graph::short_version(workflow.graph.version());
                Some(NotRegistered { wanted, have: Some(have) })
            }
        }
    }
}
