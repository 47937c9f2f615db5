//! The store of runs that need not outlive their process: everything behind one lock, values moved in, not copied.
//!
//! It can outlive a runner: a program that keeps the `Arc` can open another one on it. It keeps the last
//! [`KEPT`] ended runs and forgets older ones as new ones end.

mod claims;
mod convert;
mod limits;
mod live;
mod look;
mod messages;
mod run;
mod schedules;
mod snapshot;
mod state;
mod watches;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bide_core::record::{NewRun, NewTask, RunRowId, StoredRun, Write};
use bide_core::{
    Ask, Cancel, Failure, Message, MessageKind, RunId, RunStatus, StoredEvents, StoredMessage, TaskId, Time, Value,
};
use bide_sync::Mutex;

use crate::changes::ChangeLog;
use crate::{
    Changes, Commit, CommitId, Conversion, Converted, Creation, EventRange, LEASE, Lease, LeaseTime, Maintenance,
    Purged, RunFilter, Seen, Sent, Standing, Store, StoreError, StoredVersion, StoredWorkflow, Written,
};
use run::MemRun;
pub use snapshot::MemorySnapshot;
use state::{MemRunner, MemVersion, MemWorkflow, State};

/// How many ended runs are kept.
pub const KEPT: usize = 1000;

/// Runs in memory.
pub struct MemoryStore {
    /// All that is stored.
    state: Mutex<State>,
    /// How often it has lost what was stored last.
    history: AtomicU64,
    /// What runners poll for changes.
    changes: ChangeLog,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { state: Mutex::default(), history: AtomicU64::new(0), changes: ChangeLog::new(false) }
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }
}

impl Store for MemoryStore {
    fn name(&self) -> &str {
        ":memory:"
    }

    fn blocks(&self) -> bool {
        false
    }

    fn history(&self) -> u64 {
        self.history.load(Ordering::SeqCst)
    }

    fn enroll(&self, now: LeaseTime) -> Result<Lease, StoreError> {
        let state = &mut *self.state.lock();
        state.last_runner += 1;
        let expires = Some(now.after(LEASE).micros());
        state.runners.insert(state.last_runner, MemRunner { epoch: 1, died: false, expires, started_at: now.wall });
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
        if self.state.lock().leave(lease) {
            self.changes.unowned();
        }
        Ok(())
    }

    fn give_back(&self, lease: Lease, runs: &[RunRowId]) -> Result<(), StoreError> {
        self.state.lock().give_back(lease, runs)?;
        self.changes.unowned();
        Ok(())
    }

    fn register(&self, name: &str, version: &str, tasks: &[NewTask]) -> Result<StoredWorkflow, StoreError> {
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
            let tasks = tasks.iter().map(|task| {
                let next = names.len() as TaskId;
                let id = *names.entry(Arc::clone(&task.name)).or_insert(next);
                task.recorded(id)
            });
            let (tasks, number) = (tasks.collect(), state.versions.len() as i64);
            state.versions.push(MemVersion { workflow, hash: version.into(), tasks, signals: None });
            of_workflow.versions.push(number);
            number
        });
        let recorded = &state.versions[version as usize];
        let (tasks, signals) = (recorded.tasks.clone(), recorded.signals.clone());
        Ok(StoredWorkflow { number: workflow, version, tasks, signals })
    }

    fn declare(&self, version: i64, signals: Option<&[String]>) -> Result<(), StoreError> {
        let state = &mut *self.state.lock();
        let recorded = usize::try_from(version).ok().and_then(|version| state.versions.get_mut(version));
        recorded.into_iter().for_each(|version| version.signals = signals.map(Into::into));
        Ok(())
    }

    fn write(&self, lease: Lease, commit: &mut Commit<'_>) -> Result<Written, StoreError> {
        // Declared before the lock is taken, so that old runs are freed after it is released.
        let mut forgotten = Vec::new();
        let state = &mut *self.state.lock();
        state.fence(lease)?;
        let mut inserted = Vec::new();
        let creations = state.create_requests(lease, commit.requests, &mut inserted)?;
        let skipped = if creations.is_empty() { Vec::new() } else { commit.not_created(&creations) };
        if let Err(error) = state.check(commit.batch, &skipped) {
            for row in inserted {
                state.forget(row);
            }
            return Err(error);
        }
        if let Some((_, lines)) = commit.claims {
            state.pass_on(lease, lines);
        }
        let mut changes = None;
        let (mut answered, mut posted, mut released, mut standing) = (false, false, false, Vec::new());
        for write in commit.batch.drain(..) {
            if skipped.binary_search(&write.run()).is_ok() {
                continue;
            }
            released |= state.limits.written(&write);
            if let Write::Run(update) = &write {
                standing.extend(update.stands().then_some(update.run));
                changes.get_or_insert_with(|| self.changes.lock()).run(update.run);
            }
            answered |= matches!(write, Write::Answer { .. });
            if let Write::Message { run, message, consumed: false } = &write
                && message.address.kind == MessageKind::Control
            {
                // To another run.
                posted = true;
                let found = state.runs.get(run).map(|found| (found.status, found.is_held()));
                if found.is_some_and(|(status, held)| Ask::reopens(&message.address.name, status, held)) {
                    state.reopen(*run);
                    changes.get_or_insert_with(|| self.changes.lock()).run(*run);
                }
            }
            let write = match write {
                Write::Events(new) => {
                    state.append(*new);
                    continue;
                }
                Write::Progress(row) => {
                    state.live.set_progress(*row);
                    continue;
                }
                write => write,
            };
            if let Some(ended) = run::apply(&mut state.runs, &mut state.texts, &mut state.messages, write) {
                forgotten.append(&mut state.ended(ended, KEPT));
            }
        }
        drop(changes);
        if posted {
            self.changes.unowned();
        }
        for run in standing {
            released |= state.limits.stand(run, &state.runs);
        }
        let answers = commit.claims.map(|(now, lines)| {
            let (answers, freed) = state.answer_all(lease, now, lines);
            released |= freed;
            answers
        });
        if state.limits_released(released, lease) {
            self.changes.limits();
        }
        if answered {
            // Another runner may wait for it.
            self.changes.mail();
        }
        Ok(Written { answers, ..Written::of(creations) })
    }

    fn create_unowned(&self, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        let created = self.state.lock().create_unowned(runs)?;
        if created.contains(&Creation::Created) {
            self.changes.unowned();
        }
        Ok(created)
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
        let runs = state.unowned.iter().map(|row| &state.runs[row]).filter(|run| !run.stands());
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
        if lease != Lease::NONE {
            state.fence(lease)?;
        }
        let lapsed: Vec<i64> = (state.runners.iter())
            .filter(|(id, runner)| {
                let lapsed = |expires| runner.died || (lease != Lease::NONE && expires <= now.micros());
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
            !run.stands() && versions.contains(&run.version)
        };
        let claimed: Vec<RunRowId> = state.unowned.iter().filter(fits).take(limit).copied().collect();
        let mut ids = Vec::with_capacity(claimed.len());
        for row in &claimed {
            state.unowned.remove(row);
            if let Some(run) = state.runs.get_mut(row) {
                run.runner = Some(lease.runner);
                if !run.is_held() {
                    run.status = RunStatus::Running;
                }
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
            held: found.is_held(),
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
                && filter.tags.iter().all(|(name, value)| {
                    run.options.as_ref().is_some_and(|options| options.tags.get(name) == Some(value))
                })
                && filter
                    .key_prefix
                    .as_ref()
                    .is_none_or(|prefix| run.key.as_ref().is_some_and(|key| key.starts_with(&**prefix)))
                && filter.ids.as_ref().is_none_or(|ids| ids.contains(&run.id))
                && filter.parent.is_none_or(|parent| run.parent.as_ref().is_some_and(|above| above.run == parent))
                && filter.workflow.as_ref().is_none_or(|name| **name == *state.workflows[run.workflow as usize].name)
        };
        let mut found: Vec<&MemRun> = state.runs.values().filter(fits).collect();
        found.sort_unstable_by_key(|run| std::cmp::Reverse(run.id.row()));
        found.truncate(filter.limit.unwrap_or(usize::MAX));
        Ok(found.into_iter().map(|run| state.listed(run)).collect())
    }

    fn events(&self, run: RunId, channel: &str, range: EventRange) -> Result<Option<Vec<StoredEvents>>, StoreError> {
        let state = &*self.state.lock();
        let found = state.runs.get(&run.row()).filter(|found| found.id == run);
        Ok(found.map(|_| state.live.read(run.row(), channel, range)))
    }

    fn children(&self, run: RunId) -> Result<Vec<(RunId, RunStatus)>, StoreError> {
        Ok(self.state.lock().children_of(run.row()))
    }

    fn delete(&self, run: RunId) -> Result<bool, StoreError> {
        let row = run.row();
        let state = &mut *self.state.lock();
        let is_root = |found: &MemRun| found.id == run && found.parent.is_none();
        if !state.runs.get(&row).is_some_and(is_root) || !state.has_ended(row) {
            return Ok(false);
        }
        state.ended.retain(|id| *id != row);
        state.forget_tree(row);
        Ok(true)
    }

    fn send(&self, run: RunId, message: &Message) -> Result<Sent, StoreError> {
        let state = &mut *self.state.lock();
        let Some(found) = state.runs.get(&run.row()).filter(|found| found.id == run) else { return Ok(Sent::NoRun) };
        let (kind, name) = (message.address.kind, &message.address.name);
        if kind == MessageKind::Answer
            && let Some(answered) = state.messages.answered(run.row(), message)
        {
            return Ok(answered);
        }
        if kind == MessageKind::Control && Ask::reopens(name, found.status, found.is_held()) {
            state.reopen(run.row());
            self.changes.lock().run(run.row());
            self.changes.unowned();
            return Ok(state.messages.send(run.row(), message));
        }
        if found.status.is_ended() {
            return Ok(Sent::Ended(found.status));
        }
        if kind == MessageKind::Answer {
            if !found.has_callback(name) {
                return Ok(Sent::NoCallback);
            }
        } else if !matches!(kind, MessageKind::Withdrawal | MessageKind::Control)
            && let Some(signals) = &state.versions[found.version as usize].signals
            && !signals.iter().any(|known| **known == **name)
        {
            return Ok(Sent::Undeclared(signals.clone()));
        }
        let sent = state.messages.send(run.row(), message);
        if sent == Sent::Stored {
            self.changes.mail();
        }
        Ok(sent)
    }

    fn unowned_of(&self, version: i64) -> Result<Vec<RunId>, StoreError> {
        let state = &*self.state.lock();
        let runs = state.unowned.iter().map(|row| &state.runs[row]);
        Ok(runs.filter(|run| !run.stands() && run.version == version).map(|run| run.id).collect())
    }

    fn convert(&self, run: RunId, conversion: &Conversion) -> Result<Converted, StoreError> {
        let converted = self.state.lock().convert(run, conversion);
        if converted == Converted::Done {
            self.changes.lock().run(run.row());
            self.changes.unowned();
        }
        Ok(converted)
    }

    fn end_unowned(&self, run: RunId, cancel: &Cancel, force: &Message) -> Result<bool, StoreError> {
        let state = &mut *self.state.lock();
        let row = run.row();
        let Some(found) = state.runs.get_mut(&row).filter(|found| found.id == run && found.runner.is_none()) else {
            return Ok(false);
        };
        if found.status.is_ended() {
            return Ok(false);
        }
        found.end_cancelled(cancel);
        state.messages.insert(row, force.clone(), true);
        state.limits.release_run(row);
        drop(state.ended(row, KEPT));
        self.changes.lock().run(row);
        self.changes.unowned();
        Ok(true)
    }

    fn messages(&self, run: RunId, after: i64) -> Result<Vec<StoredMessage>, StoreError> {
        Ok(self.state.lock().messages.of(run.row(), after))
    }

    fn arrivals(&self) -> Option<u64> {
        Some(self.state.lock().messages.arrivals)
    }

    fn mail(&self, after: i64) -> Result<Vec<(i64, RunRowId)>, StoreError> {
        Ok(self.state.lock().messages.since(after))
    }

    fn answer(&self, run: RunId, request: i64) -> Result<Option<Result<Value, Failure>>, StoreError> {
        Ok(self.state.lock().messages.answer(run.row(), request))
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
        ended.retain(|id| state.runs[id].ended_at.is_some_and(|ended| ended < before) && state.has_ended(*id));
        state.ended.retain(|id| ended.binary_search(id).is_err());
        for id in ended {
            forgotten.append(&mut state.forget_tree(id));
        }
        Ok(Purged { runs: forgotten.len(), next })
    }

    fn shrink(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
}
