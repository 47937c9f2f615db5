//! Creating runs, and attaching to the runs that a key names.

use std::sync::Arc;

use bide_core::longest::too_long_of_run;
use bide_core::record::{NewRun, RunRow};
use bide_core::{DefinitionError, Event, RunId, RunState, Value, pack};
use bide_store::{Creation, StoreError};

use crate::control::Control;
use crate::host::{Dispatch, Host};
use crate::ids::IdMaker;
use crate::ledger::{CommitPath, QueuedEvent};
use crate::runs::run::{BEGIN, Inputs, RegisteredWorkflow, Run, RunRequest, packed};
use crate::runs::settled::Settlement;
use crate::runs::watch::{Handle, Watch};

/// Why a run was not created.
#[derive(Debug)]
pub enum SubmitError {
    /// The engine is closed, or stopped.
    Stopped(Settlement),
    /// A key belongs to a run with other inputs; names the inputs that differ.
    OtherInputs {
        /// Which of the requested runs has the key, from 0.
        index: usize,
        /// The requested run before it that has the key too, if the key is used twice.
        earlier: Option<usize>,
        /// The run that has the key.
        run: RunId,
        /// The key.
        key: Arc<str>,
        /// The inputs that differ.
        inputs: Vec<Arc<str>>,
    },
    /// The run cannot be forked so.
    Refused(DefinitionError),
    /// The store refused.
    Store(StoreError),
}

/// Bodies are about to be ready, as long as this lives.
struct Coming<'a, H: Host>(&'a H::Dispatch);

impl<'a, H: Host> Coming<'a, H> {
    fn announce(dispatch: &'a H::Dispatch) -> Self {
        dispatch.coming();
        Self(dispatch)
    }
}

impl<H: Host> Drop for Coming<'_, H> {
    fn drop(&mut self) {
        self.0.came();
    }
}

/// Takes runs in.
pub(crate) struct Submitter<H: Host> {
    /// Whether runs may be created, and where they are kept from then on.
    pub(super) control: Arc<Control<H>>,
    /// Commits that they begin.
    pub(super) path: Arc<CommitPath<H>>,
    /// Makes their ids.
    pub(super) ids: Arc<IdMaker>,
    /// Where to wait for those that are executed elsewhere.
    pub(super) watch: Arc<Watch<H>>,
}

impl<H: Host> Submitter<H> {
    pub(crate) fn new(
        control: &Arc<Control<H>>,
        path: &Arc<CommitPath<H>>,
        ids: &Arc<IdMaker>,
        watch: &Arc<Watch<H>>,
    ) -> Self {
        Self { control: Arc::clone(control), path: Arc::clone(path), ids: Arc::clone(ids), watch: Arc::clone(watch) }
    }

    /// Creates runs in one commit, or attaches to those whose keys exist, and lets them begin. Blocks.
    ///
    /// # Errors
    /// None is created then; see [`SubmitError`]. (From the store also if the runs were created, but one that exists
    /// cannot be looked at.)
    pub(crate) fn submit(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        requests: impl IntoIterator<Item = RunRequest<H>>,
    ) -> Result<Vec<Handle<H>>, SubmitError> {
        if let Some(settlement) = self.control.stopped() {
            return Err(SubmitError::Stopped(settlement.clone()));
        }
        if self.control.is_closing() {
            return Err(SubmitError::Stopped(Settlement::Closed));
        }
        let workflow = &self.watch.recovery.current(workflow).map_err(SubmitError::Store)?;
        if self.control.is_client() {
            return self.submit_unowned(workflow, requests);
        }
        let Some((room, alone)) = self.control.sharing.room(&self.control.dispatch, workflow, self.control.runs.len())
        else {
            return self.submit_own(workflow, requests);
        };
        let requests: Vec<RunRequest<H>> = requests.into_iter().collect();
        // One that is to go before others does so here: what is left to others is claimed in order of age.
        let is_urgent = |request: &RunRequest<H>| request.options.as_ref().is_some_and(|it| it.priority > 0);
        if requests.len() <= room || (requests.len() == 1 && requests.iter().all(is_urgent)) {
            self.submit_own(workflow, requests)
        } else if requests.len() <= alone && !self.control.store().has_others() {
            let submitted = self.submit_own(workflow, requests);
            self.control.sharing.keeps();
            submitted
        } else {
            self.submit_unowned(workflow, requests)
        }
    }

    /// Creates runs that belong to this runner.
    fn submit_own(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        requests: impl IntoIterator<Item = RunRequest<H>>,
    ) -> Result<Vec<Handle<H>>, SubmitError> {
        let now = self.control.clock.now();
        let lease = self.control.lease();
        let state = |id| RunState::new(id, Arc::clone(&workflow.graph), Arc::clone(&workflow.ids));
        // First what stays, then what is needed only here: so that its memory, which may be that of a hundred thousand
        // rows, is behind everything else when it is returned.
        let mut runs: Vec<Arc<Run<H>>> = requests
            .into_iter()
            .map(|request| {
                let request = request.with_deadline(&workflow.graph, now);
                Arc::new(Run::new(workflow, lease, state(self.ids.next(now)), request, now))
            })
            .collect();
        let none: Arc<[u8]> = Arc::new([]);
        let packed = |inputs: &Inputs| if inputs.is_empty() { Arc::clone(&none) } else { packed(inputs) };
        let mut rows: Vec<NewRun> = runs
            .iter()
            .map(|run| {
                let new = NewRun::new(run.id, workflow.number, workflow.version, now);
                new.with_key(run.key.clone()).with_inputs(packed(&run.inputs)).with_options(run.options.clone())
            })
            .collect();
        self.check(&rows)?;
        let _coming = self.control.store().blocks().then(|| Coming::<H>::announce(&self.control.dispatch));
        let mut ready = Vec::new();
        let begins = runs.len() <= BEGIN;
        let creations = loop {
            let creations = self.path.ledger.create(&self.path, lease, &mut rows, &runs, begins, &mut ready);
            if matches!(creations, Err(StoreError::Fenced { .. })) && self.control.stopped().is_none() {
                // The lease was lost, not the requests.
                return self.leave(workflow, rows.into_iter().map(|row| (row, None)).collect());
            }
            let creations = creations.map_err(|error| {
                self.control.stopped().cloned().map_or(SubmitError::Store(error), SubmitError::Stopped)
            })?;
            if !creations.iter().any(Creation::prevents_all) {
                break creations;
            }
            for (index, creation) in creations.iter().enumerate() {
                match creation {
                    Creation::OtherInputs(existing) => return Err(other_inputs(&rows, index, existing)),
                    // Another process has taken the number in the same millisecond.
                    Creation::NumberTaken => rows[index].id = self.ids.next(self.control.clock.now()),
                    Creation::Created | Creation::Exists(_) => {}
                }
            }
            // None has been created, but their states have begun.
            runs = runs.into_iter().zip(&rows).map(|(run, row)| Run::renamed(run, state(row.id))).collect();
        };
        let mut begin = Vec::new();
        let mut made: Vec<Result<Arc<Run<H>>, Box<RunRow>>> = Vec::with_capacity(runs.len());
        for (run, creation) in runs.into_iter().zip(creations) {
            if let Creation::Exists(existing) = creation {
                made.push(Err(existing));
                continue;
            }
            if !begins {
                begin.push(QueuedEvent::new(Arc::clone(&run), Event::Begin, now));
                if begin.len() == BEGIN {
                    self.path.commit(&mut begin, &mut ready);
                }
            }
            made.push(Ok(run));
        }
        self.path.commit(&mut begin, &mut ready);
        self.control.dispatch_ready(&mut ready);
        // Adopted before this is asked, stopped before all are settled: one of the two sees the other.
        self.control.settle_late_comers();
        let existing: Vec<RunId> = made.iter().filter_map(|run| Some(run.as_ref().err()?.id)).collect();
        let mut existing = self.watch.handles(existing.into_iter()).map_err(SubmitError::Store)?.into_iter();
        Ok(made
            .into_iter()
            .filter_map(|run| run.map_or_else(|_| existing.next(), |run| Some(Handle::Live(run))))
            .collect())
    }
}

impl<H: Host> Submitter<H> {
    /// As [`Submitter::submit`], of runs that belong to nobody: a runner that has their workflow claims them.
    fn submit_unowned(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        requests: impl IntoIterator<Item = RunRequest<H>>,
    ) -> Result<Vec<Handle<H>>, SubmitError> {
        let now = self.control.clock.now();
        let new = |request: RunRequest<H>| {
            let request = request.with_deadline(&workflow.graph, now);
            let new = NewRun::new(self.ids.next(now), workflow.number, workflow.version, now);
            let new = new.with_key(request.key).with_inputs(packed(&request.inputs)).with_options(request.options);
            (new, Some(request.local))
        };
        self.leave(workflow, requests.into_iter().map(new).collect())
    }

    /// Creates runs for whichever runner claims them; each with what the host keeps with it, if that is known.
    fn leave(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        runs: Vec<(NewRun, Option<H::Local>)>,
    ) -> Result<Vec<Handle<H>>, SubmitError> {
        let now = self.control.clock.now();
        let workflow = self.watch.recovery.current(workflow).map_err(SubmitError::Store)?;
        let (mut rows, locals): (Vec<NewRun>, Vec<Option<H::Local>>) = runs.into_iter().unzip();
        self.check(&rows)?;
        for row in &mut rows {
            (row.workflow, row.version) = (workflow.number, workflow.version);
        }
        let mut runs = self.watch.upcoming(rows.iter().map(|row| row.id).zip(locals));
        let creations = loop {
            let creations = self.create_unowned(&rows).map_err(SubmitError::Store)?;
            if !creations.iter().any(Creation::prevents_all) {
                break creations;
            }
            for (index, creation) in creations.iter().enumerate() {
                match creation {
                    Creation::OtherInputs(existing) => return Err(other_inputs(&rows, index, existing)),
                    // Another process has taken the number in the same millisecond.
                    Creation::NumberTaken => {
                        rows[index].id = self.ids.next(now);
                        runs[index] = self.watch.renumbered(&runs[index], rows[index].id);
                    }
                    Creation::Created | Creation::Exists(_) => {}
                }
            }
        };
        let mut handles = self.watch.created(runs);
        let exists = |(at, creation): (usize, &Creation)| match creation {
            Creation::Exists(existing) => Some((at, existing.id)),
            _ => None,
        };
        let existing: Vec<(usize, RunId)> = creations.iter().enumerate().filter_map(exists).collect();
        let found = self.watch.handles(existing.iter().map(|(_, id)| *id)).map_err(SubmitError::Store)?;
        for ((at, _), handle) in existing.into_iter().zip(found) {
            handles[at] = handle;
        }
        Ok(handles)
    }

    /// Refuses runs with a key or tag that would fail the commit of all that is committed with them.
    fn check(&self, rows: &[NewRun]) -> Result<(), SubmitError> {
        let longest = self.control.longest_name;
        let why = longest.and_then(|_| rows.iter().find_map(|row| too_long_of_run(row, longest)));
        why.map_or(Ok(()), |why| Err(SubmitError::Refused(DefinitionError(why))))
    }

    fn create_unowned(&self, rows: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        let store = self.control.store();
        match store.create_unowned(rows) {
            // The same ids again show whether they were created.
            Err(StoreError::Unknown(why)) if !store.may_repeat() => {
                store.create_unowned(rows).map_err(|error| StoreError::Unknown(format!("{why}; then {error}")))
            }
            outcome => outcome,
        }
    }
}

/// Orders inputs by name.
pub(crate) fn ordered(mut inputs: Vec<(Arc<str>, Value)>) -> Inputs {
    inputs.sort_by(|(a, _), (b, _)| a.cmp(b));
    inputs.into()
}

/// Why a run is not created whose key names another one with other inputs.
fn other_inputs(rows: &[NewRun], index: usize, existing: &RunRow) -> SubmitError {
    let row = &rows[index];
    let (Ok(then), Ok(now)) = (pack::unpack(&existing.inputs), pack::unpack(&row.inputs)) else {
        let why = format!("the inputs of run {} do not read back", existing.id);
        return SubmitError::Store(StoreError::Corrupt(why));
    };
    let missing = |from: &[pack::Pair], other: &[pack::Pair]| -> Vec<Arc<str>> {
        from.iter().filter(|pair| !other.contains(pair)).map(|(name, _)| Arc::clone(name)).collect()
    };
    let mut inputs = missing(&then, &now);
    inputs.extend(missing(&now, &then));
    inputs.sort();
    inputs.dedup();
    SubmitError::OtherInputs {
        index,
        earlier: rows[..index].iter().position(|earlier| earlier.id == existing.id),
        run: existing.id,
        key: row.key.clone().unwrap_or_else(|| "".into()),
        inputs,
    }
}
