//! Moves unfinished runs from one store to another, so that a run that is unfinished in both is never executed in both and
//! none is lost, wherever the process that moves them dies.
//!
//! A *family*, a run with all runs below it, moves at once:
//!
//! | step | store | what is committed                                    | a death after it                         |
//! |------|-------|------------------------------------------------------|------------------------------------------|
//! | 1    | old   | its unfinished runs are paused, with a mark          | nobody executes it until it moves again  |
//! | 2    | new   | all that is recorded of it                           | it is executed in the new store only     |
//! | 3    | old   | its unfinished runs are cancelled, the mark stays    | a later move deletes it                  |
//! | 4    | old   | it is deleted                                        |                                          |
//!
//! Whether it has moved is decided by the commit of step 2 alone: a later move of a marked family looks into the new store
//! first. Before, all runs of the old store are claimed; it moves nothing while another runner has one of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bide_core::record::{Batch, NewRun, NewTask, Parent, RunUpdate, StoredRun};
use bide_core::{
    BlockReason, EntryKey, NO_MAP, NewEvents, Operation, ProgressRow, RunId, RunStatus, TaskId, TaskRow, Write,
    taken_request,
};

use crate::{Clock, Commit, CommitId, Creation, EventRange, Lease, RunFilter, Store, StoreError, StoredWorkflow};

/// How the mark begins; the name of the new store follows.
const MARK: &str = "it is being moved to ";
/// What follows the name; why the run was paused before follows, if it was.
const REMEDY: &str = ": `bide move` with the same two stores goes on with that";
const BEFORE: &str = "; before, ";

/// How many families are given to the runners of the new store at a time.
const GIVEN: usize = 50;
/// How many runs are claimed at a time.
const CLAIMED: usize = 1000;

/// Why a family stays where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The new store has a run of the same workflow with its key.
    KeyTaken {
        /// The key.
        key: Arc<str>,
        /// That run.
        by: RunId,
    },
    /// The new store has another run with the number of one of them.
    NumberTaken,
    /// The new store has it, though it was not being moved there: one of the two is a copy.
    IsThere,
}

/// What has happened to one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The run at its top.
    pub root: RunId,
    /// How many runs it has.
    pub runs: usize,
    /// Why it stays, if it does.
    pub refused: Option<Refusal>,
}

/// Moves all unfinished runs of a store, with the runs that they belong to, and reports each family once that is done.
///
/// # Errors
/// `Unavailable` if a runner has runs of the old store: then nothing has moved. Any other [`StoreError`]: the families that
/// were reported have moved, and the same call again goes on.
pub fn transfer(
    from: &dyn Store,
    to: &dyn Store,
    clock: &Arc<dyn Clock>,
    report: &mut dyn FnMut(Transfer),
) -> Result<(), StoreError> {
    let (old_clock, new_clock) = (from.clock(Arc::clone(clock)), to.clock(Arc::clone(clock)));
    let old = from.enroll(old_clock.lease_time())?;
    let moved = (|| {
        if to.runner(old.runner)?.is_some_and(|found| from.runner(old.runner).is_ok_and(|mine| mine == Some(found))) {
            return Err(StoreError::Unavailable(format!("{} is the store from which runs are to be moved", to.name())));
        }
        claim_all(from, old, &*old_clock)?;
        let roots = roots(from, old)?;
        for roots in roots.chunks(GIVEN) {
            let new = to.enroll(new_clock.lease_time())?;
            let mover = Mover { from, to, old, new, old_clock: &*old_clock, new_clock: &*new_clock };
            let moved = roots.iter().try_for_each(|root| mover.family(*root).map(&mut *report));
            // Its runners execute them from now on.
            let left = to.leave(new);
            moved?;
            left?;
        }
        Ok(())
    })();
    let left = from.leave(old);
    moved?;
    left
}

/// Claims all unfinished runs that nobody has.
fn claim_all(from: &dyn Store, lease: Lease, clock: &dyn Clock) -> Result<(), StoreError> {
    // Finds the runners that are dead.
    from.claim(lease, &[], clock.lease_time(), 0)?;
    let versions: Vec<i64> = from.unowned()?.into_iter().map(|(_, version)| version).collect();
    while from.claim(lease, &versions, clock.lease_time(), CLAIMED)?.len() == CLAIMED {}
    Ok(())
}

/// The tops of all families with an unfinished run, the oldest first, and of those that a move has cancelled.
fn roots(from: &dyn Store, lease: Lease) -> Result<Vec<RunId>, StoreError> {
    let mut roots = BTreeSet::new();
    for status in [RunStatus::Running, RunStatus::Paused, RunStatus::Cancelled] {
        for found in from.list(&RunFilter { status: Some(status), ..RunFilter::default() })? {
            let run = found.run;
            if status == RunStatus::Cancelled && !is_marked(run.blocked_by.as_ref()) {
                continue;
            }
            if let Some(runner) = run.runner.filter(|runner| *runner != lease.runner) {
                let whose = from
                    .runner(runner)?
                    .map_or_else(String::new, |info| format!(", process {} on {}", info.pid, info.host));
                return Err(StoreError::Unavailable(format!(
                    "{} is in use: a runner has run {}{whose}; close all runners on it first, nothing has moved",
                    from.name(),
                    run.id,
                )));
            }
            let (mut top, mut above) = (run.id, run.parent);
            while let Some(parent) = above {
                let Some(found) = from.load_open(parent)? else { break };
                (top, above) = (parent, found.run.parent);
            }
            roots.insert(top);
        }
    }
    let mut roots: Vec<RunId> = roots.into_iter().collect();
    roots.sort_unstable_by_key(|run| run.row());
    Ok(roots)
}

/// The mark of a run that was paused for this reason before, or was not.
fn mark(to: &str, before: Option<&BlockReason>) -> BlockReason {
    let before = before.map_or_else(String::new, |reason| format!("{BEFORE}{reason}"));
    BlockReason::Other(format!("{MARK}{to}{REMEDY}{before}").into())
}

fn is_marked(reason: Option<&BlockReason>) -> bool {
    matches!(reason, Some(BlockReason::Other(text)) if text.starts_with(MARK) && text.contains(REMEDY))
}

/// Why a marked run was paused before, and to where it is being moved; `None` of one that is not marked.
fn unmarked(reason: Option<&BlockReason>) -> Option<(&str, Option<BlockReason>)> {
    let Some(BlockReason::Other(text)) = reason else { return None };
    let (to, before) = text.strip_prefix(MARK)?.split_once(REMEDY)?;
    Some((to, before.strip_prefix(BEFORE).map(|text| BlockReason::from_stored(text.into()))))
}

/// What the row of a run is to say.
fn update(stored: &StoredRun, status: RunStatus, blocked_by: Option<BlockReason>) -> RunUpdate {
    let run = &stored.run;
    RunUpdate {
        failure: run.failure.clone(),
        ended_at: run.ended_at,
        blocked_by,
        crashes: run.crashes,
        cancel: run.cancel.clone(),
        ..RunUpdate::new(run.id.row(), status)
    }
}

struct Mover<'a> {
    from: &'a dyn Store,
    to: &'a dyn Store,
    old: Lease,
    new: Lease,
    old_clock: &'a dyn Clock,
    new_clock: &'a dyn Clock,
}

impl Mover<'_> {
    /// Moves a family.
    fn family(&self, root: RunId) -> Result<Transfer, StoreError> {
        self.from.renew(self.old, self.old_clock.lease_time())?;
        self.to.renew(self.new, self.new_clock.lease_time())?;
        let mut family = self.load(root)?;
        let runs = family.len();
        let done = |refused| Ok(Transfer { root, runs, refused });
        if family.iter().all(|stored| stored.run.status.is_ended()) {
            self.delete(&family, root)?;
            return done(None);
        }
        for stored in &family {
            if let Some((to, _)) = unmarked(stored.run.blocked_by.as_ref())
                && to != self.to.name()
            {
                return Err(StoreError::Unavailable(format!(
                    "run {} is being moved to {to}, not to {}: move it there",
                    stored.run.id,
                    self.to.name(),
                )));
            }
        }
        if self.to.standing(root)?.is_some() {
            if !family.iter().any(|stored| is_marked(stored.run.blocked_by.as_ref())) {
                return done(Some(Refusal::IsThere));
            }
        } else {
            if let Some(refusal) = self.conflict(&family)? {
                self.release(&family)?;
                return done(Some(refusal));
            }
            self.mark(&mut family)?;
            if let Some(refusal) = self.create(&family)? {
                self.release(&family)?;
                return done(Some(refusal));
            }
        }
        self.delete(&family, root)?;
        done(None)
    }

    /// The run and all below it, each after its parent.
    fn load(&self, root: RunId) -> Result<Vec<StoredRun>, StoreError> {
        let mut family: Vec<StoredRun> = Vec::new();
        let mut next = vec![root];
        while let Some(id) = next.pop() {
            if let Some(stored) = self.from.load(id)? {
                next.extend(stored.children.iter().map(|(child, _)| *child));
                family.push(stored);
            }
        }
        Ok(family)
    }

    /// A run of the new store that has the key of one of them.
    fn conflict(&self, family: &[StoredRun]) -> Result<Option<Refusal>, StoreError> {
        for StoredRun { run, .. } in family {
            let Some(key) = &run.key else { continue };
            if let Some((by, _)) = self.to.by_key(key, Some(&run.workflow))?.first() {
                return Ok(Some(Refusal::KeyTaken { key: Arc::clone(key), by: *by }));
            }
        }
        Ok(None)
    }

    /// Pauses the unfinished runs of a family with the mark.
    fn mark(&self, family: &mut [StoredRun]) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        for stored in family.iter_mut().filter(|stored| !stored.run.status.is_ended()) {
            if !is_marked(stored.run.blocked_by.as_ref()) {
                let marked = mark(self.to.name(), stored.run.blocked_by.as_ref());
                batch.push(Write::Run(Box::new(update(stored, RunStatus::Paused, Some(marked.clone())))));
                stored.run.blocked_by = Some(marked);
            }
        }
        self.commit(&mut batch)
    }

    /// Has the unfinished runs of a family be as they were before they were marked.
    fn release(&self, family: &[StoredRun]) -> Result<(), StoreError> {
        let unfinished = family.iter().filter(|stored| !stored.run.status.is_ended());
        let mut batch: Batch = unfinished
            .filter_map(|stored| {
                let (_, before) = unmarked(stored.run.blocked_by.as_ref())?;
                let status = if before.is_some() { RunStatus::Paused } else { RunStatus::Running };
                Some(Write::Run(Box::new(update(stored, status, before))))
            })
            .collect();
        self.commit(&mut batch)
    }

    /// Ends the runs of a family that has moved, and deletes them.
    fn delete(&self, family: &[StoredRun], root: RunId) -> Result<(), StoreError> {
        let now = self.old_clock.now();
        let unfinished = family.iter().filter(|stored| !stored.run.status.is_ended());
        let mut batch: Batch = unfinished
            .map(|stored| {
                let update = update(stored, RunStatus::Cancelled, stored.run.blocked_by.clone());
                Write::Run(Box::new(RunUpdate { ended_at: Some(now), ..update }))
            })
            .collect();
        self.commit(&mut batch)?;
        self.from.delete(root).map(drop)
    }

    fn commit(&self, batch: &mut Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let _ = self.from.commit(self.old, batch)?;
        Ok(())
    }

    /// Writes a family into the new store, in one commit.
    fn create(&self, family: &[StoredRun]) -> Result<Option<Refusal>, StoreError> {
        let mut rows = Vec::with_capacity(family.len());
        let mut batch = Batch::new();
        let mut numbers: HashMap<RunId, Numbers> = HashMap::new();
        let mut workflows: BTreeMap<(Arc<str>, Arc<str>), StoredWorkflow> = BTreeMap::new();
        for stored in family {
            let version = (Arc::clone(&stored.run.workflow), Arc::clone(&stored.run.version));
            let workflow = match workflows.get(&version) {
                Some(workflow) => workflow.clone(),
                None => {
                    let workflow = self.to.register(&version.0, &version.1, &tasks(stored))?;
                    workflows.entry(version).or_insert(workflow).clone()
                }
            };
            let known = Numbers::of(stored, &workflow);
            let parent = stored.run.parent.and_then(|parent| {
                let above = family.iter().find(|above| above.run.id == parent)?;
                parent_of(above, stored, numbers.get(&parent)?)
            });
            rows.push(new_run(stored, &workflow, parent));
            self.writes(stored, &known, &mut batch)?;
            numbers.insert(stored.run.id, known);
        }
        let written = self.to.write(self.new, &mut Commit::new(CommitId::unique(), &[&rows], &mut batch))?;
        let refused = written.creations.into_iter().flatten().find_map(|creation| match creation {
            Creation::Created => None,
            Creation::Exists(row) | Creation::OtherInputs(row) => {
                Some(Refusal::KeyTaken { key: row.key.clone().unwrap_or_default(), by: row.id })
            }
            Creation::NumberTaken => Some(Refusal::NumberTaken),
        });
        Ok(refused)
    }

    /// All that is recorded of a run.
    fn writes(&self, stored: &StoredRun, numbers: &Numbers, batch: &mut Batch) -> Result<(), StoreError> {
        let run = stored.run.id.row();
        for row in &stored.rows {
            if let Some(task) = numbers.of_number(row.task) {
                batch.push(Write::Task(Box::new(TaskRow { task, ..row.clone() })));
            }
        }
        for (task, map, entry) in &stored.entries {
            let Some(task) = numbers.of_number(*task) else { continue };
            batch.push(Write::Entry { run, task, map: *map, entry: Arc::new(entry.clone()) });
            if let Some((number, _)) = entry.value.as_ref().and_then(taken_request)
                && let Some(answer) = self.from.answer(stored.run.id, number)?
            {
                let answered_at = entry.closed_at.unwrap_or(entry.opened_at);
                batch.push(Write::Answer { run, number, answer, answered_at });
            }
        }
        for message in &stored.messages {
            batch.push(Write::Message { run, message: Box::new(message.message.clone()), consumed: message.consumed });
        }
        for row in &stored.progress {
            if let Some(task) = numbers.of_number(row.task) {
                batch.push(Write::Progress(Box::new(ProgressRow { task, ..row.clone() })));
            }
        }
        for channel in self.from.channels(stored.run.id)? {
            self.events(stored, &channel, numbers, batch)?;
        }
        let (status, blocked_by) = match unmarked(stored.run.blocked_by.as_ref()) {
            Some((_, None)) => (RunStatus::Running, None),
            Some((_, before)) => (RunStatus::Paused, before),
            None => (stored.run.status, stored.run.blocked_by.clone()),
        };
        batch.push(Write::Run(Box::new(update(stored, status, blocked_by))));
        Ok(())
    }

    fn events(
        &self,
        stored: &StoredRun,
        channel: &Arc<str>,
        numbers: &Numbers,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        let all = EventRange::After { offset: 0, most: usize::MAX };
        let mut before = 0;
        for events in self.from.events(stored.run.id, channel, all)?.unwrap_or_default() {
            let last = events.last();
            // The events of a task that its workflow has no more belong to its first one.
            let Some(task) = numbers.of_name(&events.task) else { continue };
            batch.push(Write::Events(Box::new(NewEvents {
                run: stored.run.id.row(),
                channel: Arc::clone(channel),
                keep: None,
                skipped: events.first.saturating_sub(before + 1),
                count: events.count,
                task,
                map: events.map,
                attempt: events.attempt,
                entry: events.entry,
                emitted_at: events.emitted_at,
                packed: events.packed,
            })));
            before = last;
        }
        Ok(())
    }
}

/// The numbers of tasks in the new store.
struct Numbers {
    by_number: HashMap<TaskId, TaskId>,
    by_name: HashMap<Arc<str>, TaskId>,
}

impl Numbers {
    fn of(stored: &StoredRun, workflow: &StoredWorkflow) -> Self {
        let by_name: HashMap<Arc<str>, TaskId> =
            workflow.tasks.iter().map(|task| (Arc::clone(&task.name), task.id)).collect();
        let by_number = stored.tasks.iter().filter_map(|task| Some((task.id, *by_name.get(&task.name)?))).collect();
        Self { by_number, by_name }
    }

    /// `None` of a task that its version does not have.
    fn of_number(&self, task: TaskId) -> Option<TaskId> {
        self.by_number.get(&task).copied()
    }

    fn of_name(&self, task: &str) -> Option<TaskId> {
        self.by_name.get(task).or_else(|| self.by_name.values().min()).copied()
    }
}

fn tasks(stored: &StoredRun) -> Vec<NewTask> {
    let task = |task: &bide_core::record::RecordedTask| NewTask {
        name: Arc::clone(&task.name),
        dependencies: task.dependencies.clone(),
        over: task.over.clone(),
    };
    stored.tasks.iter().map(task).collect()
}

fn new_run(stored: &StoredRun, workflow: &StoredWorkflow, parent: Option<Parent>) -> NewRun {
    let run = &stored.run;
    let options = (!run.options.is_default()).then(|| Box::new(run.options.clone()));
    NewRun::new(run.id, workflow.number, workflow.version, run.created_at)
        .with_key(run.key.clone())
        .with_inputs(Arc::clone(&run.inputs))
        .with_options(options)
        .with_parent(parent.map(Arc::new))
}

/// The record in the journal of a run by which it has started another one.
fn parent_of(above: &StoredRun, child: &StoredRun, numbers: &Numbers) -> Option<Parent> {
    let starts = |value: &Option<bide_core::Value>| value.as_ref().and_then(RunId::from_value) == Some(child.run.id);
    let started = above
        .entries
        .iter()
        .find(|(.., entry)| matches!(entry.operation, Operation::Start { .. }) && starts(&entry.value));
    // A checkpoint may have dropped the record: the child still has its parent.
    let (task, map, key) = match started {
        Some((task, map, entry)) => (numbers.of_number(*task)?, *map, entry.key.clone()),
        None => {
            let key = EntryKey { name: "".into(), n: 0 };
            (numbers.by_name.values().min().copied()?, NO_MAP, key)
        }
    };
    Some(Parent { run: above.run.id, task, map, key, depth: child.run.depth })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_the_store_and_keeps_why_a_run_was_paused() {
        let requested = BlockReason::Requested { who: " by ana: the warehouse burns".into() };
        for before in [None, Some(requested), Some(BlockReason::Other("; before, this".into()))] {
            let marked = mark("postgresql://host/db", before.as_ref());
            assert!(is_marked(Some(&marked)));
            assert!(!marked.is_requested(), "nobody claims it");
            assert_eq!(unmarked(Some(&marked)), Some(("postgresql://host/db", before)));
        }
        assert_eq!(unmarked(Some(&BlockReason::Other("damaged".into()))), None);
        assert!(!is_marked(None));
    }
}
