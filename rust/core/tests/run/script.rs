//! A run driven step by step: each event is committed at once, and effects are kept until a test takes them.

use std::sync::Arc;
use std::time::Duration;

use bide_core::event::{Retry, Timer, Wait};
use bide_core::run::Entered;
use bide_core::{
    Effect, EntryKey, EntryKind, Event, Failure, Graph, Lookup, Operation, Outcome, Recall, Refused, RunState,
    RunStatus, StepArguments, TaskId, TaskIx, TaskRef, TaskRow, TaskSpec, Time, Uses, Value, Write,
};

use crate::harness::failure;
use crate::store::{Store, id_of};

pub(crate) struct Script {
    pub(crate) graph: Arc<Graph>,
    pub(crate) store: Store,
    pub(crate) state: RunState,
    pub(crate) now: Time,
    pub(crate) effects: Vec<Effect>,
    /// The batch of the last event.
    pub(crate) batch: Vec<Write>,
}

pub(crate) fn spec(name: &str, on: &[&str]) -> TaskSpec {
    TaskSpec { dependencies: on.iter().map(|&on| on.into()).collect(), ..TaskSpec::new(name) }
}

pub(crate) fn key(name: &str) -> EntryKey {
    EntryKey { name: name.into(), n: 1 }
}

/// A wait or step whose proof, if any, is always the same. A time lies far in the past.
pub(crate) fn wait(name: &str, kind: EntryKind) -> Wait {
    Wait { key: key(name), operation: operation(kind, Some(b"same")), timeout: None }
}

pub(crate) fn operation(kind: EntryKind, proof: Option<&[u8]>) -> Operation {
    let due = (kind == EntryKind::Time).then_some(Time(9));
    Operation::from_stored(kind, proof.map(Into::into), due).unwrap()
}

/// The request of a body for this operation.
pub(crate) fn lookup(operation: &Operation) -> Lookup {
    match operation.clone() {
        Operation::Condition { proof } => Lookup::Condition { proof },
        Operation::Time { .. } => Lookup::Time,
        Operation::Message(address) => Lookup::Message(address),
        Operation::Step { proof, .. } => Lookup::Step(Box::new(StepArguments { proof, ..StepArguments::default() })),
        Operation::Any { .. } => Lookup::Any,
        Operation::All { .. } => Lookup::All,
        Operation::Start { proof } => Lookup::Start(Box::new(StepArguments { proof, ..StepArguments::default() })),
        Operation::Child { run } => Lookup::Child { run },
        Operation::Record(kind) => Lookup::Record(kind),
    }
}

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) const RETRY: Option<Retry> = Some(Retry { random: 0.5 });

fn graph(specs: Vec<TaskSpec>, fail_fast: bool) -> Arc<Graph> {
    Arc::new(Graph::build("workflow", specs, fail_fast).unwrap())
}

impl Script {
    pub(crate) fn new(specs: Vec<TaskSpec>) -> Self {
        Self::with(graph(specs, false))
    }

    pub(crate) fn fail_fast(specs: Vec<TaskSpec>) -> Self {
        Self::with(graph(specs, true))
    }

    /// A run that begins and must have ended at these times.
    pub(crate) fn timed(specs: Vec<TaskSpec>, start_at: Option<Time>, deadline: Option<Time>) -> Self {
        Self::with_times(graph(specs, false), start_at, deadline)
    }

    fn with(graph: Arc<Graph>) -> Self {
        Self::with_times(graph, None, None)
    }

    fn with_times(graph: Arc<Graph>, start_at: Option<Time>, deadline: Option<Time>) -> Self {
        let ids: Arc<[TaskId]> = (0..graph.len() as TaskIx).map(id_of).collect();
        let mut store = Store::new(&graph);
        (store.run.options.start_at, store.run.options.deadline) = (start_at, deadline);
        let mut state = RunState::new(store.run.id, Arc::clone(&graph), ids);
        state.set_times(store.run.created_at, start_at, deadline);
        let now = Time(1_000_000);
        let mut script = Self { graph, store, state, now, effects: Vec::new(), batch: Vec::new() };
        script.apply(Event::Begin).unwrap();
        script
    }

    pub(crate) fn apply(&mut self, event: Event) -> Result<(), Refused> {
        self.now = self.now.after(Duration::from_millis(1));
        self.batch.clear();
        let effects = self.effects.len();
        let result = self.state.apply(event, self.now, &mut self.batch, &mut self.effects);
        if result.is_err() {
            assert!(self.batch.is_empty() && self.effects.len() == effects, "refused, yet something follows");
        }
        self.store.commit(&self.batch);
        result
    }

    /// The process dies; another one recovers the run.
    pub(crate) fn die(&mut self) {
        self.die_for(Arc::clone(&self.graph));
    }

    /// The same, with a newer version of the workflow. Recorded tasks have to be declared first.
    pub(crate) fn die_for_version(&mut self, specs: Vec<TaskSpec>) {
        self.die_for(graph(specs, self.graph.fail_fast()));
    }

    fn die_for(&mut self, graph: Arc<Graph>) {
        self.graph = graph;
        self.effects.clear();
        self.state = self.store.recover(&self.graph);
        self.apply(Event::Begin).unwrap();
    }

    pub(crate) fn find(&self, name: &str) -> TaskRef {
        self.graph.find_element(name).unwrap()
    }

    /// The names of the tasks that became ready since the last call; other effects are kept.
    pub(crate) fn ready(&mut self) -> Vec<String> {
        let (ready, rest) =
            std::mem::take(&mut self.effects).into_iter().partition(|e| matches!(e, Effect::Ready { .. }));
        self.effects = rest;
        let ready: Vec<Effect> = ready;
        let name = |effect: &Effect| match effect {
            Effect::Ready { task } => self.graph.name_of(*task).to_string(),
            _ => unreachable!(),
        };
        ready.iter().map(name).collect()
    }

    /// Enters a body as an executor does: required marks are committed first.
    pub(crate) fn enter(&mut self, name: &str) -> Entered {
        let task = self.find(name);
        let entered = self.state.enter(task, self.now).unwrap();
        if entered.mark {
            self.apply(Event::Started { task, attempt: entered.attempt }).unwrap();
        }
        entered
    }

    pub(crate) fn attempt(&self, name: &str) -> u32 {
        let task = self.find(name);
        self.state.rows().find(|(other, _)| *other == task).map_or(1, |(_, row)| row.attempts)
    }

    pub(crate) fn open(&mut self, name: &str, wait: Wait) {
        let (task, attempt) = (self.find(name), self.attempt(name));
        self.apply(Event::Opened { task, attempt, waits: vec![wait] }).unwrap();
    }

    pub(crate) fn record(&mut self, name: &str, wait: Wait, result: Result<Value, Failure>) {
        let (task, attempt) = (self.find(name), self.attempt(name));
        self.apply(Event::Recorded { task, attempt, wait, since: None, result }).unwrap();
    }

    pub(crate) fn close(&mut self, name: &str, key: EntryKey, result: Result<Value, Failure>) -> Result<(), Refused> {
        let (task, attempt) = (self.find(name), self.attempt(name));
        self.apply(Event::Closed { task, attempt, key, result, proved: true, polls: 0, retry: RETRY })
    }

    pub(crate) fn end(&mut self, name: &str, outcome: Outcome) -> Result<(), Refused> {
        let (task, attempt) = (self.find(name), self.attempt(name));
        self.apply(Event::Ended { task, attempt, outcome })
    }

    /// Enters a body, which returns.
    pub(crate) fn complete(&mut self, name: &str) {
        self.enter(name);
        self.end(name, Outcome::Completed { output: Value::NONE, changes: None }).unwrap();
    }

    /// A body raises.
    pub(crate) fn fail(&mut self, name: &str, retry: Option<Retry>) {
        self.end(name, Outcome::Failed { failure: failure(name), retry }).unwrap();
    }

    pub(crate) fn due(&mut self, name: &str, timer: Timer) -> Result<(), Refused> {
        let (task, attempt) = (self.find(name), self.attempt(name));
        self.apply(Event::Due { task, attempt, timer })
    }

    pub(crate) fn recall(&self, name: &str, wait: &Wait) -> Recall {
        let (task, attempt) = (self.find(name), self.attempt(name));
        let lookup = lookup(&wait.operation);
        let (key, recall) = self.state.recall(task, attempt, &mut Uses::default(), &wait.key.name, &lookup).unwrap();
        assert_eq!(key, wait.key);
        recall
    }

    /// Whether a task's body was to be woken since the last call; other effects are kept.
    pub(crate) fn woken(&mut self, name: &str) -> bool {
        let of = self.find(name);
        let before = self.effects.len();
        self.effects.retain(|effect| !matches!(effect, Effect::Woken { task } if *task == of));
        self.effects.len() < before
    }

    /// Carries out the effects of consumed messages.
    pub(crate) fn carry_out_consumed(&mut self) {
        for effect in &self.effects {
            if let Effect::Consumed { number } = effect {
                self.state.forget_message(*number);
            }
        }
        self.effects.retain(|effect| !matches!(effect, Effect::Consumed { .. }));
    }

    /// The timers that end waits, set since the last call; other effects are kept.
    pub(crate) fn wait_timers(&mut self) -> Vec<(Time, Event)> {
        let mut timers = Vec::new();
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Timer { at, event } if matches!(*event, Event::Elapsed { .. }) => timers.push((at, *event)),
                other => self.effects.push(other),
            }
        }
        timers
    }

    /// The times have come of all timers that end waits.
    pub(crate) fn ring(&mut self) {
        for (at, event) in self.wait_timers() {
            self.now = self.now.max(at);
            // Refused, if the wait is over.
            let _ = self.apply(event);
        }
    }

    /// What a task's gate was satisfied with.
    pub(crate) fn gate_value(&self, name: &str) -> Option<Value> {
        self.state.gate_value(self.find(name), 0)
    }

    pub(crate) fn row(&self, name: &str) -> &TaskRow {
        let task = self.find(name);
        &self.store.rows[&(id_of(task.ix), task.map)]
    }

    pub(crate) fn journal(&self, name: &str) -> Vec<String> {
        self.store.entries_of(self.find(name).ix).iter().map(|entry| entry.key.name.to_string()).collect()
    }

    pub(crate) fn blocked_by(&self, name: &str) -> &str {
        self.row(name).blocked_by.as_deref().unwrap()
    }

    pub(crate) fn status(&self) -> RunStatus {
        self.store.run.status
    }

    /// The times of the timers of the run as a whole, taken.
    pub(crate) fn run_timers(&mut self) -> Vec<(Time, Event)> {
        let mut timers = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Timer { at, event } if matches!(**event, Event::StartDue | Event::Expired) => {
                timers.push((*at, (**event).clone()));
                false
            }
            _ => true,
        });
        timers
    }

    /// The times of the requested timers.
    pub(crate) fn timers(&self) -> Vec<(Time, Timer)> {
        let timer = |effect: &Effect| match effect {
            Effect::Timer { at, event } => match **event {
                Event::Due { timer, .. } => Some((*at, timer)),
                _ => None,
            },
            _ => None,
        };
        self.effects.iter().filter_map(timer).collect()
    }

    /// The times of the watched gates: when they are reached and when they time out.
    pub(crate) fn gates(&self) -> Vec<(Option<Time>, Option<Time>)> {
        let gate = |effect: &Effect| match effect {
            Effect::Gate { task, deadline, .. } => {
                let key = self.graph.spec(task.ix).gate.as_ref().unwrap().key();
                let entry = self.store.entry(task.ix, &key).unwrap();
                assert_eq!((entry.due(), entry.deadline), (None, *deadline), "watched by another time than recorded");
                Some((None, *deadline))
            }
            Effect::Timer { at, event } => match &**event {
                Event::Elapsed { task, key, at: ends, .. } => {
                    let entry = self.store.entry(task.ix, key).unwrap();
                    assert_eq!(entry.due().into_iter().chain(entry.deadline).min(), Some(*ends));
                    assert_eq!(ends, at, "ends at another time than recorded");
                    Some((entry.due(), entry.deadline))
                }
                _ => None,
            },
            _ => None,
        };
        self.effects.iter().filter_map(gate).collect()
    }
}
