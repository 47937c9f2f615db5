//! A simulated process: the engine's own code for everything that is committed, created, taken up and timed; the real
//! slot and pacing machines; and in the place of each thread a move that the scheduler may choose or leave.

mod bodies;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bide_core::event::Retry;
use bide_core::poll::Poll;
use bide_core::{Event, GateSpec, Time, Value};
use bide_executor::drive::{Driver, Gathering};
use bide_executor::pacer::{Pacer, STUCK_AFTER};
use bide_executor::slots::{HandOver, SlotNo, Slots};
use bide_executor::{Clock, Gate as OpenGate, Handle, Ready, Settlement, Wanted};
use bide_store::{Store, StoreError};
use bide_sync::Mutex;

use super::body::{Body, Parked, Phase, digest, mix, timed_out};
use super::host::{Outbox, SimHost};
use super::oracle::Oracle;
use super::plan::{Case, Gate, TaskPlan};
use super::rng::Rng;
use crate::clock::VirtualClock;
use crate::fault::FaultyStore;

type BodyNo = u32;

/// A timer has rung for a body: with its ticket, and the time it waited for if it was one.
type Rung = (BodyNo, u64, Option<Time>);

/// What all processes of a world share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) case: Arc<Case>,
    pub(super) graph: Arc<bide_core::Graph>,
    pub(super) clock: Arc<VirtualClock>,
    pub(super) oracle: Arc<Mutex<Oracle>>,
}

/// Who has a slot.
#[derive(Clone, Copy)]
enum Holder {
    /// A worker between two bodies.
    Worker,
    Body(BodyNo),
}

struct Side {
    deque: VecDeque<Ready<SimHost>>,
    gathering: Gathering<SimHost>,
}

struct Watched {
    gate: OpenGate<SimHost>,
    poll: Poll,
    due: Duration,
}

/// One process.
pub(super) struct Process {
    shared: Shared,
    driver: Driver<SimHost>,
    pub(super) store: Arc<FaultyStore>,
    slots: Slots<BodyNo>,
    pacer: Pacer<(BodyNo, u64)>,
    holders: BTreeMap<SlotNo, Holder>,
    sides: Vec<Side>,
    bodies: BTreeMap<BodyNo, Body>,
    last_body: BodyNo,
    gates: Vec<Watched>,
    rung: Arc<Mutex<Vec<Rung>>>,
    /// Hand-overs to resumed bodies in a row.
    streak: u32,
    /// When the pacer was last seen to hand on, and what its count was.
    handed: (u64, Duration),
    handles: Vec<Handle<SimHost>>,
    closing: bool,
    registered: Cell<bool>,
}

/// Something that a thread of the process can do now.
#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    /// A free slot is taken for work that waits.
    Take,
    /// Whoever has the slot goes on.
    Holder(SlotNo),
    /// A body without a slot goes on.
    Body(BodyNo),
    /// A gate is asked.
    Gate(usize),
    /// A poll is stuck: one more may run.
    Stuck,
}

impl Process {
    pub(super) fn start(shared: &Shared, store: Arc<FaultyStore>, seed: u64) -> Result<Self, StoreError> {
        let oracle = Arc::clone(&shared.oracle);
        store.watch(Box::new(move |batch| oracle.lock().committed(batch)));
        let oracle = Arc::clone(&shared.oracle);
        let log = Box::new(move |_: bide_executor::Level, line: &str| oracle.lock().note(format!("log: {line}")));
        let (clock, total) = (Arc::clone(&shared.clock), shared.case.slots);
        let driver = Driver::open(Arc::clone(&store) as Arc<dyn Store>, clock, Outbox::default(), log, seed)?;
        let side = |_| Side { deque: VecDeque::new(), gathering: driver.gathering() };
        let process = Self {
            sides: (0..total).map(side).collect(),
            shared: shared.clone(),
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
            handed: (0, Duration::ZERO),
            handles: Vec::new(),
            closing: false,
            registered: Cell::new(false),
        };
        let _ = process.register();
        Ok(process)
    }

    /// Registers the workflow. If that fails its user is told, and tries again later.
    fn register(&self) -> Result<Arc<bide_executor::Flow<SimHost>>, StoreError> {
        let bodies = self.shared.case.tasks.iter().map(|_| ()).collect();
        let registered = self.driver.engine().register(Arc::clone(&self.shared.graph), bodies);
        let failed = |error: &StoreError| self.shared.oracle.lock().note(format!("does not register: {error}"));
        self.registered.set(registered.as_ref().inspect_err(|error| failed(error)).is_ok());
        registered
    }

    /// A caller asks for the run of a key. False if it has to ask again.
    pub(super) fn submit(&mut self, key: &str) -> bool {
        let Ok(flow) = self.register() else { return false };
        let wanted = Wanted { inputs: Box::default(), key: Some(key.into()), local: () };
        match self.driver.engine().submit(&flow, vec![wanted]) {
            Ok(handles) => {
                self.handles.extend(handles);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether its engine does nothing more.
    pub(super) fn is_over(&self) -> bool {
        self.driver.engine().stopped().is_some()
    }

    /// Whether it is about to end in good order.
    pub(super) fn closes(&self) -> bool {
        self.closing
    }

    fn now(&self) -> Time {
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

    fn plan(&self, body: &Body) -> &TaskPlan {
        &self.shared.case.tasks[body.task.ix as usize]
    }

    fn has_work(&self) -> bool {
        !self.is_closing()
            && (!self.driver.engine().dispatch().ready.lock().is_empty()
                || self.sides.iter().any(|side| !side.deque.is_empty()))
    }

    /// What its threads can do now; nothing, if all of them wait for time to pass.
    pub(super) fn moves(&mut self) -> Vec<Move> {
        let gates = std::mem::take(&mut *self.driver.engine().dispatch().gates.lock());
        for gate in gates {
            self.gates.push(Watched { gate, poll: Poll::new(TaskPlan::policy()), due: self.steady() });
        }
        let mut moves: Vec<Move> = self.holders.keys().map(|slot| Move::Holder(*slot)).collect();
        if self.slots.free() > 0 && self.has_work() {
            moves.push(Move::Take);
        }
        for (no, body) in &self.bodies {
            let goes_on = match body.phase {
                Phase::Parked(..) => body.woken,
                Phase::Polling(..) | Phase::Close(..) => true,
                _ => false,
            };
            if goes_on {
                moves.push(Move::Body(*no));
            }
        }
        if !self.is_closing() {
            let now = self.steady();
            moves.extend((0..self.gates.len()).filter(|at| self.gates[*at].due <= now).map(Move::Gate));
        }
        let (handed, waiting) = self.pacer.progress();
        if handed != self.handed.0 {
            self.handed = (handed, self.steady());
        }
        if waiting && self.steady() >= self.handed.1 + STUCK_AFTER {
            moves.push(Move::Stuck);
        }
        moves
    }

    /// A thread moves.
    pub(super) fn make(&mut self, step: Move, rng: &mut Rng) {
        match step {
            Move::Take => {
                if let Some(slot) = self.slots.take_new() {
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
            Move::Stuck => {
                let next = self.pacer.stuck();
                self.offer(next);
                self.handed = (self.pacer.progress().0, self.steady());
            }
        }
        let (free, total) = (self.slots.free(), self.slots.total() as usize);
        let polls = |body: &&Body| match body.phase {
            Phase::Parked(_, Parked::Poll { .. }) => body.woken,
            Phase::Polling(..) => true,
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
        let gates = self.gates.iter().map(|watched| watched.due.saturating_sub(now));
        gates.min().unwrap_or(span).min(span)
    }

    /// Callers look at what they were told.
    pub(super) fn look_at_handles(&self) {
        for handle in &self.handles {
            if let Some(Settlement::Run(status)) = handle.settled().get() {
                self.shared.oracle.lock().a_result_is_reported_only_when_committed(handle.id().row(), status);
            }
        }
    }

    /// Nothing of its own is left to do: no slot may be missing then, and no run that is over be kept in memory.
    pub(super) fn must_be_idle(&self, all_over: bool) {
        let kept = self.driver.engine().live_count();
        if all_over && kept > 0 {
            self.shared.oracle.lock().violations.push(format!("{kept} runs that are over are kept in memory"));
        }
        let free = self.slots.free();
        let total = self.slots.total() as usize;
        if free != total || self.slots.resumed() > 0 {
            self.shared.oracle.lock().violations.push(format!("a slot leaks: {free} of {total} are free when idle"));
        }
    }

    // --- slots --------------------------------------------------------------

    fn hand(&mut self, slot: SlotNo, over: HandOver<BodyNo>) {
        match over {
            HandOver::Free => {
                self.holders.remove(&slot);
            }
            HandOver::New => {
                self.holders.insert(slot, Holder::Worker);
            }
            HandOver::Resumed(no) => {
                self.holders.insert(slot, Holder::Body(no));
            }
        }
    }

    fn give_back(&mut self, slot: SlotNo) {
        let (work, waiting) = (self.has_work(), self.slots.resumed());
        let over = self.slots.give_back(slot, work);
        if over != HandOver::Free {
            let to_new = over == HandOver::New;
            self.shared.oracle.lock().resumed_bodies_go_first(to_new, waiting, work, &mut self.streak);
        }
        self.hand(slot, over);
    }

    /// A worker between two bodies.
    fn work(&mut self, slot: SlotNo) {
        let waiting = self.slots.resumed();
        if waiting > 0 {
            self.commit(slot);
            let over = self.slots.between(slot);
            let mut oracle = self.shared.oracle.lock();
            oracle.resumed_bodies_go_first(over.is_none(), waiting, true, &mut self.streak);
            drop(oracle);
            if let Some(no) = over {
                self.holders.insert(slot, Holder::Body(no));
                return;
            }
        }
        match self.find(slot) {
            Some(ready) => self.enter(slot, ready),
            None if !self.sides[slot as usize].gathering.is_empty() => self.commit(slot),
            None => self.give_back(slot),
        }
    }

    fn find(&mut self, slot: SlotNo) -> Option<Ready<SimHost>> {
        if self.is_closing() {
            return None;
        }
        if let Some(ready) = self.sides[slot as usize].deque.pop_front() {
            return Some(ready);
        }
        if let Some(ready) = self.driver.engine().dispatch().ready.lock().pop_front() {
            return Some(ready);
        }
        self.sides.iter_mut().find_map(|side| side.deque.pop_front())
    }

    fn commit(&mut self, slot: SlotNo) {
        let side = &mut self.sides[slot as usize];
        side.deque.extend(self.driver.commit(&side.gathering));
    }

    fn enter(&mut self, slot: SlotNo, ready: Ready<SimHost>) {
        let Ready { run, task } = ready;
        let (entered, seen) = {
            let mut state = run.state.lock();
            let entered = state.enter(task, self.now());
            let outputs = self.shared.graph.dependencies(task.ix).iter();
            let seen = outputs.fold(u64::from(task.ix), |seen, on| {
                mix(seen, state.output(*on).map_or(1, |output| digest(output.as_bytes())))
            });
            (entered, seen)
        };
        let Some(entered) = entered else { return };
        let still_has_it = self.still_has(&run);
        let mut oracle = self.shared.oracle.lock();
        oracle.note(format!("enters: {} attempt {}", self.shared.graph.name(task.ix), entered.attempt));
        oracle.a_task_starts_only_after_what_it_depends_on(run.id.row(), task.ix, still_has_it);
        drop(oracle);
        let phase = if entered.mark { Phase::Mark } else { Phase::Acts };
        self.last_body += 1;
        let body = Body { run, task, attempt: entered.attempt, at: 0, phase, seen, ticket: 0, woken: false };
        self.bodies.insert(self.last_body, body);
        self.holders.insert(slot, Holder::Body(self.last_body));
    }

    // --- gates ---------------------------------------------------------------

    fn poll_gate(&mut self, at: usize) {
        let Watched { gate, mut poll, .. } = self.gates.swap_remove(at);
        let plan = self.shared.case.tasks[gate.task.ix as usize].gate;
        let (holds_at, retried) = match plan {
            Some(Gate::Until(ms)) => (Some(ms), false),
            Some(Gate::Never(_, retried)) => (None, retried),
            _ => (None, false),
        };
        let late = gate.deadline.is_some_and(|deadline| self.now() >= deadline);
        let result = if self.holds(holds_at) {
            Ok(Value::tagged(b't', b""))
        } else if late {
            Err(timed_out())
        } else {
            let now = self.now();
            let span = poll.next(now, gate.deadline, 0.5).since(now);
            self.gates.push(Watched { gate, poll, due: self.steady() + span });
            return;
        };
        let Some(key) = self.shared.graph.spec(gate.task.ix).gate.as_ref().map(GateSpec::key) else { return };
        let retry = (result.is_err() && retried).then_some(Retry { random: 0.5 });
        let event = Event::Closed { task: gate.task, attempt: gate.attempt, key, result, retry };
        self.driver.leave(Arc::clone(&gate.run), event);
    }

    // --- the end -------------------------------------------------------------

    /// Begins to close: what is parked is suspended, what executes may go on until it waits.
    pub(super) fn begin_close(&mut self) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        self.driver.engine().begin_close();
        let holds =
            |no: &BodyNo| self.holders.values().any(|holder| matches!(holder, Holder::Body(held) if held == no));
        let parked: Vec<BodyNo> = self.bodies.keys().filter(|no| !holds(no)).copied().collect();
        for no in parked {
            self.slots.forget(|other| *other == no);
            if let Some(body) = self.bodies.remove(&no) {
                self.suspended(&body);
            }
        }
    }

    /// Ends it in good order.
    pub(super) fn finish_close(mut self) {
        self.begin_close();
        self.driver.engine().finish_close();
        self.look_at_handles();
    }

    /// What it holds, for the report of a failure.
    pub(super) fn describe(&self) -> String {
        format!(
            "{} slots of {} free, {} resumed wait, {} bodies, {} gates, {} runs in memory",
            self.slots.free(),
            self.slots.total(),
            self.slots.resumed(),
            self.bodies.len(),
            self.gates.len(),
            self.driver.engine().live_count()
        )
    }
}
