//! What holds a run: its rows with the open waits, who has it, and how its conditions were polled. The host makes words
//! of it.

use std::collections::HashMap;

use bide_core::record::{RunRowId, StoredRun};
use bide_core::{EntryState, RunId, TaskId, TaskRef};
use bide_store::{RunnerInfo, StoreError};

use crate::host::Host;
use crate::runs::polls::{Place, Polls};
use crate::runs::recover::NotRegistered;
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
    /// Who has it.
    pub owner: Owner,
    /// Why it is not executed here, if nobody has it.
    pub not_here: Option<NotRegistered>,
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
        if let Some(run) = self.control.runs.get(id) {
            let stored = self.committed_as(&run, Run::snapshot_with_waits)?;
            let polls = self.polls_of(&run);
            return Ok(Some(Explained { stored: open_only(stored), owner: Owner::Here, not_here: None, polls }));
        }
        let Some(stored) = self.control.store().load(id)? else { return Ok(None) };
        let (owner, not_here) = match stored.run.status.is_ended() {
            true => (Owner::Nobody, None),
            false => (self.owner(stored.run.runner)?, self.recovery.why_not_here(id, &(&stored.run).into())),
        };
        Ok(Some(Explained { stored: open_only(stored), owner, not_here, polls: HashMap::new() }))
    }

    fn owner(&self, runner: Option<RunRowId>) -> Result<Owner, StoreError> {
        let Some(runner) = runner else { return Ok(Owner::Nobody) };
        let store = self.control.store();
        let info = store.runner(runner)?;
        let is_alive = store.is_alive(runner, self.control.clock.lease_time())?;
        Ok(info.filter(|_| is_alive).map_or(Owner::Gone, Owner::Other))
    }
}

fn open_only(mut stored: StoredRun) -> StoredRun {
    stored.entries.retain(|(.., entry)| entry.state == EntryState::Open);
    stored
}
