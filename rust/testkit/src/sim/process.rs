//! A simulated process: the engine's own code for everything that is committed, created, claimed and timed; the real
//! slot and pacing machines; and in the place of each thread a move that the scheduler may choose or not.

mod bodies;
mod end;
mod gates;
mod others;
mod parked;
mod slots;
mod sources;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{RunRow, RunRowId};
use bide_core::{Control, Graph, RunId, TaskIx, TaskRef, Time, Value};
use bide_executor::drive::{Allowance, Driver, Gathering};
use bide_executor::{
    Clock, Handle, Letter, NotRegistered, PendingRequest, Ready, RegisteredWorkflow, Run, RunRequest, SubmitError,
};
use bide_sched::pacer::{Pacer, STUCK_AFTER};
use bide_sched::{SlotNo, Slots};
use bide_store::{Sent, Store, StoreError};
use bide_sync::Mutex;

use super::body::{Body, Phase};
use super::host::{Outbox, SimBody, SimHost};
use super::oracle::Oracle;
use super::plan::{Case, Version};
use super::rng::Rng;
use super::scripted::Script;
use crate::clock::{SkewedClock, VirtualClock};
use crate::fault::FaultyStore;
use gates::Watched;

type BodyNo = u32;

/// How often the committer checks while results gather.
const LOOK: Duration = Duration::from_millis(1);

/// A timer has rung for a body: with its ticket, and the time it waited for if it was one.
type RungTimer = (BodyNo, u64, Option<Time>);

/// What all processes of a world share.
#[derive(Clone)]
pub(super) struct Shared {
    /// The case that is played.
    pub(super) case: Arc<Case>,
    /// The clock of all processes.
    pub(super) clock: Arc<VirtualClock>,
    /// Checks what is committed and decided.
    pub(super) oracle: Arc<Mutex<Oracle>>,
    /// The script of the conformance suite that the bodies play; none in a random world.
    pub(super) script: Option<Script>,
}

/// What holds a slot.
#[derive(Clone, Copy)]
enum Holder {
    /// A worker between two bodies.
    Worker,
    Body(BodyNo),
}

struct Side {
    /// Bodies that are ready on the slot.
    deque: VecDeque<Ready<SimHost>>,
    /// Results that gather on the slot.
    gathering: Gathering<SimHost>,
    /// When the oldest result that gathers has come, by the steady clock.
    since: Duration,
}

/// One process.
pub(super) struct Process {
    /// What it shares with the other processes.
    pub(super) shared: Shared,
    /// The version of the code that it has.
    version: Version,
    /// The graph of that version.
    pub(super) graph: Arc<Graph>,
    /// The engine.
    pub(super) driver: Driver<SimHost>,
    /// Its store, with its faults.
    pub(super) store: Arc<FaultyStore>,
    /// The real slot machine.
    slots: Slots<BodyNo>,
    /// The real pacing machine.
    pacer: Pacer<(BodyNo, u64)>,
    /// What holds each slot that is in use.
    holders: BTreeMap<SlotNo, Holder>,
    /// What belongs to each slot, by number.
    sides: Vec<Side>,
    /// The bodies that were entered, executing or parked.
    bodies: BTreeMap<BodyNo, Body>,
    /// The number of the newest body.
    last_body: BodyNo,
    /// The gates that it polls.
    gates: Vec<Watched>,
    /// The timers that have rung since the last look.
    rung: Arc<Mutex<Vec<RungTimer>>>,
    /// Hand-overs to resumed bodies in a row.
    streak: u32,
    /// The pacer's count of turns when it last changed, and when that was, by the steady clock.
    last_turn: (u64, Duration),
    /// When the watch is looked at next, by the steady clock.
    source_due: Duration,
    /// The handles of its callers.
    handles: Vec<Handle<SimHost>>,
    /// The requests whose senders wait here.
    requests: Vec<PendingRequest<SimHost>>,
    /// It is closing.
    closing: bool,
    /// Its workflow is registered.
    registered: Cell<bool>,
    /// The workflow of child runs, once it is registered.
    child: Option<Arc<RegisteredWorkflow<SimHost>>>,
    /// A body has killed it.
    dead: bool,
    /// It is stopped until this moment, by the steady clock.
    pub(super) frozen_until: Duration,
    /// Results that bodies have returned, for a regular close.
    returned: Vec<(Arc<Run<SimHost>>, TaskRef, u32)>,
}

/// Something that a thread of the process can do now.
#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    /// Work that waits acquires a free slot.
    Take,
    /// The holder of this slot continues.
    Holder(SlotNo),
    /// A body without a slot continues.
    Body(BodyNo),
    /// A gate is asked.
    Gate(usize),
    /// The thread of limits has its turn.
    Limits,
    /// The watch is looked at.
    Source,
    /// A poll is stuck: one more may run.
    Stuck,
}

impl Process {
    pub(super) fn start(
        shared: &Shared,
        version: Version,
        store: Arc<FaultyStore>,
        ahead: i64,
        seed: u64,
    ) -> Result<Self, StoreError> {
        let (oracle, script) = (Arc::clone(&shared.oracle), shared.script.clone());
        store.watch(Box::new(move |lease, created, batch| {
            oracle.lock().committed(lease.runner, created, batch);
            script.iter().for_each(|script| script.probe.committed(batch));
        }));
        let oracle = Arc::clone(&shared.oracle);
        let (clock, leases) = (Arc::clone(&shared.clock), Arc::clone(&store));
        let log = Box::new(move |_: bide_executor::Level, line: &str| {
            let mut oracle = oracle.lock();
            if line.contains("the store has lost commits") {
                oracle.meets("a lease that is lost with commits");
            } else if line.contains("the lease was lost") {
                oracle.a_lease_is_lost_only_once_it_has_run_out(leases.renewed(), clock.lease_time());
                oracle.meets("a lost lease");
            }
            oracle.kept_leases += u32::from(line.contains("the lease could not be given back"));
            oracle.note(format!("log: {line}"));
        });
        let (right, total) = (Arc::clone(&shared.clock), shared.case.slots);
        let clock = Arc::new(SkewedClock { right, ahead });
        let driver = Driver::open(Arc::clone(&store) as Arc<dyn Store>, clock, Outbox::default(), log, seed)?;
        let side = |_| Side { deque: VecDeque::new(), gathering: driver.gathering(), since: Duration::ZERO };
        let process = Self {
            sides: (0..total).map(side).collect(),
            shared: shared.clone(),
            version,
            graph: Arc::new(shared.case.graph(version)),
            driver,
            store,
            slots: Slots::new(total),
            pacer: Pacer::new(total as usize),
            holders: BTreeMap::new(),
            bodies: BTreeMap::new(),
            last_body: 0,
            gates: Vec::new(),
            rung: Arc::default(),
            streak: 0,
            last_turn: (0, Duration::ZERO),
            source_due: Duration::ZERO,
            handles: Vec::new(),
            requests: Vec::new(),
            closing: false,
            registered: Cell::new(false),
            child: None,
            dead: false,
            frozen_until: Duration::ZERO,
            returned: Vec::new(),
        };
        let _ = process.register();
        Ok(process)
    }

    /// Registers the workflow. If that fails, its user gets an error and tries again later.
    fn register(&self) -> Result<Arc<RegisteredWorkflow<SimHost>>, StoreError> {
        let bodies = self.shared.case.tasks(self.version).into_iter().map(SimBody::of).collect();
        let registered = self.driver.engine().register(Arc::clone(&self.graph), bodies);
        let registered = registered.and_then(|workflow| self.watch(&workflow).map(|()| workflow));
        let failed = |error: &StoreError| self.shared.oracle.lock().note(format!("does not register: {error}"));
        self.registered.set(registered.as_ref().inspect_err(|error| failed(error)).is_ok());
        registered
    }

    /// A caller asks for the run of a key. False if it has to ask again.
    pub(super) fn submit(&mut self, key: &str) -> bool {
        match self.ask_for(key, key) {
            Ok(handles) => {
                self.handles.extend(handles);
                true
            }
            Err(_) => false,
        }
    }

    /// A caller sends a message to a run.
    pub(super) fn send(&self, letter: Letter) -> Result<Sent, StoreError> {
        self.driver.engine().send(letter)
    }

    /// Asks something of a run.
    pub(super) fn control(&self, run: RunId, control: &Control) -> Result<Sent, StoreError> {
        self.driver.engine().ask(run, control)
    }

    /// Whether a caller of it may ask for something.
    pub(super) fn is_able(&self) -> bool {
        !self.is_frozen() && !self.is_over() && !self.is_closing()
    }

    /// A caller asks for a run that exists with other inputs, and is refused.
    pub(super) fn strange_submit(&self, key: &str) {
        let refused = match self.ask_for(key, "something else") {
            Err(Some(SubmitError::OtherInputs { inputs, .. })) => inputs.iter().map(|name| &**name).eq(["input"]),
            Err(_) => true,
            Ok(_) => false,
        };
        if !refused {
            let line = format!("{key}: a caller with other inputs got a handle of it by its key");
            self.shared.oracle.lock().violations.push(line);
        }
    }

    fn ask_for(&self, key: &str, input: &str) -> Result<Vec<Handle<SimHost>>, Option<SubmitError>> {
        let workflow = self.register().map_err(|_| None)?;
        let inputs = [("input".into(), Value::tagged(b's', input.as_bytes()))].into();
        let run = key.rsplit('@').next().and_then(|run| run.parse().ok()).unwrap_or_default();
        let options = self.shared.case.options(run, self.now());
        let wanted = RunRequest::new(inputs).with_key(Some(key.into())).with_options(options);
        self.driver.engine().submit(&workflow, vec![wanted]).map_err(Some)
    }

    /// Whether its engine does nothing more.
    pub(super) fn is_over(&self) -> bool {
        self.driver.engine().stopped().is_some()
    }

    /// Whether the results of their runs were reported to its callers.
    pub(super) fn has_settled(&self) -> bool {
        self.handles.iter().all(|handle| handle.settled().get().is_some())
    }

    /// Its callers check what was reported to them, and go.
    pub(super) fn forget_handles(&mut self) {
        self.look_at_handles();
        self.handles.clear();
    }

    /// What was reported to its callers does not count any more.
    pub(super) fn is_told_no_more(&mut self) {
        self.handles.clear();
        self.requests.clear();
        // Its user defines again what is gone.
        self.registered.set(false);
    }

    /// Whether one of its bodies has killed it.
    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Whether a body does nothing but hold its slot.
    pub(super) fn works(&self) -> bool {
        self.holders.keys().any(|slot| self.works_until(*slot).is_some())
    }

    /// Whether a body could start at once.
    pub(super) fn has_free_slot(&self) -> bool {
        self.slots.free() > 0
    }

    /// Whether it is stopped now.
    pub(super) fn is_frozen(&self) -> bool {
        self.steady() < self.frozen_until
    }

    /// Whether it executes the runs of this runner.
    pub(super) fn is_runner(&self, runner: i64) -> bool {
        !self.closing && !self.is_over() && self.driver.lease().runner == runner
    }

    /// Its number as a runner.
    pub(super) fn runner(&self) -> i64 {
        self.driver.lease().runner
    }

    /// Why it does not execute a run.
    pub(super) fn why_not(&self, run: &RunRow) -> Option<NotRegistered> {
        self.driver.engine().why_not_here(run.id, &run.into())
    }

    /// Whether it is about to end in good order.
    pub(super) fn closes(&self) -> bool {
        self.closing
    }

    pub(super) fn now(&self) -> Time {
        self.shared.clock.now()
    }

    fn steady(&self) -> Duration {
        self.shared.clock.steady()
    }

    fn holds(&self, at: Option<u64>) -> bool {
        at.is_some_and(|ms| self.steady() >= Duration::from_millis(ms))
    }

    fn is_closing(&self) -> bool {
        self.driver.engine().is_closing()
    }

    fn has_work(&self) -> bool {
        !self.is_closing()
            && (!self.driver.engine().dispatch().ready.lock().is_empty()
                || self.sides.iter().any(|side| !side.deque.is_empty()))
    }

    /// What its threads can do now; nothing, if all of them wait for time to pass.
    pub(super) fn moves(&mut self) -> Vec<Move> {
        self.watch_gates();
        let goes_on = |holder: &&SlotNo| self.works_until(**holder).is_none_or(|until| until <= self.steady());
        let mut moves: Vec<Move> = self.holders.keys().filter(goes_on).map(|slot| Move::Holder(*slot)).collect();
        if self.slots.free() > 0 && self.has_work() {
            moves.push(Move::Take);
        }
        let goes_on = |body: &mut Body| match &mut body.phase {
            Phase::WantsShare(_, _, share) => share.is_granted().is_some(),
            Phase::Calls(called, _) if !called.parked => false,
            Phase::Calls(..) => !body.phase.sleeps() || body.woken,
            _ => false,
        };
        let gone_on = self.bodies.iter_mut().filter_map(|(no, body)| goes_on(body).then_some(Move::Body(*no)));
        moves.extend(gone_on);
        if self.driver.has_limits_to_ask() {
            moves.push(Move::Limits);
        }
        if self.next_source().is_some_and(|due| due <= self.steady()) {
            moves.push(Move::Source);
        }
        if !self.is_closing() {
            let now = self.steady();
            moves.extend((0..self.gates.len()).filter(|at| self.gates[*at].due <= now).map(Move::Gate));
        }
        let (turns, waiting) = self.pacer.progress();
        if turns != self.last_turn.0 {
            self.last_turn = (turns, self.steady());
        }
        if waiting && self.steady() >= self.last_turn.1 + STUCK_AFTER {
            moves.push(Move::Stuck);
        }
        moves
    }

    /// The attempts under a limit whose bodies it has entered and that are not over, with whether they have a slot.
    pub(super) fn limited(&self) -> Vec<(RunRowId, TaskIx, bool)> {
        let limited = self.bodies.iter().filter(|(_, body)| {
            let has_limit = self.shared.case.task(body.place).limit.is_some();
            has_limit && !body.run.workflow.graph.is_expansion(body.task)
        });
        let current = limited.filter(|(_, body)| {
            body.run.state.lock().entered().contains(&(body.task, body.attempt)) && self.still_has(&body.run)
        });
        let has_slot =
            |no: &BodyNo| self.holders.values().any(|holder| matches!(holder, Holder::Body(held) if held == no));
        current.map(|(no, body)| (body.run.id.row(), body.place, has_slot(no))).collect()
    }

    /// Until when the body on a slot does nothing but hold it, by the steady clock.
    fn works_until(&self, slot: SlotNo) -> Option<Duration> {
        let Some(Holder::Body(no)) = self.holders.get(&slot) else { return None };
        match self.bodies.get(no)?.phase {
            Phase::Works(until) => Some(until),
            _ => None,
        }
    }

    /// A thread moves.
    pub(super) fn make(&mut self, step: Move, rng: &mut Rng) {
        match step {
            Move::Take => {
                if let Some(slot) = self.slots.acquire() {
                    self.holders.insert(slot, Holder::Worker);
                }
            }
            Move::Holder(slot) => match self.holders.get(&slot).copied() {
                Some(Holder::Worker) => self.work(slot),
                Some(Holder::Body(no)) => self.body_moves(slot, no, rng),
                None => {}
            },
            Move::Body(no) => self.parked_moves(no),
            Move::Gate(at) => self.poll_gate(at),
            Move::Limits => self.driver.limits_turn(),
            Move::Source => self.poll_source(),
            Move::Stuck => {
                let next = self.pacer.stuck();
                self.offer(next);
                self.last_turn = (self.pacer.progress().0, self.steady());
            }
        }
        let (free, total) = (self.slots.free(), self.slots.total() as usize);
        let polls = |body: &&Body| match &body.phase {
            Phase::Calls(called, _) => called.polls || (body.woken && body.phase.awaits_poll()),
            _ => false,
        };
        let polling = self.bodies.values().filter(polls).count();
        self.shared.oracle.lock().so_many_polls_at_once(polling, total);
        self.shared.oracle.lock().active_bodies_never_exceed_the_slots(self.holders.len(), free, total);
    }

    /// The threads that wait for time have a turn. Returns how long until one of them has something to do.
    pub(super) fn time_has_passed(&mut self, lease: bool) -> Duration {
        let span = self.driver.timer_turn();
        let rung = std::mem::take(&mut *self.rung.lock());
        for (no, ticket, time) in rung {
            match time {
                Some(time) => {
                    let now = self.now();
                    if now < time {
                        let line = format!("a wait ends early: rung at {now:?}, not before {time:?}");
                        self.shared.oracle.lock().violations.push(line);
                    }
                    self.wake(no, ticket);
                }
                None => {
                    let next = self.pacer.due((no, ticket));
                    self.offer(next);
                }
            }
        }
        self.driver.committer_turn();
        if lease {
            self.driver.lease_turn();
            if !self.registered.get() && !self.is_closing() {
                let _ = self.register();
            }
        }
        let now = self.steady();
        let gates = self.gates.iter().map(|watched| watched.due);
        let works = self.holders.keys().filter_map(|slot| self.works_until(*slot));
        let dues = gates.chain(works).chain(self.next_source());
        let span = dues.map(|due| due.saturating_sub(now)).min().unwrap_or(span).min(span);
        // The committer looks again every millisecond while something has gathered.
        if self.sides.iter().any(|side| !side.gathering.is_empty()) { span.min(LOOK) } else { span }
    }

    /// Whether something has rung since the last look.
    pub(super) fn has_rung(&self) -> bool {
        !self.rung.lock().is_empty()
    }

    /// All its threads have had their turn, and wait.
    pub(super) fn nothing_is_overdue(&self) {
        let now = self.steady();
        let reached = |body: &&Body| body.allowance.as_ref().is_some_and(Allowance::is_reached);
        for body in self.bodies.values().filter(reached).filter(|body| self.still_has(&body.run)) {
            let mut oracle = self.shared.oracle.lock();
            oracle.a_timeout_fails_its_attempt_at_once(body.run.id.row(), body.place, body.attempt);
        }
        for side in self.sides.iter().filter(|side| !side.gathering.is_empty()) {
            let age = now.saturating_sub(side.since);
            self.shared.oracle.lock().a_result_never_waits_behind_a_slow_body(age);
        }
    }
}
