//! Notes the polls of open waits with their runs, and shows them to those who look: of one run, and of a page of the open
//! waits of all.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bide_core::attempt::PollReport;
use bide_core::record::RunRowId;
use bide_core::{EntryKey, Event, Failure, RunId, TaskRef, Time};
use bide_store::{OpenWait, StoreError, WaitPosition};

use crate::clock::Clock;
use crate::host::{Dispatch, Gate, Host};
use crate::runs::polls::{GatePolls, NotedPolls, Place, Polls};
use crate::runs::run::Run;
use crate::runs::watch::Watch;

/// The wall's time at a time of the steady clock.
fn wall(clock: &dyn Clock, steady: Duration) -> Time {
    clock.now().after(steady.saturating_sub(clock.steady()))
}

impl<H: Host> Run<H> {
    /// A body is about to sleep until its next poll, which is due after `span` unless the report says when.
    /// Returns what is to be committed for those who look from elsewhere: errors that have changed.
    pub(crate) fn note_polls(
        &self,
        (task, attempt): (TaskRef, u32),
        reports: Vec<PollReport>,
        span: Duration,
        clock: &dyn Clock,
    ) -> Vec<Event> {
        if reports.is_empty() {
            return Vec::new();
        }
        let now = clock.steady();
        let mut rare = self.rare.lock();
        let noted = rare.get_or_insert_default().polls.entry(task).or_default();
        noted.retain(|known| reports.iter().any(|report| report.key == known.key));
        let mut events = Vec::new();
        for PollReport { key, polls, due, error } in reports {
            let polls = Polls { count: polls, next: Some(wall(clock, due.unwrap_or(now + span))), error };
            let at = noted.iter().position(|known| known.key == key).unwrap_or(noted.len());
            match noted.get_mut(at) {
                Some(known) => known.polls = polls,
                None => noted.push(NotedPolls::new(key.clone(), polls, self.state.lock().wait_error(task, &key))),
            }
            events.extend(noted[at].event(task, attempt, now));
        }
        events
    }

    /// What the condition of a gate has raised, if it has. A run whose gates raise nothing keeps nothing. Returns what is to
    /// be committed, as [`Run::note_polls`] does.
    pub(crate) fn note_gate_error(
        &self,
        (task, attempt): (TaskRef, u32),
        key: impl FnOnce() -> Option<EntryKey>,
        error: Option<&Failure>,
        now: Duration,
    ) -> Option<Event> {
        let mut rare = self.rare.lock();
        let is_noted = rare.as_ref().is_some_and(|rare| rare.polls.contains_key(&task));
        let key = (is_noted || error.is_some()).then(key).flatten()?;
        let noted = rare.get_or_insert_default().polls.entry(task).or_default();
        let at = noted.iter().position(|known| known.key == key).unwrap_or(noted.len());
        if at == noted.len() {
            noted.push(NotedPolls::new(key.clone(), Polls::default(), self.state.lock().wait_error(task, &key)));
        }
        noted[at].polls.error = error.cloned();
        noted[at].event(task, attempt, now)
    }

    /// Adds what is known of the polls of this run, beside what its gates' queue has.
    fn add_polls(&self, gates: &[GatePolls], clock: &dyn Clock, polls: &mut HashMap<Place, Polls>) {
        let ids = &self.workflow.ids;
        for gate in gates.iter().filter(|gate| gate.run == self.id.row()) {
            let spec = self.workflow.graph.spec(gate.task.ix).gate.as_ref().and_then(|spec| spec.part(gate.part));
            let (Some(spec), Some(id)) = (spec, ids.get(gate.task.ix as usize)) else { continue };
            let known = Polls { count: gate.count, next: Some(wall(clock, gate.due)), error: None };
            polls.insert((*id, gate.task.map, spec.key()), known);
        }
        let rare = self.rare.lock();
        for (task, noted) in rare.iter().flat_map(|rare| &rare.polls) {
            let Some(id) = ids.get(task.ix as usize) else { continue };
            for NotedPolls { key, polls: own, .. } in noted {
                match polls.get_mut(&(*id, task.map, key.clone())) {
                    Some(known) => known.error.clone_from(&own.error),
                    None => drop(polls.insert((*id, task.map, key.clone()), own.clone())),
                }
            }
        }
    }
}

impl<H: Host> Watch<H> {
    /// The polls of a run that is executed here.
    pub(super) fn polls_of(&self, run: &Run<H>) -> HashMap<Place, Polls> {
        let gates = self.control.dispatch.polls(&|gate: &Gate<H>| gate.run.id == run.id);
        let mut polls = HashMap::new();
        run.add_polls(&gates, &*self.control.clock, &mut polls);
        polls
    }

    /// A page of the open waits of all runs, each with its polls if it is executed here. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn open_waits(
        &self,
        after: Option<WaitPosition>,
        most: usize,
    ) -> Result<Vec<(OpenWait, Option<Polls>)>, StoreError> {
        let page = self.control.store().open_waits(after, most)?;
        let ids: HashSet<RunId> = page.iter().map(|wait| wait.run).collect();
        let live: HashMap<RunId, _> = ids.iter().filter_map(|id| Some((*id, self.control.runs.get(*id)?))).collect();
        if live.is_empty() {
            return Ok(page.into_iter().map(|wait| (wait, None)).collect());
        }
        let gates = self.control.dispatch.polls(&|gate: &Gate<H>| live.contains_key(&gate.run.id));
        let mut by_run: HashMap<RunRowId, Vec<GatePolls>> = HashMap::new();
        for gate in gates {
            by_run.entry(gate.run).or_default().push(gate);
        }
        let mut known = HashMap::with_capacity(live.len());
        for (id, run) in &live {
            let mut polls = HashMap::new();
            let gates = by_run.get(&id.row()).map_or(&[][..], Vec::as_slice);
            run.add_polls(gates, &*self.control.clock, &mut polls);
            known.insert(*id, polls);
        }
        let mut polls =
            |wait: &OpenWait| known.get_mut(&wait.run)?.remove(&(wait.task, wait.map, wait.entry.key.clone()));
        Ok(page.into_iter().map(|wait| (wait.clone(), polls(&wait))).collect())
    }
}
