//! Recovering the unfinished runs of registered workflows that no runner executes: at the start, after a crash of another
//! runner, after a lost lease. Workflows are registered by `registering.rs`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bide_core::event::Timer;
use bide_core::fit::{self, Fit};
use bide_core::record::{RunUpdate, StoredRun};
use bide_core::{BlockReason, DecodeError, Event, Failure, RunId, RunState, RunStatus, TaskRef};
use bide_store::{CommitId, Lease, Standing, StoreError, UnownedRuns};
use bide_sync::{Mutex, RwLock};

use crate::control::Control;
use crate::host::Host;
use crate::ledger::{CommitPath, QueuedEvent};
use crate::log::Level;
use crate::runs::children::Children;
use crate::runs::not_registered::NotRegistered;
use crate::runs::registry::RegisteredWorkflows;
use crate::runs::run::{Inputs, ParentRun, RegisteredWorkflow, Run, RunRequest};

/// How many runs are claimed in one commit.
const CLAIM: usize = 256;

/// How many of them are loaded in one call of the store: their rows are in memory together.
const LOAD: usize = 32;

/// Recovers runs of registered workflows.
pub(crate) struct Recovery<H: Host> {
    /// The store and the lease under which runs are claimed, and where they are kept from then on.
    pub(super) control: Arc<Control<H>>,
    /// Commits that they begin again.
    pub(super) path: Arc<CommitPath<H>>,
    /// Finds the ends of their children.
    children: Arc<Children<H>>,
    /// What may be recovered.
    pub(super) workflows: RwLock<RegisteredWorkflows<H>>,
    /// How often the store had lost commits when they were registered.
    pub(super) history: AtomicU64,
    /// Held by a thread that registers some of them.
    pub(super) registering: Mutex<()>,
}

impl<H: Host> Recovery<H> {
    pub(crate) fn new(control: &Arc<Control<H>>, path: &Arc<CommitPath<H>>, children: &Arc<Children<H>>) -> Arc<Self> {
        let (control, path, children) = (Arc::clone(control), Arc::clone(path), Arc::clone(children));
        let history = AtomicU64::new(control.store().history());
        let (workflows, registering) = (RwLock::default(), Mutex::default());
        Arc::new(Self { control, path, children, workflows, history, registering })
    }

    /// The workflow registered under this name.
    pub(crate) fn workflow(&self, name: &str) -> Option<Arc<RegisteredWorkflow<H>>> {
        self.workflows.read().get(name).cloned()
    }

    /// Recovers the runs without an owner that fit a registered workflow. Blocks. The cost depends on the number of
    /// such runs, not on the number of workflows.
    pub(crate) fn recover(&self) -> Result<(), StoreError> {
        if self.control.is_client() {
            return Ok(());
        }
        self.or_anew(|| self.recover_unowned())
    }

    /// Recovers the runs without an owner that fit this workflow, which is registered by now.
    pub(crate) fn recover_registered(&self, workflow: &Arc<RegisteredWorkflow<H>>) -> Result<(), StoreError> {
        self.or_anew(|| {
            let versions = self.learn_versions(workflow)?;
            self.convert_registered(workflow)?;
            self.recover_versions(workflow, &versions)
        })
    }

    /// Claims runs that were left in the store for lack of room, as far as there is room now. Blocks.
    pub(crate) fn recover_left(&self) -> Result<(), StoreError> {
        self.or_anew(|| {
            self.keep_registered()?;
            for (number, versions) in self.control.sharing.left() {
                let Some(workflow) = self.workflows.read().numbered(number).cloned() else { continue };
                self.recover_versions(&workflow, &versions)?;
            }
            Ok(())
        })
    }

    /// Claims runs. If the lease is found to be lost, all are recovered under another one.
    fn or_anew(&self, claim: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let lease = self.control.lease();
        match claim() {
            Err(StoreError::Fenced { .. }) => {
                self.control.fenced(lease);
                self.recover_unowned()
            }
            outcome => outcome,
        }
    }

    fn recover_unowned(&self) -> Result<(), StoreError> {
        if self.control.is_closing() {
            return Ok(());
        }
        // Of no version: this only releases the runs of dead runners.
        self.control.store().claim(self.control.lease(), &[], self.control.clock.lease_time(), 0)?;
        // Then the lease is of the store as it is now: so are the numbers by which runs are claimed.
        self.keep_registered()?;
        let unowned = self.control.store().unowned()?;
        for of_workflow in unowned.chunk_by(|(one, _), (other, _)| one == other) {
            let workflow = self.workflows.read().numbered(of_workflow[0].0).cloned();
            let Some(workflow) = workflow else { continue };
            let mut versions = Vec::with_capacity(of_workflow.len());
            for (_, version) in of_workflow {
                match self.fit(&workflow, *version)? {
                    Fit::Every => versions.push(*version),
                    // Converted ones have this version then.
                    Fit::Some if self.convert_runs(&workflow, *version)? => versions.push(workflow.version),
                    Fit::Some | Fit::None => {}
                }
            }
            versions.sort_unstable();
            versions.dedup();
            if !versions.is_empty() {
                self.recover_versions(&workflow, &versions)?;
            }
        }
        Ok(())
    }

    /// Whether runs of a recorded version can continue with this one.
    fn fit(&self, workflow: &RegisteredWorkflow<H>, version: i64) -> Result<Fit, StoreError> {
        let known = workflow.fits.lock().get(&version).copied();
        match known {
            Some(fit) => Ok(fit),
            None => {
                self.learn_versions(workflow)?;
                Ok(workflow.fits.lock().get(&version).copied().unwrap_or(Fit::None))
            }
        }
    }

    /// Learns which recorded versions have runs that can continue with this one. Returns those of which every run can.
    fn learn_versions(&self, workflow: &RegisteredWorkflow<H>) -> Result<Vec<i64>, StoreError> {
        let recorded = self.control.store().versions(workflow.number)?;
        let mut known = workflow.fits.lock();
        for stored in recorded {
            let same = *stored.hash == *workflow.graph.version();
            let fit = if same { Fit::Every } else { fit::of_version(&workflow.graph, &stored.tasks) };
            known.insert(stored.version, fit);
        }
        Ok(known.iter().filter(|(_, fit)| **fit == Fit::Every).map(|(version, _)| *version).collect())
    }

    /// Recovers the runs of these versions that have no owner.
    fn recover_versions(&self, workflow: &Arc<RegisteredWorkflow<H>>, versions: &[i64]) -> Result<(), StoreError> {
        if self.control.is_closing() {
            return Ok(());
        }
        loop {
            let (lease, began) = (self.control.lease(), self.control.clock.machine());
            let claim = self.control.sharing.next_claim(&self.control.dispatch, workflow, began);
            let room = claim.as_ref().map_or(CLAIM, |claim| claim.room);
            if room == 0 {
                self.control.sharing.left_some(workflow, versions);
                return Ok(());
            }
            // Held already: what comes to a run after it was read with the claim reaches it in memory.
            let adopting = self.control.runs.adopting.read();
            let (id, now) = (CommitId::unique(), self.control.clock.lease_time());
            let claimed = self.control.store().claim_reading(id, lease, versions, now, room);
            let mut begin = Vec::with_capacity(claimed.as_ref().map_or(0, |claimed| claimed.runs.len()));
            let mut outcome = Ok(());
            let mut begins = |loaded: Result<Option<Arc<Run<H>>>, StoreError>| match loaded {
                Ok(Some(run)) => begin.push(QueuedEvent::new(run, Event::Begin, self.control.clock.now())),
                Ok(None) => {}
                // The others are claimed too: they must begin in any case.
                Err(error) => outcome = Err(error),
            };
            let claimed = claimed.map(|mut claimed| {
                let new: HashSet<RunId> = claimed.new.iter().map(|stored| stored.run.id).collect();
                let count = claimed.runs.len();
                claimed.new.into_iter().for_each(|stored| begins(self.adopt_stored(workflow, lease, stored, true)));
                claimed.runs.retain(|run| !new.contains(run));
                (count, claimed.runs)
            });
            drop(adopting);
            let (count, claimed) = claimed.inspect_err(|error| {
                // This runner may now own runs that it does not execute, and while it lives no other will: so it stops.
                if matches!(error, StoreError::Unknown(_)) {
                    self.control.break_down(error);
                }
            })?;
            let more = count == room;
            for some in claimed.chunks(LOAD) {
                if !self.load_together(workflow, lease, some, &mut begins) {
                    some.iter().for_each(|id| begins(self.load(workflow, lease, *id)));
                }
            }
            let parents: Vec<Arc<Run<H>>> = begin.iter().map(|begin| Arc::clone(&begin.run)).collect();
            self.path.commit_now(&mut begin);
            if let Some(claim) = claim {
                self.control.sharing.claimed(claim, count, workflow, versions, self.control.clock.machine());
            }
            self.control.settle_late_comers();
            let outcome = outcome.and(self.children.watch(&parents)).and(self.enter_for_children(&parents));
            outcome.inspect_err(|error| {
                // Likewise for claimed runs that could not be loaded; a corrupt one could not be executed by others
                // either.
                if !matches!(error, StoreError::Corrupt(_)) {
                    self.control.break_down(error);
                }
            })?;
            // A runner that closes or has stopped leaves the others to those that can execute them.
            if !more || self.control.is_closing() {
                return Ok(());
            }
        }
    }

    /// Enters the recovered bodies that wait for children which no runner executes because their workflows are not
    /// registered: the bodies register them when they come to the starts of the children.
    pub(crate) fn enter_for_children(&self, parents: &[Arc<Run<H>>]) -> Result<(), StoreError> {
        let (at, mut items) = (self.control.clock.now(), Vec::new());
        for parent in parents {
            let sleeping = parent.state.lock().entered_by_children();
            for (task, attempt, children) in sleeping {
                if self.any_is_stranded(&children)? {
                    let event = Event::Due { task, attempt, timer: Timer::Reenter };
                    items.push(QueuedEvent::new(Arc::clone(parent), event, at));
                }
            }
        }
        self.path.commit_now(&mut items);
        Ok(())
    }

    /// As [`Recovery::enter_for_children`], of all recovered runs whose children are not executed here.
    pub(crate) fn enter_for_stranded(&self) -> Result<(), StoreError> {
        self.enter_for_children(&self.children.parents())
    }

    fn any_is_stranded(&self, children: &[RunId]) -> Result<bool, StoreError> {
        for child in children.iter().filter(|child| !self.control.runs.has(child.row())) {
            if let Some(standing) = self.control.store().standing(*child)?
                && self.why_not_here(*child, &standing).is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn load(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        lease: Lease,
        id: RunId,
    ) -> Result<Option<Arc<Run<H>>>, StoreError> {
        let _adopting = self.control.runs.adopting.read();
        let Some(stored) = self.control.store().load(id)? else { return Ok(None) };
        self.adopt_stored(workflow, lease, stored, false)
    }

    /// Loads several runs in one call of the store. False if that failed: then one of them may be the reason.
    fn load_together(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        lease: Lease,
        ids: &[RunId],
        mut each: impl FnMut(Result<Option<Arc<Run<H>>>, StoreError>),
    ) -> bool {
        let _adopting = self.control.runs.adopting.read();
        let Ok(stored) = self.control.store().load_many(ids) else { return false };
        stored.into_iter().for_each(|stored| each(self.adopt_stored(workflow, lease, stored, false)));
        true
    }

    fn adopt_stored(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        lease: Lease,
        mut stored: StoredRun,
        is_new: bool,
    ) -> Result<Option<Arc<Run<H>>>, StoreError> {
        let id = stored.run.id;
        let corrupt =
            |why: DecodeError| StoreError::Corrupt(format!("run {id} of '{}': {why}", workflow.graph.workflow()));
        let inputs: Inputs = stored.run.unpacked_inputs().map_err(corrupt)?.into();
        let version = (*stored.run.version != *workflow.graph.version()).then_some(workflow.version);
        let (key, created_at) = (stored.run.key.clone(), stored.run.created_at);
        let (failure, options) = (stored.run.failure.clone(), stored.run.options.clone());
        let progress = std::mem::take(&mut stored.progress);
        let parent = stored.run.parent.map(|id| Box::new(ParentRun { id, depth: stored.run.depth }));
        let recover = if is_new { RunState::recover_new } else { RunState::recover };
        let state = match recover(&workflow.graph, &workflow.ids, version, stored) {
            Ok(state) => state,
            Err(why) => {
                let reason = corrupt(why).to_string();
                self.control.log(Level::Error, &reason);
                self.pause(lease, id, failure, reason)?;
                return Ok(None);
            }
        };
        let local = self.control.runs.take_local(id).unwrap_or_default();
        let request = RunRequest { parent, local, ..RunRequest::new(inputs).with_key(key).with_options(options) };
        let run = Arc::new(Run::new(workflow, lease, state, request, created_at));
        for row in progress {
            if let Some(ix) = workflow.ids.iter().position(|id| *id == row.task) {
                run.live_output.restore(TaskRef { ix: ix as u32, map: row.map }, row.progress);
            }
        }
        self.control.runs.adopt(&run);
        Ok(Some(run))
    }

    /// Pauses a run that does not read back, so that those who wait for it get the reason.
    fn pause(&self, lease: Lease, id: RunId, failure: Option<Failure>, reason: String) -> Result<(), StoreError> {
        let blocked_by = Some(BlockReason::Other(reason.into()));
        let update = RunUpdate { failure, blocked_by, ..RunUpdate::new(id.row(), RunStatus::Paused) };
        self.path.ledger.update(&*self.path, lease, update)
    }

    /// Logs which unfinished runs nobody has and this runner does not continue, in one line.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn report_stranded(&self) -> Result<(), StoreError> {
        let mut groups = Vec::new();
        for UnownedRuns { workflow, version, count, example } in self.control.store().unowned_runs()? {
            let standing = Standing { status: RunStatus::Running, workflow, version, runner: None, held: false };
            if let Some(why) = self.why_not_here(example, &standing) {
                let runs =
                    if count == 1 { format!("run {example}") } else { format!("{count} runs, such as {example}") };
                groups.push(format!("{runs}: {why}"));
            }
        }
        if !groups.is_empty() {
            let groups = groups.join("; ");
            self.control.warn(&format!("unfinished runs that no runner has and this one cannot continue: {groups}"));
        }
        Ok(())
    }

    /// Why an unfinished run that no living runner has is not executed here. A client executes none. Blocks.
    #[must_use]
    pub(crate) fn why_not_here(&self, id: RunId, run: &Standing) -> Option<NotRegistered> {
        self.why_not_here_if(id, run, |runner| self.is_alive(runner))
    }

    /// Whether a runner is there to execute its runs; if that cannot be read, it is. Blocks.
    pub(crate) fn is_alive(&self, runner: i64) -> bool {
        self.control.store().is_alive(runner, self.control.clock.lease_time()).unwrap_or(true)
    }

    /// As [`Recovery::why_not_here`] by one who knows which runners are there.
    pub(crate) fn why_not_here_if(
        &self,
        id: RunId,
        run: &Standing,
        alive: impl FnOnce(i64) -> bool,
    ) -> Option<NotRegistered> {
        if self.control.is_client() || run.status.is_ended() || run.runner.is_some_and(alive) {
            return None;
        }
        let (workflow, version) = (&*run.workflow, &*run.version);
        let wanted = bide_core::graph::title(workflow, version);
        match self.workflows.read().get(workflow) {
            None => Some(NotRegistered { wanted, have: None, why: None }),
            Some(workflow) if workflow.graph.version() == version => None,
            Some(workflow) => {
                let versions = self.control.store().versions(workflow.number).unwrap_or_default();
                let recorded = versions.iter().find(|stored| *stored.hash == *version)?;
                if fit::of_version(&workflow.graph, &recorded.tasks) == Fit::Every {
                    return None;
                }
                let stored = self.control.store().load(id).ok().flatten()?;
                let why = Some(fit::of_run(&workflow.graph, &stored)?);
                let have = Some(bide_core::graph::short_version(workflow.graph.version()));
                Some(NotRegistered { wanted, have, why })
            }
        }
    }
}
