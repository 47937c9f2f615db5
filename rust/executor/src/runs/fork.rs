//! Forking runs: a new one begins with the outcomes of another. What it keeps: `bide_core`'s `run/fork.rs`.

use std::sync::Arc;

use bide_core::record::{Batch, NewRun, StoredRun};
use bide_core::{Ask, Control, DefinitionError, Event, Fork, Forked, RunId, RunOptions, RunState};
use bide_store::{Commit, CommitId, Creation, StoreError};

use crate::host::Host;
use crate::runs::run::{Inputs, RegisteredWorkflow, Run, RunRequest, packed};
use crate::runs::settled::Settlement;
use crate::runs::submit::{SubmitError, Submitter};
use crate::runs::watch::Handle;

/// A fork that a caller asks for.
pub struct ForkRequest<H: Host> {
    /// The run from which it is forked.
    pub from: RunId,
    /// How the new one differs.
    pub fork: Fork,
    /// Its inputs, in order of name; `None`: those of the other run.
    pub inputs: Option<Inputs>,
    /// Who asks, if they say.
    pub by: Option<Arc<str>>,
    /// Why, if they say.
    pub reason: Option<Arc<str>>,
    /// What the host keeps with the new run.
    pub local: H::Local,
}

impl<H: Host> ForkRequest<H> {
    /// What the histories of both runs tell.
    fn told(&self, new: RunId, number: &mut dyn FnMut() -> i64, now: bide_core::Time) -> Forked {
        let task: Arc<str> = self.fork.start_at.join(", ").into();
        let mut tell = |ask| Control { ask, by: self.by.clone(), reason: self.reason.clone() }.told(number(), now);
        let from = tell(Ask::ForkedFrom { run: self.from, task: Arc::clone(&task) });
        let edited = self.fork.edit.iter().map(|(name, _)| Ask::Edited { task: Arc::clone(name) });
        let here = std::iter::once(from).chain(edited.map(&mut tell)).collect();
        Forked { from: self.from.row(), there: tell(Ask::ForkedTo { run: new, task }), here }
    }
}

impl<H: Host> Submitter<H> {
    /// Forks a run: creates the new one with all that it keeps, in one commit, and lets it begin. Blocks.
    ///
    /// # Errors
    /// There is no new run then; see [`SubmitError`].
    pub(crate) fn fork(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        mut request: ForkRequest<H>,
    ) -> Result<Handle<H>, SubmitError> {
        if let Some(settlement) = self.control.stopped() {
            return Err(SubmitError::Stopped(settlement.clone()));
        }
        if self.control.is_closing() {
            return Err(SubmitError::Stopped(Settlement::Closed));
        }
        let from = request.from;
        let source = self.control.store().load(from).map_err(SubmitError::Store)?;
        let gone = || SubmitError::Refused(DefinitionError(format!("run {from} is not in the store any more")));
        let source = source.ok_or_else(gone)?;
        let corrupt = |why| SubmitError::Store(StoreError::Corrupt(format!("run {from}: {why}")));
        let inputs = match request.inputs.take() {
            Some(inputs) => inputs,
            None => source.run.unpacked_inputs().map_err(corrupt)?.into(),
        };
        if self.control.is_client() {
            return self.fork_unowned(workflow, &source, &request, inputs);
        }
        let (tags, priority) = (source.run.options.tags.clone(), source.run.options.priority);
        let local = std::mem::take(&mut request.local);
        let mut new = Some(RunRequest::<H>::new(inputs).with_local(local));
        let lease = self.control.lease();
        loop {
            let now = self.control.clock.now();
            let id = self.ids.next(now);
            let state = RunState::forked(id, &workflow.graph, &workflow.ids, &source, &request.fork, now);
            let mut state = state.map_err(corrupt)?.map_err(SubmitError::Refused)?;
            state.tell_fork(request.told(id, &mut || self.ids.message(), now));
            let Some(run) = new.take() else { return Err(SubmitError::Stopped(Settlement::Closed)) };
            let options = RunOptions { tags: tags.clone(), priority, ..RunOptions::default() };
            let run = run.with_options(options).with_deadline(&workflow.graph, now);
            let run = Arc::new(Run::new(workflow, lease, state, run, now));
            let row = NewRun::new(id, workflow.number, workflow.version, now).with_inputs(packed(&run.inputs));
            let mut rows = vec![row.with_options(run.options.clone())];
            let mut ready = Vec::new();
            let runs = std::slice::from_ref(&run);
            let created = self.path.ledger.create(&self.path, lease, &mut rows, runs, true, &mut ready);
            let created = created.map_err(|error| {
                self.control.stopped().cloned().map_or(SubmitError::Store(error), SubmitError::Stopped)
            })?;
            if created == [Creation::Created] {
                self.control.dispatch_ready(&mut ready);
                self.control.settle_late_comers();
                return Ok(Handle::Live(run));
            }
            // Another process has taken the number in the same millisecond.
            new = Arc::into_inner(run).map(|run| RunRequest::<H>::new(run.inputs).with_local(run.local));
        }
    }

    /// As [`Submitter::fork`], of a client: the new run belongs to nobody, and a runner that has its workflow claims it.
    /// The client has a lease for the one commit, in which the run begins as it would in a runner that ends then.
    fn fork_unowned(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        source: &StoredRun,
        request: &ForkRequest<H>,
        inputs: Inputs,
    ) -> Result<Handle<H>, SubmitError> {
        let corrupt = |why| SubmitError::Store(StoreError::Corrupt(format!("run {}: {why}", request.from)));
        let store = self.control.store();
        let options = RunOptions {
            tags: source.run.options.tags.clone(),
            priority: source.run.options.priority,
            ..RunOptions::default()
        };
        let now = self.control.clock.now();
        let new = RunRequest::<H>::new(inputs).with_options(options).with_deadline(&workflow.graph, now);
        let begin = |lease| -> Result<RunId, SubmitError> {
            loop {
                let id = self.ids.next(now);
                let state = RunState::forked(id, &workflow.graph, &workflow.ids, source, &request.fork, now);
                let mut state = state.map_err(corrupt)?.map_err(SubmitError::Refused)?;
                state.tell_fork(request.told(id, &mut || self.ids.message(), now));
                let (mut batch, mut effects) = (Batch::new(), Vec::new());
                // A new run refuses nothing.
                let _ = state.apply(Event::Begin, now, &mut batch, &mut effects);
                let row = NewRun::new(id, workflow.number, workflow.version, now).with_inputs(packed(&new.inputs));
                let rows = [row.with_options(new.options.clone())];
                let written = store
                    .write(lease, &mut Commit::new(CommitId::unique(), &[&rows], &mut batch))
                    .map_err(SubmitError::Store)?;
                // Else another process has taken the number in the same millisecond.
                if written.creations == [[Creation::Created]] {
                    return Ok(id);
                }
            }
        };
        let lease = store.enroll(self.control.clock.lease_time()).map_err(SubmitError::Store)?;
        let forked = begin(lease);
        let left = store.leave(lease);
        let id = forked?;
        left.map_err(SubmitError::Store)?;
        self.watch.handle(id).map_err(SubmitError::Store)
    }
}
