//! A harness that acts as executor: it carries out effects in random order, gathers events into batches as workers
//! do, dies or closes between any two commits, and checks what must hold at every moment.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bide_core::event::{Retry, Timer, Wait};
use bide_core::run::Entered;
use bide_core::{
    Committed, Effect, EntryKey, EntryKind, EntryState, Event, Failure, FailureKind, Graph, Operation, Outcome,
    Pending, Recall, RunIf, RunState, RunStatus, TaskId, TaskIx, TaskRef, TaskStatus, Time, Uses, Value,
};

use crate::plan::{Act, End, TaskPlan, nth};
use crate::script::lookup;
use crate::store::{Store, id_of};

pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % limit as u64) as usize
    }

    pub(crate) fn one_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }
}

struct Body {
    ix: TaskIx,
    attempt: u32,
    /// Position in the plan's acts.
    at: usize,
    /// The open wait, and when its time is reached.
    waiting: Option<(EntryKey, Option<Time>)>,
    uses: Uses,
}

/// How often the process crashes or closes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Disasters {
    /// The maximum number of crashes; the machine pauses a run that it suspects.
    pub(crate) crashes: u32,
    /// The maximum number of orderly closes.
    pub(crate) closes: u32,
    /// A crash before or after this commit.
    pub(crate) at: Option<(u32, bool)>,
}

pub(crate) struct World {
    pub(crate) graph: Arc<Graph>,
    pub(crate) plans: Vec<TaskPlan>,
    pub(crate) store: Store,
    pub(crate) state: RunState,
    pub(crate) now: Time,
    rng: Rng,
    disasters: Disasters,
    pending: Pending<()>,
    todo: Vec<Effect>,
    bodies: Vec<Body>,
    /// The attempts that were `Ready` in this process.
    ready: HashSet<(TaskIx, u32)>,
    /// In commit order, over all processes.
    pub(crate) failures: Vec<Failure>,
    /// The number of commits.
    pub(crate) commits: u32,
    pub(crate) settled: Option<RunStatus>,
}

pub(crate) fn failure(text: &str) -> Failure {
    Failure::new(FailureKind::Raised, "Boom", text)
}

fn act_key(acts: &[Act], at: usize) -> EntryKey {
    let name = match acts[at] {
        Act::Step(_) => "step",
        Act::Condition(_) => "condition",
        Act::Unprovable => "unprovable",
        Act::Sleep => "sleep",
    };
    let same = |act: &&Act| std::mem::discriminant(*act) == std::mem::discriminant(&acts[at]);
    EntryKey { name: name.into(), n: acts[..=at].iter().filter(same).count() as u32 }
}

impl World {
    pub(crate) fn new(plans: Vec<TaskPlan>, fail_fast: bool, seed: u64, disasters: Disasters) -> Self {
        let graph = Graph::build("workflow", plans.iter().map(|plan| plan.spec.clone()).collect(), fail_fast).unwrap();
        let graph = Arc::new(graph);
        let ids: Arc<[TaskId]> = (0..graph.len() as TaskIx).map(id_of).collect();
        let store = Store::new(&graph);
        Self {
            state: RunState::new(store.run.id, Arc::clone(&graph), ids),
            graph,
            plans,
            store,
            now: Time(1_000_000),
            rng: Rng(seed),
            disasters,
            pending: Pending::default(),
            todo: Vec::new(),
            bodies: Vec::new(),
            ready: HashSet::new(),
            failures: Vec::new(),
            commits: 0,
            settled: None,
        }
    }

    /// Runs until the run is settled, or fails if nothing is left to do before.
    pub(crate) fn run(&mut self) {
        self.begin();
        for _ in 0..100_000 {
            if self.settled.is_some() {
                return;
            }
            self.now = self.now.after(Duration::from_millis(self.rng.below(50) as u64));
            let moves = self.todo.len() + self.bodies.len();
            if moves == 0 {
                assert!(!self.pending.is_empty(), "nothing left to do, and the run has not ended");
                self.flush();
                continue;
            }
            if self.disasters.closes > 0 && self.rng.one_in(12) {
                self.disasters.closes -= 1;
                self.close();
                continue;
            }
            let choice = self.rng.below(moves);
            if choice < self.todo.len() {
                let effect = self.todo.swap_remove(choice);
                self.carry_out(effect);
            } else {
                self.act(choice - self.todo.len());
            }
        }
        panic!("the run does not end");
    }

    fn begin(&mut self) {
        self.apply(Event::Begin);
        self.flush();
    }

    fn apply(&mut self, event: Event) {
        self.pending.apply(&(), &mut self.state, event, self.now).unwrap();
    }

    /// Commits the gathered events, unless the process dies before or after. False if it died.
    fn flush(&mut self) -> bool {
        self.commits += 1;
        let dies_after = match self.disasters.at {
            Some((at, after)) => (at == self.commits).then_some(after),
            None if self.disasters.crashes > 0 && self.rng.one_in(10) => {
                self.disasters.crashes -= 1;
                Some(self.rng.one_in(2))
            }
            None => None,
        };
        if let Some(after) = dies_after {
            if after {
                self.commit();
            }
            self.reborn();
            return false;
        }
        self.commit();
        let effects: Vec<Effect> = self.pending.committed(Committed::by_store()).map(|(_, effect)| effect).collect();
        for effect in effects {
            self.released(&effect);
            match effect {
                Effect::Settled { status } => self.settled = Some(status),
                effect => self.todo.push(effect),
            }
        }
        true
    }

    fn commit(&mut self) {
        let before: Vec<bool> = (0..self.graph.len()).map(|ix| self.failed(ix)).collect();
        self.store.commit(&self.pending.batch);
        for write in &self.pending.batch {
            if let bide_core::Write::Task(row) = write {
                let ix = (row.task - 100) as usize;
                if row.status == TaskStatus::Failed && !before[ix] {
                    self.failures.push(row.failure.clone().unwrap());
                }
            }
        }
        if self.store.run.status == RunStatus::Failed {
            assert_eq!(
                self.store.run.failure.as_ref(),
                self.failures.first(),
                "the first committed failure is the cause"
            );
        }
    }

    fn failed(&self, ix: usize) -> bool {
        self.store.row(ix as TaskIx).is_some_and(|row| row.status == TaskStatus::Failed)
    }

    /// Another process recovers the run from its rows.
    pub(crate) fn reborn(&mut self) {
        self.pending = Pending::default();
        self.todo.clear();
        self.bodies.clear();
        self.ready.clear();
        if self.store.run.status.is_ended() {
            self.settled = Some(self.store.run.status);
            return;
        }
        self.state = self.store.recover(&self.graph);
        self.now = self.now.after(Duration::from_secs(self.rng.below(20) as u64));
        self.begin();
    }

    /// Closes in order: executing bodies are suspended, then another process claims the run.
    fn close(&mut self) {
        for body in std::mem::take(&mut self.bodies) {
            let task = TaskRef::plain(body.ix);
            self.apply(Event::Ended { task, attempt: body.attempt, outcome: Outcome::Suspended });
            let late = Outcome::Completed { output: Value::NONE, changes: None };
            let late = Event::Ended { task, attempt: body.attempt, outcome: late };
            assert!(self.pending.apply(&(), &mut self.state, late, self.now).is_err(), "suspended, yet it ended");
        }
        if self.flush() && self.settled.is_none() {
            self.reborn();
        }
    }

    /// What must hold when an effect is released.
    fn released(&mut self, effect: &Effect) {
        if let Effect::Ready { task } = effect {
            for &on in self.graph.dependencies(task.ix) {
                let ended = self.store.row(on).is_some_and(|row| row.status.is_ended());
                assert!(ended, "{task:?} is ready before the end of {on} is committed");
            }
            assert!(!self.bodies.iter().any(|body| body.ix == task.ix), "{task:?} is ready while its body executes");
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Ready { task } => self.enter(task),
            Effect::Gate { task, attempt, deadline, .. } => {
                let key = self.graph.spec(task.ix).gate.as_ref().unwrap().key();
                let entry = self.store.entry(task.ix, &key).unwrap();
                assert_eq!((None, deadline), (entry.due(), entry.deadline), "watched by other times than recorded");
                self.end_gate(task, attempt, key);
            }
            Effect::Timer { at, event } => match *event {
                Event::Due { task, attempt, timer } => {
                    self.now = self.now.max(at);
                    let event = Event::Due { task, attempt, timer };
                    let accepted = self.pending.apply(&(), &mut self.state, event.clone(), self.now).is_ok();
                    let skipped = self.state.task_status(task) == TaskStatus::Skipped;
                    assert!(accepted || (skipped && timer == Timer::Retry));
                    let again = self.pending.apply(&(), &mut self.state, event, self.now);
                    assert!(again.is_err(), "a timer counts twice");
                    self.flush();
                }
                Event::Elapsed { task, attempt, key, at: ends, .. } => {
                    let entry = self.store.entry(task.ix, &key).unwrap();
                    assert_eq!(entry.due().into_iter().chain(entry.deadline).min(), Some(ends));
                    assert_eq!(ends, at, "ends at another time than recorded");
                    self.now = self.now.max(at);
                    self.end_gate(task, attempt, key);
                }
                other => panic!("no timer is for {other:?}"),
            },
            Effect::Cleared { .. } | Effect::Emitted | Effect::Woken { .. } | Effect::Happened(_) => {}
            Effect::Consumed { .. } | Effect::Answered { .. } => {}
            Effect::Grace { .. } | Effect::Interrupted { .. } | Effect::PollNow { .. } => {
                unreachable!("nobody asks for it")
            }
            Effect::Settled { .. } => unreachable!(),
        }
    }

    /// A gate ends as its plan says.
    fn end_gate(&mut self, task: TaskRef, attempt: u32, key: EntryKey) {
        let satisfied = nth(&self.plans[task.ix as usize].gate.as_ref().unwrap().1, attempt + 1);
        let result = if satisfied { Ok(Value::NONE) } else { Err(failure("gate")) };
        let retry = Some(Retry { random: 0.5 });
        let event = Event::Closed { task, attempt, key, result, proved: true, polls: 0, retry };
        // Refused if `fail_fast` has skipped it meanwhile.
        let accepted = self.pending.apply(&(), &mut self.state, event, self.now).is_ok();
        assert!(accepted || self.state.task_status(task) == TaskStatus::Skipped);
        self.flush();
    }

    fn enter(&mut self, task: TaskRef) {
        let Some(Entered { attempt, mark, .. }) = self.state.enter(task, self.now) else {
            assert_eq!(self.state.task_status(task), TaskStatus::Skipped, "ready, but not to be entered");
            return;
        };
        assert!(self.ready.insert((task.ix, attempt)), "attempt {attempt} of {task:?} was ready twice");
        let ended = self.store.row(task.ix).is_some_and(|row| row.status.is_ended());
        assert!(!ended, "{task:?} runs again");
        let stops = self.graph.fail_fast() && (0..self.graph.len()).any(|ix| self.failed(ix));
        let stopped = matches!(self.graph.spec(task.ix).run_if, RunIf::Succeeded | RunIf::NoneFailed);
        let late = stops && attempt == 1 && stopped;
        assert!(!late || self.store.row(task.ix).is_some_and(|row| row.attempts > 0), "started after a failure");
        if mark {
            self.apply(Event::Started { task, attempt });
            if !self.flush() || self.settled.is_some() {
                return;
            }
        }
        self.bodies.push(Body { ix: task.ix, attempt, at: 0, waiting: None, uses: Uses::default() });
    }

    /// A body executes one act.
    fn act(&mut self, which: usize) {
        let (ix, attempt, at) = (self.bodies[which].ix, self.bodies[which].attempt, self.bodies[which].at);
        let task = TaskRef::plain(ix);
        let acts = self.plans[ix as usize].acts.clone();
        if let Some((key, due)) = self.bodies[which].waiting.clone() {
            self.now = self.now.max(due.unwrap_or_default());
            let result = self.result(ix, &key, acts[at]);
            self.apply(Event::Closed {
                task,
                attempt,
                key: key.clone(),
                result: result.clone(),
                proved: true,
                polls: 0,
                retry: None,
            });
            let again = Event::Closed { task, attempt, key, result, proved: true, polls: 0, retry: None };
            assert!(self.pending.apply(&(), &mut self.state, again, self.now).is_err(), "a wait is closed twice");
            if self.flush() {
                self.bodies[which].waiting = None;
                self.bodies[which].at += 1;
            }
            return;
        }
        if self.rng.one_in(8) {
            self.apply(Event::Started { task, attempt });
        }
        if at == acts.len() {
            self.bodies.swap_remove(which);
            self.end(task, attempt);
            return;
        }
        let key = act_key(&acts, at);
        let mut operation = match acts[at] {
            Act::Step(_) => Operation::step(Some(b"args".as_slice().into())),
            Act::Condition(_) => Operation::Condition { proof: Some(b"code".as_slice().into()) },
            Act::Unprovable => Operation::Condition { proof: None },
            Act::Sleep => Operation::Time { due: self.now.after(Duration::from_secs(3)) },
        };
        let kind = operation.kind();
        let mut uses = self.bodies[which].uses.clone();
        let (recalled, recall) = self.state.recall(task, attempt, &mut uses, &key.name, &lookup(&operation)).unwrap();
        assert_eq!(recalled, key);
        match recall {
            Recall::Satisfied(_) | Recall::Failed(_) => {
                self.bodies[which].at += 1;
                self.bodies[which].uses = uses;
                return;
            }
            Recall::Waits => unreachable!("only the start of a child opens a wait with it"),
            Recall::Open { due, .. } => operation = Operation::Time { due: due.unwrap() },
            Recall::Ask { .. } => {}
            Recall::Mismatch(why) => panic!("{why}"),
            Recall::Begun { .. } => panic!("no step is recorded before it ends"),
            Recall::NoCallback => panic!("there are no callbacks"),
        }
        let timeout = matches!(acts[at], Act::Condition(_)).then_some(Duration::from_secs(30));
        let due = operation.due();
        let wait = Wait { key: key.clone(), operation, timeout };
        let at_once = kind == EntryKind::Step || (kind == EntryKind::Condition && self.rng.one_in(3));
        if at_once {
            if kind == EntryKind::Step {
                let closed = self.store.entry(ix, &key).is_some_and(|entry| entry.state != EntryState::Open);
                assert!(!closed, "a committed step runs again");
            }
            let result = self.result(ix, &key, acts[at]);
            self.apply(Event::Recorded { task, attempt, wait, since: None, result });
        } else {
            self.apply(Event::Opened { task, attempt, waits: vec![wait] });
        }
        if self.flush() {
            self.bodies[which].uses = uses;
            if at_once {
                self.bodies[which].at += 1;
            } else {
                let entry = self.store.entry(ix, &key).unwrap();
                assert_eq!(self.state.deadline(TaskRef::plain(ix), &key), entry.deadline);
                self.bodies[which].waiting = Some((key, due));
            }
        }
    }

    fn result(&self, ix: TaskIx, key: &EntryKey, act: Act) -> Result<Value, Failure> {
        match act {
            Act::Step(false) | Act::Condition(false) => Err(failure("act")),
            _ => Ok(Value::tagged(b's', format!("{ix} {} {}", key.name, key.n).as_bytes())),
        }
    }

    fn end(&mut self, task: TaskRef, attempt: u32) {
        let plan = &self.plans[task.ix as usize];
        let output = Value::tagged(b'i', task.ix.to_string().as_bytes());
        let outcome = match nth(&plan.ends, attempt) {
            End::Return => Outcome::Completed { output, changes: None },
            End::ReturnChanges => Outcome::Completed { output, changes: Some(b"changes".as_slice().into()) },
            End::Skip => Outcome::Skipped { reason: "t0".into() },
            End::Fail { retry } => Outcome::Failed {
                failure: failure(&format!("task {} attempt {attempt}", task.ix)),
                retry: retry.then_some(Retry { random: 0.5 }),
            },
        };
        self.apply(Event::Ended { task, attempt, outcome });
        // Results gather; with several runs and a busy machine many are committed at once.
        if self.rng.one_in(2) {
            self.flush();
        }
    }
}
