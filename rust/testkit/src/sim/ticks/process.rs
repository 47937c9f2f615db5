//! A process that serves the schedules of a world and executes their runs.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{Event, Graph, NO_MAP, Outcome, TaskRef, TaskSpec, Value};
use bide_executor::drive::{Driver, Gathering};
use bide_executor::{Clock, Engine, Ready, RegisteredWorkflow, Run, ScheduleError};
use bide_store::{MemoryStore, Store};

use super::super::host::{Outbox, SimBody, SimHost};
use super::super::plan::TaskPlan;
use super::Planned;
use crate::clock::VirtualClock;
use crate::fault::FaultyStore;

/// A body that executes.
struct Body {
    run: Arc<Run<SimHost>>,
    task: TaskRef,
    attempt: u32,
    /// When it returns, by the steady clock.
    until: Duration,
}

pub(super) struct Process {
    driver: Driver<SimHost>,
    pub(super) store: Arc<FaultyStore>,
    clock: Arc<VirtualClock>,
    workflow: Arc<RegisteredWorkflow<SimHost>>,
    gathering: Gathering<SimHost>,
    bodies: Vec<Body>,
    /// It is stopped until this moment, by the steady clock.
    pub(super) frozen_until: Duration,
}

impl Process {
    /// Opens the store and defines the schedules, as the program of a user does when it starts.
    pub(super) fn start(
        base: &Arc<MemoryStore>,
        clock: &Arc<VirtualClock>,
        seed: u64,
        planned: &[Planned],
    ) -> Option<Self> {
        let store = FaultyStore::new(Arc::clone(base) as Arc<dyn Store>);
        let (kept, ticking) = (Arc::clone(&store) as Arc<dyn Store>, Arc::clone(clock) as Arc<dyn Clock>);
        let driver = Driver::open(kept, ticking, Outbox::default(), Box::new(|_, _| ()), seed).ok()?;
        let graph = Arc::new(Graph::build("workflow", vec![TaskSpec::new("task")], false).ok()?);
        let body = SimBody::of(&TaskPlan::plain(0));
        let workflow = driver.engine().register(graph, [body].into()).ok()?;
        let gathering = driver.gathering();
        let (clock, frozen_until) = (Arc::clone(clock), Duration::ZERO);
        let process = Self { driver, store, clock, workflow, gathering, bodies: Vec::new(), frozen_until };
        planned.iter().all(|planned| process.define(planned).is_ok()).then_some(process)
    }

    pub(super) fn define(&self, planned: &Planned) -> Result<(), ScheduleError> {
        self.engine().schedule(&self.workflow, &planned.request()).map(drop)
    }

    pub(super) fn engine(&self) -> &Arc<Engine<SimHost>> {
        self.driver.engine()
    }

    pub(super) fn runner(&self) -> i64 {
        self.driver.lease().runner
    }

    pub(super) fn is_over(&self) -> bool {
        self.engine().stopped().is_some()
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.clock.steady() < self.frozen_until
    }

    /// One of its threads has a turn.
    pub(super) fn turn(&mut self, which: usize, planned: &[Planned]) {
        if self.is_frozen() || self.is_over() {
            return;
        }
        match which {
            0 => drop(self.driver.timer_turn()),
            1 => self.driver.lease_turn(),
            2 => self.driver.schedules_turn(),
            3 => self.driver.committer_turn(),
            _ => self.bodies_move(planned),
        }
    }

    /// Bodies that are ready begin, and those whose time is over return.
    fn bodies_move(&mut self, planned: &[Planned]) {
        let ready: Vec<Ready<SimHost>> = self.engine().dispatch().ready.lock().drain(..).collect();
        for ready in ready {
            self.begin(ready, planned);
        }
        let now = self.clock.steady();
        let is_over = |body: &mut Body| body.until <= now || body.run.state.lock().cancel().is_some();
        let over: Vec<Body> = self.bodies.extract_if(.., is_over).collect();
        for Body { run, task, attempt, .. } in over {
            let outcome = Outcome::Completed { output: Value::tagged(b'n', b""), changes: None };
            let _ = self.driver.gather(&self.gathering, run, Event::Ended { task, attempt, outcome });
        }
        if !self.gathering.is_empty() {
            let ready = self.driver.commit(&self.gathering);
            self.engine().dispatch().ready.lock().extend(ready);
        }
    }

    fn begin(&mut self, ready: Ready<SimHost>, planned: &[Planned]) {
        let Some(ready) = self.driver.unless_overdue(ready) else { return };
        let Some((Ready { run, task }, _turn)) = self.driver.admit_suspect(ready) else { return };
        debug_assert_eq!(task.map, NO_MAP);
        if !self.driver.may_start() {
            return;
        }
        let Some(entered) = self.driver.enter(&run, task) else { return };
        let attempt = entered.attempt;
        let event = Event::Started { task, attempt };
        if entered.mark && self.driver.commit_own(None, &run, event).is_err() {
            return;
        }
        let key = run.key.clone().unwrap_or_else(|| "".into());
        let name = key.split('@').next().unwrap_or_default();
        let lasts =
            planned.iter().find(|planned| *planned.name == *name).map_or(Duration::ZERO, |planned| planned.lasts);
        self.bodies.push(Body { run, task, attempt, until: self.clock.steady() + lasts });
    }
}
