//! What is under way in a store in memory. There is no index of open waits: each page looks at all entries, and puts
//! only its own into order.

use std::collections::BTreeMap;
use std::sync::Arc;

use bide_core::record::{RunRowId, StoredRun};
use bide_core::{Entry, EntryKind, EntryState, Message, MessageKind, RunId, TaskId};

use super::MemoryStore;
use super::state::State;
use crate::{Look, OpenWait, RunnerInfo, StoreError, UnownedRuns, WaitPosition};

/// How many entries are looked at together.
const AT_ONCE: usize = 1024;

impl State {
    /// The entries of all runs that have not ended.
    fn entries(&self) -> impl Iterator<Item = (RunRowId, TaskId, i32, &Entry)> {
        let unfinished = self.runs.iter().filter(|(_, run)| !run.status.is_ended());
        unfinished.flat_map(|(row, run)| run.shared_entries().map(|(task, map, entry)| (*row, task, map, entry)))
    }

    /// An open entry, if its task and its run have not ended, and if it is a wait.
    fn open_wait(&self, place: &WaitPosition, entry: &Entry) -> Option<OpenWait> {
        let WaitPosition { run, task, map, .. } = *place;
        let found = self.runs.get(&run).filter(|run| !run.status.is_ended())?;
        let is_wait = entry.kind() != EntryKind::Step || entry.due().is_some();
        if !is_wait || found.task_status(task, map).is_some_and(|status| status.is_ended()) {
            return None;
        }
        let workflow = self.workflows.get(found.workflow as usize)?;
        let name = workflow.tasks.iter().find(|(_, id)| **id == task).map(|(name, _)| Arc::clone(name))?;
        let (key, workflow) = (found.key.clone(), Arc::clone(&workflow.name));
        Some(OpenWait { run: found.id, key, workflow, task, map, name, entry: entry.clone() })
    }
}

impl Look for MemoryStore {
    fn open_waits(&self, after: Option<WaitPosition>, most: usize) -> Result<Vec<OpenWait>, StoreError> {
        let state = &*self.state.lock();
        let place =
            |run, task, map, entry: &Entry| WaitPosition { opened_at: entry.opened_at, run, task, map, seq: entry.seq };
        let (mut entries, mut open) = (state.entries(), Vec::new());
        loop {
            // Found before any of them is read: then their cache misses overlap.
            let found: Vec<_> = entries.by_ref().take(AT_ONCE).collect();
            if found.is_empty() {
                break;
            }
            let waits = found.into_iter().filter(|(.., entry)| entry.state == EntryState::Open);
            let placed = waits.map(|(run, task, map, entry)| (place(run, task, map, entry), entry));
            open.extend(placed.filter(|(place, _)| after.is_none_or(|after| *place > after)));
        }
        let (mut rest, mut waits) = (&mut *open, Vec::new());
        // Only what is shown is put into order.
        while waits.len() < most && !rest.is_empty() {
            let next = most.saturating_mul(2).clamp(64, rest.len().max(64)).min(rest.len());
            rest.select_nth_unstable_by_key(next - 1, |(place, _)| *place);
            let (head, tail) = rest.split_at_mut(next);
            head.sort_unstable_by_key(|(place, _)| *place);
            waits.extend(head.iter().filter_map(|(place, entry)| state.open_wait(place, entry)));
            rest = tail;
        }
        waits.truncate(most);
        Ok(waits)
    }

    fn load_open(&self, run: RunId) -> Result<Option<StoredRun>, StoreError> {
        let state = &*self.state.lock();
        let found = state.runs.get(&run.row()).filter(|found| found.id == run);
        Ok(found.map(|run| state.stored(run).into_open()))
    }

    fn requests(&self, run: RunId) -> Result<Vec<Message>, StoreError> {
        let messages = self.state.lock().messages.of(run.row(), 0).into_iter().map(|stored| stored.message);
        Ok(messages.filter(|message| message.address.kind == MessageKind::Control).collect())
    }

    fn channels(&self, run: RunId) -> Result<Vec<Arc<str>>, StoreError> {
        let state = &*self.state.lock();
        let found = state.runs.get(&run.row()).filter(|found| found.id == run);
        Ok(found.map(|_| state.live.channels(run.row())).unwrap_or_default())
    }

    fn runner(&self, runner: i64) -> Result<Option<RunnerInfo>, StoreError> {
        let state = &*self.state.lock();
        let known = state.runners.get(&runner).filter(|runner| runner.expires.is_some());
        Ok(known.map(|known| RunnerInfo { pid: std::process::id(), host: String::new(), started_at: known.started_at }))
    }

    fn unowned_runs(&self) -> Result<Vec<UnownedRuns>, StoreError> {
        let state = &*self.state.lock();
        let runs = state.unowned.iter().map(|row| &state.runs[row]).filter(|run| !run.stands());
        let mut found: BTreeMap<(i64, i64), UnownedRuns> = BTreeMap::new();
        for run in runs {
            let unowned = found.entry((run.workflow, run.version)).or_insert_with(|| UnownedRuns {
                workflow: Arc::clone(&state.workflows[run.workflow as usize].name),
                version: Arc::clone(&state.versions[run.version as usize].hash),
                count: 0,
                example: run.id,
            });
            unowned.count += 1;
        }
        Ok(found.into_values().collect())
    }
}
