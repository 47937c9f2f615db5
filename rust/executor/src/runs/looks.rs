//! Notes the polls of open waits with their runs, and shows them to those who look: of one run, and of a page of the open
//! waits of all.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bide_core::attempt::polling::Polling;
use bide_core::attempt::{Call, PollReport, Sleep};
use bide_core::record::RunRowId;
use bide_core::{EntryKey, Event, Failure, RunId, TaskRef, Time};
use bide_store::{OpenWait, StoreError, WaitPosition};

use crate::clock::Clock;
use crate::host::{Dispatch, Gate, Host};
use crate::runs::polls::{GatePolls, NotedPolls, Place, Polls, RestingPolls};
use crate::runs::run::Run;
use crate::runs::watch::Watch;

/// The wall's time at a time of the steady clock.
fn wall(clock: &dyn Clock, steady: Duration) -> Time {
    clock.now().after(steady.saturating_sub(clock.steady()))
}

impl<H: Host> Run<H> {
    /// A body is about to sleep in a call. Returns what is to be committed, as [`Run::note_polls`] does.
    pub(crate) fn note_sleep(&self, body: (TaskRef, u32), call: &Call, sleep: Sleep, clock: &dyn Clock) -> Vec<Event> {
        match sleep {
            Sleep::Poll(span) | Sleep::PollOrClosed(span) => {
                self.note_polls(body, |report| call.polls(report), span, clock)
            }
            Sleep::Until(_) | Sleep::Closed => Vec::new(),
        }
    }

    /// Whether anything is noted of the polls of a task.
    pub(crate) fn has_noted_polls(&self, task: TaskRef) -> bool {
        self.rare.lock().as_ref().is_some_and(|rare| rare.polls.contains_key(&task))
    }

    /// Notes polls, of which the next is due after `span`, unless a report says when. Returns what is to be committed for
    /// those who look from elsewhere: errors that have changed.
    pub(crate) fn note_polls(
        &self,
        (task, attempt): (TaskRef, u32),
        reports: impl FnOnce(&mut dyn FnMut(PollReport)),
        span: Duration,
        clock: &dyn Clock,
    ) -> Vec<Event> {
        let (now, mut events) = (clock.steady(), Vec::new());
        let mut rare = self.rare.lock();
        reports(&mut |PollReport { key, polls, due, error }| {
            let noted = rare.get_or_insert_default().polls.entry(task);
            // Most have one, and thousands may wait.
            let noted = noted.or_insert_with(|| Vec::with_capacity(1));
            let polls = Polls { count: polls, next: Some(wall(clock, due.unwrap_or(now + span))), error };
            let at = noted.iter().position(|known| known.key == key).unwrap_or(noted.len());
            if at == noted.len() {
                let written = self.state.lock().wait_error(task, &key).map(ToString::to_string);
                noted.push(NotedPolls::new(key, Polls::default(), written));
            }
            noted[at].polls = polls;
            noted[at].is_open = true;
            events.extend(noted[at].event(task, attempt, now));
        });
        let noted = rare.as_mut().and_then(|rare| rare.polls.get_mut(&task));
        // Of a body's waits those that it has left are forgotten. Each part of a gate is noted by itself.
        noted.into_iter().for_each(|noted| {
            noted.retain_mut(|known| std::mem::take(&mut known.is_open) || known.key.n == 0);
        });
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
            let written = self.state.lock().wait_error(task, &key).map(ToString::to_string);
            noted.push(NotedPolls::new(key, Polls::default(), written));
        }
        noted[at].polls.error = error.cloned();
        noted[at].event(task, attempt, now)
    }

    /// Adds what is known of the polls of this run, beside what its gates' queue and the coroutines' have.
    fn add_polls(
        &self,
        gates: &[GatePolls],
        resting: impl Iterator<Item = RestingPolls>,
        clock: &dyn Clock,
        polls: &mut HashMap<Place, Polls>,
    ) {
        let ids = &self.workflow.ids;
        for RestingPolls { task, key, count, due, .. } in resting {
            let Some(id) = ids.get(task.ix as usize) else { continue };
            let known = Polls { count, next: due.map(|due| wall(clock, due)), error: None };
            polls.insert((*id, task.map, key), known);
        }
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

impl<H: Host> Gate<H> {
    /// A task or a coroutine that polls this gate alone is about to sleep. Returns what is to be committed, as
    /// [`Run::note_polls`] does.
    pub(crate) fn note_polls(&self, polling: &Polling, span: Duration, clock: &dyn Clock) -> Vec<Event> {
        let report = self.spec().map(|spec| polling.report(&spec.key(), None));
        self.run.note_polls((self.task, self.attempt), |to| report.into_iter().for_each(to), span, clock)
    }
}

impl<H: Host> Watch<H> {
    /// The polls of a run that is executed here.
    pub(super) fn polls_of(&self, run: &Run<H>) -> HashMap<Place, Polls> {
        let gates = self.control.dispatch.polls(&|gate: &Gate<H>| gate.run.id == run.id);
        let resting = self.control.dispatch.resting(&|other| other.id == run.id).into_iter();
        let mut polls = HashMap::new();
        run.add_polls(&gates, resting, &*self.control.clock, &mut polls);
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
        let mut resting: HashMap<RunRowId, Vec<RestingPolls>> = HashMap::new();
        for polls in self.control.dispatch.resting(&|run| live.contains_key(&run.id)) {
            resting.entry(polls.run).or_default().push(polls);
        }
        let mut known = HashMap::with_capacity(live.len());
        for (id, run) in &live {
            let mut polls = HashMap::new();
            let gates = by_run.get(&id.row()).map_or(&[][..], Vec::as_slice);
            let resting = resting.remove(&id.row()).unwrap_or_default().into_iter();
            run.add_polls(gates, resting, &*self.control.clock, &mut polls);
            known.insert(*id, polls);
        }
        let mut polls =
            |wait: &OpenWait| known.get_mut(&wait.run)?.remove(&(wait.task, wait.map, wait.entry.key.clone()));
        Ok(page.into_iter().map(|wait| (wait.clone(), polls(&wait))).collect())
    }
}
