//! What the store in memory holds, and the changes of it that take several steps. Its lock is in `mod.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bide_core::record::{Batch, NewRun, RecordedTask, RunRow, RunRowId, StoredRun, Write};
use bide_core::schedules::Schedule;
use bide_core::watches::Watch;
use bide_core::{NewEvents, RunId, RunStatus, TaskId, Time};

use super::limits::MemLimits;
use super::live::Live;
use super::messages::Messages;
use super::run::{LastText, MemRun, RowHash};
use crate::{Creation, Lease, StoreError};

/// All that is stored.
#[derive(Clone, Default)]
pub(super) struct State {
    /// Workflows by number, from 0.
    pub(super) workflows: Vec<MemWorkflow>,
    /// The workflows' numbers.
    pub(super) names: HashMap<Arc<str>, i64>,
    /// Versions by number, from 0.
    pub(super) versions: Vec<MemVersion>,
    /// Runners by number.
    pub(super) runners: HashMap<i64, MemRunner>,
    /// The number of the newest runner.
    pub(super) last_runner: i64,
    /// Runs by row number.
    pub(super) runs: HashMap<RunRowId, MemRun, RowHash>,
    /// What the task that was written last waits for.
    pub(super) texts: LastText,
    /// The messages to all runs.
    pub(super) messages: Messages,
    /// What live runs show.
    pub(super) live: Live,
    /// The run that has a key, by workflow and key.
    pub(super) keys: HashMap<(i64, Arc<str>), RunRowId>,
    /// Unfinished runs without an owner, oldest first.
    pub(super) unowned: BTreeSet<RunRowId>,
    /// Ended runs in the order in which they ended. No children: they go with their parents.
    pub(super) ended: VecDeque<RunRowId>,
    /// The children of each run that has some, in order of creation.
    pub(super) children: HashMap<RunRowId, Vec<RunRowId>, RowHash>,
    /// Limits and their shares.
    pub(super) limits: MemLimits,
    /// The schedules.
    pub(super) schedules: MemSchedules,
    /// The watches, by name.
    pub(super) watches: BTreeMap<Arc<str>, MemWatch>,
}

/// All schedules, also those that were removed, with their revisions.
#[derive(Clone, Default)]
pub(super) struct MemSchedules {
    /// By name.
    pub(super) rows: BTreeMap<Arc<str>, (i64, Option<Schedule>)>,
    /// The highest revision.
    pub(super) last: i64,
}

/// A watch, also one that was removed.
#[derive(Clone, Default)]
pub(super) struct MemWatch {
    /// Raised by each change.
    pub(super) revision: i64,
    /// The watch; none if it was removed.
    pub(super) watch: Option<Watch>,
    /// The keys of all items that it has had.
    pub(super) keys: HashSet<Arc<str>>,
}

/// A workflow.
#[derive(Clone)]
pub(super) struct MemWorkflow {
    /// The name of the workflow.
    pub(super) name: Arc<str>,
    /// Every task name of any version, with the task's number.
    pub(super) tasks: HashMap<Arc<str>, TaskId>,
    /// Its versions' numbers.
    pub(super) versions: Vec<i64>,
}

/// A version of a workflow.
#[derive(Clone)]
pub(super) struct MemVersion {
    /// The number of the workflow.
    pub(super) workflow: i64,
    /// The hash of the graph.
    pub(super) hash: Arc<str>,
    /// Its tasks with their dependencies, in declaration order.
    pub(super) tasks: Arc<[RecordedTask]>,
    /// The signals that it declares.
    pub(super) signals: Option<Vec<String>>,
}

/// A runner.
#[derive(Clone)]
pub(super) struct MemRunner {
    /// Raised when its runs are claimed by others; every commit compares it.
    pub(super) epoch: i64,
    /// A test says that its process has died.
    pub(super) died: bool,
    /// When its lease runs out ([`LeaseTime::micros`]: all runners are of one process). `None`: it was fenced.
    pub(super) expires: Option<i64>,
    /// When it was started.
    pub(super) started_at: Time,
}

/// A run that cannot be read or written.
fn corrupt(run: RunRowId, what: &str) -> StoreError {
    StoreError::Corrupt(format!("run with row number {run}: {what}"))
}

impl State {
    pub(super) fn fence(&self, lease: Lease) -> Result<(), StoreError> {
        match self.runners.get(&lease.runner) {
            Some(runner) if runner.epoch == lease.epoch => Ok(()),
            _ => Err(StoreError::Fenced { runner: lease.runner }),
        }
    }

    /// Whether every write of the batch can be made: a batch is written as a whole or not at all.
    pub(super) fn check(&self, batch: &Batch, skipped: &[RunRowId]) -> Result<(), StoreError> {
        for write in batch {
            let id = write.run();
            if skipped.binary_search(&id).is_ok() {
                continue;
            }
            let run = self.runs.get(&id).ok_or_else(|| corrupt(id, "it is not in the store"))?;
            if let Write::Done(done) = write
                && run.has_task(done.task, done.map)
            {
                return Err(corrupt(id, "a task that has a row already was written as if it had none"));
            }
        }
        Ok(())
    }

    /// A runner's process has died: if it executed exactly one marked body, the body's run counts one more death.
    pub(super) fn blame(&mut self, runner: i64) {
        let owned = self.runs.values_mut().filter(|run| run.runner == Some(runner) && !run.status.is_ended());
        let mut executed = owned.filter(|run| run.executed_marked() > 0);
        if let (Some(run), None) = (executed.next(), executed.next())
            && run.executed_marked() == 1
        {
            run.crashes = run.crashes.saturating_add(1);
        }
    }

    /// Frees the unfinished runs of a runner.
    pub(super) fn abandon(&mut self, runner: i64) {
        self.limits.abandon(runner, &self.runs);
        for (id, run) in &mut self.runs {
            if run.runner == Some(runner) && !run.status.is_ended() {
                run.runner = None;
                self.unowned.insert(*id);
            }
        }
    }

    /// A runner leaves its runs to others. False: it has lost them before.
    pub(super) fn leave(&mut self, lease: Lease) -> bool {
        let holds = self.fence(lease).is_ok();
        if holds {
            self.runners.remove(&lease.runner);
            self.abandon(lease.runner);
        }
        holds
    }

    /// These runs of a runner are as they were created.
    pub(super) fn give_back(&mut self, lease: Lease, runs: &[RunRowId]) -> Result<(), StoreError> {
        self.fence(lease)?;
        for row in runs {
            let Some(run) = self.runs.get_mut(row) else { continue };
            if run.runner == Some(lease.runner) && matches!(run.status, RunStatus::Pending | RunStatus::Running) {
                (run.runner, run.status) = (None, RunStatus::Pending);
                self.unowned.insert(*row);
            }
        }
        Ok(())
    }

    /// Has a run that has ended or stopped executed again: somebody is to claim it.
    pub(super) fn reopen(&mut self, id: RunRowId) {
        if let Some(run) = self.runs.get_mut(&id) {
            if run.status.is_ended()
                && let Some(options) = &mut run.options
            {
                // It is over, and so is that of the same run once more.
                options.deadline = None;
            }
            (run.status, run.ended_at, run.runner) = (RunStatus::Running, None, None);
            self.unowned.insert(id);
            self.ended.retain(|ended| *ended != id);
        }
    }

    /// Whether a run and all runs below it have ended.
    pub(super) fn has_ended(&self, id: RunRowId) -> bool {
        let below = self.children.get(&id).into_iter().flatten();
        self.runs.get(&id).is_some_and(|run| run.status.is_ended()) && below.clone().all(|child| self.has_ended(*child))
    }

    /// A run has ended. Answers the oldest runs, if there are more than are kept.
    pub(super) fn ended(&mut self, id: RunRowId, kept: usize) -> Vec<MemRun> {
        self.unowned.remove(&id);
        if self.runs.get(&id).is_some_and(|run| run.parent.is_some()) {
            return Vec::new();
        }
        self.ended.push_back(id);
        if self.ended.len() <= kept {
            return Vec::new();
        }
        match self.ended.pop_front() {
            Some(oldest) if self.has_ended(oldest) => self.forget_tree(oldest),
            Some(oldest) => {
                // Asked again when all others have been.
                self.ended.push_back(oldest);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Forgets a run and all runs below it.
    pub(super) fn forget_tree(&mut self, id: RunRowId) -> Vec<MemRun> {
        let mut forgotten: Vec<MemRun> = self.forget(id).into_iter().collect();
        for child in self.children.remove(&id).into_iter().flatten() {
            forgotten.append(&mut self.forget_tree(child));
        }
        forgotten
    }

    pub(super) fn forget(&mut self, id: RunRowId) -> Option<MemRun> {
        let run = self.runs.remove(&id)?;
        self.messages.forget(id);
        self.live.forget(id);
        if let Some(key) = &run.key {
            self.keys.remove(&(run.workflow, key.clone()));
        }
        if let Some(siblings) = run.parent.as_ref().and_then(|parent| self.children.get_mut(&parent.run.row())) {
            siblings.retain(|child| *child != id);
        }
        Some(run)
    }

    /// Appends events of a run that is there.
    pub(super) fn append(&mut self, new: NewEvents) {
        let Some(run) = self.runs.get(&new.run) else { return };
        let known = self.workflows.get(run.workflow as usize).map(|workflow| &workflow.tasks);
        let named = known.and_then(|tasks| tasks.iter().find(|(_, id)| **id == new.task));
        let name = named.map_or_else(|| Arc::from("?"), |(name, _)| Arc::clone(name));
        self.live.append(new, name);
    }

    pub(super) fn is_registered(&self, new: &NewRun) -> bool {
        let version = usize::try_from(new.version).ok().and_then(|version| self.versions.get(version));
        version.is_some_and(|version| version.workflow == new.workflow)
    }

    pub(super) fn row(&self, run: &MemRun) -> RunRow {
        RunRow {
            id: run.id,
            workflow: self.workflows[run.workflow as usize].name.clone(),
            version: self.versions[run.version as usize].hash.clone(),
            key: run.key.clone(),
            status: run.status,
            inputs: run.inputs.clone(),
            failure: run.failure.clone(),
            created_at: run.created_at,
            ended_at: run.ended_at,
            blocked_by: run.blocked_by.clone(),
            crashes: run.crashes,
            runner: run.runner,
            parent: run.parent.as_ref().map(|parent| parent.run),
            depth: run.parent.as_ref().map_or(0, |parent| parent.depth),
            cancel: run.cancel.clone(),
            options: run.options.as_deref().cloned().unwrap_or_default(),
        }
    }

    pub(super) fn stored(&self, run: &MemRun) -> StoredRun {
        let (messages, children) = (self.messages.of(run.id.row(), 0), self.children_of(run.id.row()));
        StoredRun { messages, children, ..self.listed(run) }
    }

    /// A run as a list has it.
    pub(super) fn listed(&self, run: &MemRun) -> StoredRun {
        StoredRun {
            run: self.row(run),
            tasks: self.versions[run.version as usize].tasks.clone(),
            rows: run.task_rows(),
            entries: run.entries(),
            messages: Vec::new(),
            progress: self.live.progress(run.id.row()),
            children: Vec::new(),
        }
    }

    /// The children of a run.
    pub(super) fn children_of(&self, row: RunRowId) -> Vec<(RunId, RunStatus)> {
        let children = self.children.get(&row).into_iter().flatten().filter_map(|child| self.runs.get(child));
        children.map(|child| (child.id, child.status)).collect()
    }

    /// Creates the runs of each request, or none of a request that is refused. `inserted` gets those that are new.
    pub(super) fn create_requests(
        &mut self,
        lease: Lease,
        requests: &[&[NewRun]],
        inserted: &mut Vec<RunRowId>,
    ) -> Result<Vec<Vec<Creation>>, StoreError> {
        if let Some(stray) = requests.iter().copied().flatten().find(|new| !self.is_registered(new)) {
            return Err(corrupt(stray.id.row(), "its workflow version is not registered"));
        }
        let mut creations = Vec::with_capacity(requests.len());
        for runs in requests {
            let before = inserted.len();
            inserted.reserve(runs.len());
            let made: Vec<Creation> = runs.iter().map(|new| self.create(Some(lease.runner), new, inserted)).collect();
            if made.iter().any(Creation::prevents_all) {
                for row in inserted.drain(before..) {
                    self.forget(row);
                }
            }
            creations.push(made);
        }
        Ok(creations)
    }

    /// Creates runs that belong to nobody, or none of them.
    pub(super) fn create_unowned(&mut self, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        if let Some(stray) = runs.iter().find(|new| !self.is_registered(new)) {
            return Err(corrupt(stray.id.row(), "its workflow version is not registered"));
        }
        let mut inserted = Vec::with_capacity(runs.len());
        let made: Vec<Creation> = runs.iter().map(|new| self.create(None, new, &mut inserted)).collect();
        let is_refused = made.iter().any(Creation::prevents_all);
        for row in inserted {
            if is_refused {
                self.forget(row);
            } else {
                self.unowned.insert(row);
            }
        }
        Ok(made)
    }

    /// Forgets a run that was created without an owner just now.
    pub(super) fn undo_unowned(&mut self, row: RunRowId) {
        self.unowned.remove(&row);
        self.forget(row);
    }

    /// Creates one run. `inserted` gets it if it is new.
    fn create(&mut self, runner: Option<i64>, new: &NewRun, inserted: &mut Vec<RunRowId>) -> Creation {
        let row = new.id.row();
        let keyed = new.key.as_ref().and_then(|key| self.keys.get(&(new.workflow, key.clone())));
        if let Some(old) = self.runs.get(keyed.unwrap_or(&row)) {
            return if keyed.is_none() && old.id != new.id {
                Creation::NumberTaken
            } else if old.id == new.id && old.runner == runner {
                Creation::Created
            } else if old.inputs == new.inputs {
                Creation::Exists(Box::new(self.row(old)))
            } else {
                Creation::OtherInputs(Box::new(self.row(old)))
            };
        }
        if let Some(key) = &new.key {
            self.keys.insert((new.workflow, key.clone()), row);
        }
        if let Some(parent) = &new.parent {
            self.children.entry(parent.run.row()).or_default().push(row);
        }
        self.runs.insert(row, MemRun::new(new, runner));
        inserted.push(row);
        Creation::Created
    }
}
