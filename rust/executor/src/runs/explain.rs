//! What holds a run: its rows with the open waits, who has it, and how its conditions were polled. The host makes words
//! of it.

use std::collections::{HashMap, HashSet};

use bide_core::record::{RunRowId, StoredRun};
use bide_core::{Message, RunId, SubStatus, TaskId, TaskRef, Time};
use bide_store::{RunnerInfo, StoreError};

use crate::host::Host;
use crate::limits::HeldBack;
use crate::runs::not_registered::NotRegistered;
use crate::runs::polls::{Place, Polls};
use crate::runs::run::Run;
use crate::runs::watch::Watch;

/// Who has a run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This engine.
    Here,
    /// Another runner, which is alive.
    Other(RunnerInfo),
    /// A runner that is gone: its process has ended, or its lease has run out.
    Gone,
    /// No runner.
    Nobody,
}

/// What is known of a run.
#[derive(Debug)]
pub struct Explained {
    /// Its rows, with what only this process knows. Of its journals the open entries.
    pub stored: StoredRun,
    /// What was asked of it, the oldest first.
    pub requests: Vec<Message>,
    /// When it begins, if that is still to come.
    pub starts_at: Option<Time>,
    /// Who has it.
    pub owner: Owner,
    /// Why it is not executed here, if nobody has it.
    pub not_here: Option<NotRegistered>,
    /// The tasks that limits hold back, if it is executed here.
    pub held_back: Vec<HeldBack>,
    /// The polls of its open waits, if it is executed here.
    polls: HashMap<Place, Polls>,
}

impl Explained {
    /// The polls of an open wait, if they are known here.
    #[must_use]
    pub fn polls(&self, task: TaskId, map: i32, key: &bide_core::EntryKey) -> Option<&Polls> {
        self.polls.get(&(task, map, key.clone()))
    }
}

impl<H: Host> Run<H> {
    /// As [`Run::snapshot`], with the open entries of its journals.
    fn snapshot_with_waits(&self) -> StoredRun {
        // In this order: a wait that is opened in between is not shown without its row.
        let open = self.state.lock().all_open_entries();
        let id = |task: TaskRef| self.workflow.ids[task.ix as usize];
        let entries = open.into_iter().map(|(task, entry)| (id(task), task.map, entry)).collect();
        StoredRun { entries, ..self.snapshot() }
    }
}

impl<H: Host> Watch<H> {
    /// What holds a run. `None` if there is none. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn explain(&self, id: RunId) -> Result<Option<Explained>, StoreError> {
        let store = self.control.store();
        let (stored, owner, not_here, polls) = if let Some(run) = self.control.runs.get(id) {
            let mut stored = self.committed_as(&run, Run::snapshot_with_waits)?.into_open();
            // A body whose wait is over and that has no slot yet executes no more than before.
            let place = |task: TaskRef| (run.workflow.ids[task.ix as usize], task.map);
            let queued: HashSet<(TaskId, i32)> = self.control.slot_queue.of(id.row()).into_iter().map(place).collect();
            for row in stored.rows.iter_mut().filter(|row| queued.contains(&(row.task, row.map))) {
                row.sub_status = row.sub_status.map(|_| SubStatus::Deferred);
            }
            (stored, Owner::Here, None, self.polls_of(&run))
        } else {
            let Some(stored) = store.load_open(id)? else { return Ok(None) };
            let (owner, not_here) = match stored.run.status.is_ended() {
                true => (Owner::Nobody, None),
                false => (self.owner(stored.run.runner)?, self.recovery.why_not_here(id, &(&stored.run).into())),
            };
            (stored, owner, not_here, HashMap::new())
        };
        let now = self.control.clock.now();
        let starts_at = stored.run.options.start_at.filter(|at| *at > now && stored.run.cancel.is_none());
        let requests = store.requests(id)?;
        let held_back = self.control.limits.held_back(id.row());
        Ok(Some(Explained { stored, requests, starts_at, owner, not_here, held_back, polls }))
    }

    fn owner(&self, runner: Option<RunRowId>) -> Result<Owner, StoreError> {
        let Some(runner) = runner else { return Ok(Owner::Nobody) };
        let store = self.control.store();
        let info = store.runner(runner)?;
        let is_alive = store.is_alive(runner, self.control.clock.lease_time())?;
        Ok(info.filter(|_| is_alive).map_or(Owner::Gone, Owner::Other))
    }
}
