//! The store of runs that need not outlive their process: everything behind one lock, values moved in, not copied.
//!
//! It can outlive a runner: a program that keeps the `Arc` can open another one on it. It keeps the last
//! [`KEPT`] ended runs and forgets older ones as new ones end.

mod run;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{Batch, Committed, NewRun, RecordedTask, RunRow, RunRowId, StoredRun, Write};
use bide_core::{RunId, RunStatus, TaskId, Time};
use bide_sync::Mutex;

use crate::changes::ChangeLog;
use crate::{
    Changes, Commit, CommitId, Creation, LEASE, Lease, LeaseTime, Maintenance, Purged, RunFilter, Seen, Standing,
    Store, StoreError, StoredVersion, StoredWorkflow, Written,
};
use run::{Journals, MemRun, RowHash};

/// How many ended runs are kept.
pub const KEPT: usize = 1000;

/// Runs in memory.
pub struct MemoryStore {
    /// All that is stored.
    state: Mutex<State>,
    /// What runners poll for changes.
    changes: ChangeLog,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { state: Mutex::default(), changes: ChangeLog::new(false) }
    }
}

#[derive(Default)]
struct State {
    /// Workflows by number, from 0.
    workflows: Vec<MemWorkflow>,
    /// The workflows' numbers.
    names: HashMap<Arc<str>, i64>,
    /// Versions by number, from 0.
    versions: Vec<MemVersion>,
    /// Runners by number.
    runners: HashMap<i64, MemRunner>,
    /// The number of the newest runner.
    last_runner: i64,
    /// Runs by row number.
    runs: HashMap<RunRowId, MemRun, RowHash>,
    /// The journals of all runs.
    journals: Journals,
    /// The run that has a key, by workflow and key.
    keys: HashMap<(i64, Arc<str>), RunRowId>,
    /// Unfinished runs without an owner, oldest first.
    unowned: BTreeSet<RunRowId>,
    /// Ended runs in the order in which they ended.
    ended: VecDeque<RunRowId>,
}

struct MemWorkflow {
    /// The name of the workflow.
    name: Arc<str>,
    /// Every task name of any version, with the task's number.
    tasks: HashMap<Arc<str>, TaskId>,
    /// Its versions' numbers.
    versions: Vec<i64>,
}

struct MemVersion {
    /// The number of the workflow.
    workflow: i64,
    /// The hash of the graph.
    hash: Arc<str>,
    /// Its tasks with their dependencies, in declaration order.
    tasks: Arc<[RecordedTask]>,
}

struct MemRunner {
    /// Raised when its runs are claimed by others; every commit compares it.
    epoch: i64,
    /// A test says that its process has died.
    died: bool,
    /// When its lease runs out ([`LeaseTime::micros`]: all runners are of one process). `None`: it was fenced.
    expires: Option<i64>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// For tests that play several processes on one store: the process of this runner has died. The next claim
    /// notices it, as it would by the lock of a file.
    pub fn process_died(&self, runner: i64) {
        let state = &mut *self.state.lock();
        if let Some(runner) = state.runners.get_mut(&runner) {
            runner.died = true;
            self.changes.unowned();
        }
    }
}

fn corrupt(run: RunRowId, what: &str) -> StoreError {
    StoreError::Corrupt(format!("run with row number {run}: {what}"))
}

impl State {
    fn fence(&self, lease: Lease) -> Result<(), StoreError> {
        match self.runners.get(&lease.runner) {
            Some(runner) if runner.epoch == lease.epoch => Ok(()),
            _ => Err(StoreError::Fenced { runner: lease.runner }),
        }
    }

    /// Whether every write of the batch can be made: a batch is written as a whole or not at all.
    fn check(&self, batch: &Batch, skipped: &[RunRowId]) -> Result<(), StoreError> {
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
    fn blame(&mut self, runner: i64) {
        let owned = self.runs.values_mut().filter(|run| run.runner == Some(runner) && !run.status.is_ended());
        let mut executed = owned.filter(|run| run.executed_marked() > 0);
        if let (Some(run), None) = (executed.next(), executed.next())
            && run.executed_marked() == 1
        {
            run.crashes = run.crashes.saturating_add(1);
        }
    }

    /// Frees the unfinished runs of a runner.
    fn abandon(&mut self, runner: i64) {
        for (id, run) in &mut self.runs {
            if run.runner == Some(runner) && !run.status.is_ended() {
                run.runner = None;
                self.unowned.insert(*id);
            }
        }
    }

    fn forget(&mut self, id: RunRowId) -> Option<MemRun> {
        let run = self.runs.remove(&id)?;
        self.journals.forget(&run);
        if let Some(key) = &run.key {
            self.keys.remove(&(run.workflow, key.clone()));
        }
        Some(run)
    }

    fn is_registered(&self, new: &NewRun) -> bool {
        let version = usize::try_from(new.version).ok().and_then(|version| self.versions.get(version));
        version.is_some_and(|version| version.workflow == new.workflow)
    }

    fn row(&self, run: &MemRun) -> RunRow {
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
        }
    }

    fn stored(&self, run: &MemRun) -> StoredRun {
        StoredRun {
            run: self.row(run),
            tasks: self.versions[run.version as usize].tasks.clone(),
            rows: run.task_rows(),
            entries: self.journals.entries(run),
        }
    }

    /// Creates the runs of each request, or none of a request that is refused. `inserted` gets those that are new.
    fn create_requests(
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
            let made: Vec<Creation> = runs.iter().map(|new| self.create(lease, new, inserted)).collect();
            if made.iter().any(Creation::prevents_all) {
                for row in inserted.drain(before..) {
                    self.forget(row);
                }
            }
            creations.push(made);
        }
        Ok(creations)
    }

    /// Creates one run. `inserted` gets it if it is new.
    fn create(&mut self, lease: Lease, new: &NewRun, inserted: &mut Vec<RunRowId>) -> Creation {
        let row = new.id.row();
        let keyed = new.key.as_ref().and_then(|key| self.keys.get(&(new.workflow, key.clone())));
        if let Some(old) = self.runs.get(keyed.unwrap_or(&row)) {
            return if keyed.is_none() && old.id != new.id {
                Creation::NumberTaken
            } else if old.id == new.id && old.runner == Some(lease.runner) {
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
        self.runs.insert(row, MemRun::new(new, lease.runner));
        inserted.push(row);
        Creation::Created
    }
}

impl Store for MemoryStore {
    fn name(&self) -> &str {
        ":memory:"
    }

    fn blocks(&self) -> bool {
        false
    }

    fn enroll(&self, now: LeaseTime) -> Result<Lease, StoreError> {
        let state = &mut *self.state.lock();
        state.last_runner += 1;
        let expires = Some(now.after(LEASE).micros());
        state.runners.insert(state.last_runner, MemRunner { epoch: 1, died: false, expires });
        Ok(Lease { runner: state.last_runner, epoch: 1 })
    }

    fn renew(&self, lease: Lease, now: LeaseTime) -> Result<(), StoreError> {
        let state = &mut *self.state.lock();
        state.fence(lease)?;
        let mut lapsed = false;
        for (id, runner) in &mut state.runners {
            if *id == lease.runner {
                runner.expires = Some(now.after(LEASE).micros());
            } else {
                lapsed |= runner.expires.is_some_and(|expires| expires <= now.micros());
            }
        }
        if lapsed {
            self.changes.unowned();
        }
        Ok(())
    }

    fn leave(&self, lease: Lease) -> Result<(), StoreError> {
        let state = &mut *self.state.lock();
        if state.fence(lease).is_ok() {
            state.runners.remove(&lease.runner);
            state.abandon(lease.runner);
            self.changes.unowned();
        }
        Ok(())
    }

    fn register(
        &self,
        name: &str,
        version: &str,
        tasks: &[(Arc<str>, Vec<Arc<str>>)],
    ) -> Result<StoredWorkflow, StoreError> {
        let state = &mut *self.state.lock();
        let known = state.names.get(name).copied();
        let workflow = known.unwrap_or_else(|| {
            let (name, number): (Arc<str>, _) = (name.into(), state.workflows.len() as i64);
            state.names.insert(Arc::clone(&name), number);
            state.workflows.push(MemWorkflow { name, tasks: HashMap::new(), versions: Vec::new() });
            number
        });
        let of_workflow = &mut state.workflows[workflow as usize];
        let known =
            of_workflow.versions.iter().copied().find(|known| *state.versions[*known as usize].hash == *version);
        let version = known.unwrap_or_else(|| {
            let names = &mut of_workflow.tasks;
            let tasks = tasks.iter().map(|(name, dependencies)| {
                let next = names.len() as TaskId;
                let id = *names.entry(name.clone()).or_insert(next);
                RecordedTask { id, name: name.clone(), dependencies: dependencies.clone() }
            });
            let (tasks, number) = (tasks.collect(), state.versions.len() as i64);
            state.versions.push(MemVersion { workflow, hash: version.into(), tasks });
            of_workflow.versions.push(number);
            number
        });
        let tasks = state.versions[version as usize].tasks.clone();
        Ok(StoredWorkflow { number: workflow, version, tasks })
    }

    fn write(&self, lease: Lease, commit: &mut Commit<'_>) -> Result<Written, StoreError> {
        // Declared before the lock is taken, so that old runs are freed after it is released.
        let mut forgotten = Vec::new();
        let state = &mut *self.state.lock();
        state.fence(lease)?;
        let mut inserted = Vec::new();
        let creations = state.create_requests(lease, commit.requests, &mut inserted)?;
        let skipped = commit.not_created(&creations);
        if let Err(error) = state.check(commit.batch, &skipped) {
            for row in inserted {
                state.forget(row);
            }
            return Err(error);
        }
        let mut changes = None;
        for write in commit.batch.drain(..) {
            if skipped.binary_search(&write.run()).is_ok() {
                continue;
            }
            if let Write::Run(update) = &write {
                changes.get_or_insert_with(|| self.changes.lock()).run(update.run);
            }
            if let Some(ended) = run::apply(&mut state.runs, &mut state.journals, write) {
                state.unowned.remove(&ended);
                state.ended.push_back(ended);
                if state.ended.len() > KEPT
                    && let Some(oldest) = state.ended.pop_front()
                {
                    forgotten.push(state.forget(oldest));
                }
            }
        }
        Ok(Written { committed: Committed::by_store(), creations })
    }

    fn versions(&self, workflow: i64) -> Result<Vec<StoredVersion>, StoreError> {
        let state = &*self.state.lock();
        let of_workflow = usize::try_from(workflow).ok().and_then(|workflow| state.workflows.get(workflow));
        let stored = |version: &i64| {
            let known = &state.versions[*version as usize];
            StoredVersion { version: *version, hash: known.hash.clone(), tasks: known.tasks.clone() }
        };
        Ok(of_workflow.map_or_else(Vec::new, |found| found.versions.iter().map(stored).collect()))
    }

    fn is_alive(&self, runner: i64, now: LeaseTime) -> Result<bool, StoreError> {
        let state = self.state.lock();
        let runner = state.runners.get(&runner).filter(|runner| !runner.died);
        Ok(runner.and_then(|runner| runner.expires).is_some_and(|expires| expires > now.micros()))
    }

    fn unowned(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        let state = &*self.state.lock();
        let runs = state.unowned.iter().map(|row| &state.runs[row]).filter(|run| run.status != RunStatus::Paused);
        let versions: BTreeSet<(i64, i64)> = runs.map(|run| (run.workflow, run.version)).collect();
        Ok(versions.into_iter().collect())
    }

    fn claim_once(
        &self,
        _id: CommitId,
        lease: Lease,
        versions: &[i64],
        now: LeaseTime,
        limit: usize,
    ) -> Result<Vec<RunId>, StoreError> {
        let state = &mut *self.state.lock();
        state.fence(lease)?;
        let lapsed: Vec<i64> = (state.runners.iter())
            .filter(|(id, runner)| {
                let lapsed = |expires| runner.died || expires <= now.micros();
                **id != lease.runner && runner.expires.is_some_and(lapsed)
            })
            .map(|(id, _)| *id)
            .collect();
        for runner in lapsed {
            let Some(loser) = state.runners.get_mut(&runner) else { continue };
            loser.epoch += 1;
            loser.expires = None;
            if loser.died {
                state.blame(runner);
            }
            state.abandon(runner);
            self.changes.unowned();
        }
        let runs = &state.runs;
        let fits = |id: &&RunRowId| {
            let run = &runs[*id];
            run.status != RunStatus::Paused && versions.contains(&run.version)
        };
        let claimed: Vec<RunRowId> = state.unowned.iter().filter(fits).take(limit).copied().collect();
        let mut ids = Vec::with_capacity(claimed.len());
        for row in &claimed {
            state.unowned.remove(row);
            if let Some(run) = state.runs.get_mut(row) {
                run.runner = Some(lease.runner);
                run.status = RunStatus::Running;
                run.set_marks_aside();
                ids.push(run.id);
            }
        }
        Ok(ids)
    }

    fn load(&self, run: RunId) -> Result<Option<StoredRun>, StoreError> {
        let state = &*self.state.lock();
        let found = state.runs.get(&run.row()).filter(|found| found.id == run);
        Ok(found.map(|found| state.stored(found)))
    }

    fn standing(&self, run: RunId) -> Result<Option<Standing>, StoreError> {
        let state = &*self.state.lock();
        let found = state.runs.get(&run.row()).filter(|found| found.id == run);
        Ok(found.map(|found| Standing {
            status: found.status,
            workflow: state.workflows[found.workflow as usize].name.clone(),
            version: state.versions[found.version as usize].hash.clone(),
            runner: found.runner,
        }))
    }

    fn by_key(&self, key: &str, workflow: Option<&str>) -> Result<Vec<(RunId, Arc<str>)>, StoreError> {
        let state = &*self.state.lock();
        let numbers = match workflow {
            None => 0..state.workflows.len() as i64,
            Some(name) => state.names.get(name).map_or(0..0, |number| *number..number + 1),
        };
        let found = numbers.filter_map(|number| {
            let row = state.keys.get(&(number, Arc::from(key)))?;
            Some((state.runs[row].id, state.workflows[number as usize].name.clone()))
        });
        Ok(found.collect())
    }

    fn list(&self, filter: &RunFilter) -> Result<Vec<StoredRun>, StoreError> {
        let state = &*self.state.lock();
        let fits = |run: &&MemRun| {
            filter.status.is_none_or(|status| status == run.status)
                && filter.since.is_none_or(|since| since <= run.created_at)
                && filter.workflow.as_ref().is_none_or(|name| **name == *state.workflows[run.workflow as usize].name)
        };
        let mut found: Vec<&MemRun> = state.runs.values().filter(fits).collect();
        found.sort_unstable_by_key(|run| std::cmp::Reverse(run.id.row()));
        found.truncate(filter.limit.unwrap_or(usize::MAX));
        Ok(found.into_iter().map(|run| state.stored(run)).collect())
    }

    fn delete(&self, run: RunId) -> Result<bool, StoreError> {
        let row = run.row();
        let state = &mut *self.state.lock();
        if !state.runs.get(&row).is_some_and(|found| found.id == run && found.status.is_ended()) {
            return Ok(false);
        }
        state.ended.retain(|id| *id != row);
        state.forget(row);
        Ok(true)
    }

    fn wait_for_changes(&self, seen: Seen, timeout: Duration) -> Result<Changes, StoreError> {
        self.changes.wait(seen, timeout);
        Ok(self.changes.since(seen))
    }

    fn interrupt_waits(&self) {
        self.changes.interrupt();
    }
}

impl Maintenance for MemoryStore {
    fn purge(&self, before: Time, from: RunRowId, limit: usize) -> Result<Purged, StoreError> {
        // Declared before the lock is taken, so that they are freed after it is released.
        let mut forgotten = Vec::new();
        let state = &mut *self.state.lock();
        let mut ended: Vec<RunRowId> = state.ended.iter().filter(|id| **id >= from).copied().collect();
        ended.sort_unstable();
        let next = ended.get(limit).copied();
        ended.truncate(limit);
        ended.retain(|id| state.runs[id].ended_at.is_some_and(|ended| ended < before));
        state.ended.retain(|id| ended.binary_search(id).is_err());
        forgotten.extend(ended.iter().map(|id| state.forget(*id)));
        Ok(Purged { runs: ended.len(), next })
    }

    fn shrink(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
}
