//! Makes every call of a store on a file, and applies what it returns to the run machine. Errors are fine; panics are
//! not.

use std::sync::Arc;
use std::time::Duration;

use bide_core::event::{Retry, Wait};
use bide_core::record::NewRun;
use bide_core::{
    Address, Batch, Changes, Effect, EntryKey, Event, Failure, FailureKind, GateSpec, Graph, Lookup, Message,
    Operation, Outcome, RunState, RunStatus, StepArguments, TaskId, TaskRef, Time, Uses, Value, context,
};
use bide_store::{EventRange, Lease, RunFilter, Seen, Store, StoreError};

use crate::seed;

/// After all times of the seed.
const NOW: Time = Time(1_800_000_000_000_000);

/// A run's life ends, or is cut off.
const MOST_EVENTS: usize = 64;

/// The errors that a store has returned.
#[derive(Default)]
pub(crate) struct StoreErrors(pub(crate) Vec<StoreError>);

impl StoreErrors {
    fn note<T>(&mut self, answer: Result<T, StoreError>) -> Option<T> {
        answer.map_err(|error| self.0.push(error)).ok()
    }
}

/// Makes every call of a store, recovers its runs and plays them to their end. What is refused keeps nothing else from
/// being asked.
pub(crate) fn everything(store: &dyn Store, graph: &Arc<Graph>, errors: &mut StoreErrors) {
    let workflow = errors.note(seed::register(store, graph));
    for status in [None, Some(RunStatus::Running), Some(RunStatus::Failed)] {
        let filter = RunFilter { status, workflow: status.map(|_| "workflow".to_owned()), ..RunFilter::default() };
        errors.note(store.list(&filter));
    }
    for n in 0..seed::RUNS {
        errors.note(store.by_key(&format!("key {n}"), None));
        errors.note(store.load(seed::id(n)));
    }
    let first = seed::id(0);
    errors.note(store.messages(first, 0));
    errors.note(store.children(first));
    errors.note(store.standing(first));
    errors.note(store.answer(first, 9));
    for range in [EventRange::After { offset: 0, most: 10 }, EventRange::Last] {
        let rows = errors.note(store.events(first, "log", range)).flatten().unwrap_or_default();
        rows.iter().for_each(|row| drop(row.events()));
    }
    for (number, address) in [(40, Address::signal("go")), (41, seed::answer())] {
        let message = Message { number, address, id: None, content: Ok(Value::NONE), sent_at: NOW };
        errors.note(store.send(first, &message));
    }
    errors.note(store.mail(0));
    errors.note(store.is_alive(1, NOW.into()));
    errors.note(store.wait_for_changes(Seen::default(), Duration::ZERO));
    let Some(lease) = errors.note(store.enroll(NOW.into())) else { return };
    if let Some(workflow) = workflow {
        let ids: Arc<[TaskId]> = workflow.tasks.iter().map(|task| task.id).collect();
        let versions = errors.note(store.versions(workflow.number)).unwrap_or_default();
        let versions: Vec<i64> = versions.iter().map(|version| version.version).collect();
        for claimed in errors.note(store.claim(lease, &versions, NOW.into(), 10)).unwrap_or_default() {
            let Some(Some(stored)) = errors.note(store.load(claimed)) else { continue };
            let _ = stored.run.unpacked_inputs();
            // As the executor does: a run whose tasks do not fit the graph is not recovered.
            if ids.len() == graph.len()
                && let Ok(state) = RunState::recover(graph, &ids, Some(workflow.version), stored)
            {
                live(store, lease, graph, state, errors);
            }
        }
        let again = NewRun::new(seed::id(99), workflow.number, workflow.version, NOW).with_key(Some("key 0".into()));
        errors.note(store.create(lease, &[again]));
    }
    errors.note(store.renew(lease, NOW.into()));
    errors.note(store.delete(seed::id(2)));
    errors.note(store.purge(NOW, i64::MIN, 10));
    errors.note(store.leave(lease));
}

/// Plays a run as far as it gets, and commits all of it.
fn live(store: &dyn Store, lease: Lease, graph: &Graph, mut state: RunState, errors: &mut StoreErrors) {
    let (mut batch, mut effects) = (Batch::new(), Vec::new());
    let message =
        Message { number: 50, address: Address::signal("go"), id: None, content: Ok(Value::NONE), sent_at: NOW };
    let ended = Event::ChildEnded { run: seed::child(), status: RunStatus::Failed };
    let mut events = vec![ended, Event::Message { message: Box::new(message) }, Event::Begin];
    let mut turns = 0;
    while let Some(event) = events.pop()
        && turns < MOST_EVENTS
    {
        let _ = state.apply(event, NOW, &mut batch, &mut effects);
        for effect in std::mem::take(&mut effects) {
            react(graph, &mut state, effect, &mut events);
        }
        turns += 1;
    }
    let _ = errors.note(store.commit(lease, &mut batch));
    let rows: Vec<_> = state.rows().map(|(_, row)| row).collect();
    let changes: Vec<Option<Changes>> =
        rows.iter().map(|row| row.changes.as_ref().and_then(|blob| Changes::unpack(blob).ok())).collect();
    for ix in 0..graph.len() as u32 {
        let _ = context::view(graph, ix, &[], |ix| changes[ix as usize].as_ref());
    }
}

/// What the executor would do, in its most eventful way: a body recalls, waits, and fails while it may be retried.
fn react(graph: &Graph, state: &mut RunState, effect: Effect, events: &mut Vec<Event>) {
    match effect {
        Effect::Ready { task } => {
            let Some(entered) = state.enter(task, NOW) else { return };
            let attempt = entered.attempt;
            events.push(ended(task, attempt));
            let mut uses = Uses::default();
            for n in 5..9 {
                let proof: Option<Arc<[u8]>> = Some([n; 16].into());
                let step = Lookup::Step(Box::new(StepArguments { proof: proof.clone(), ..StepArguments::default() }));
                let pushed =
                    [Lookup::Message(seed::answer()), Lookup::Child { run: seed::child() }, Lookup::KeyedStart];
                for lookup in [step, Lookup::Time, Lookup::Condition { proof }].into_iter().chain(pushed) {
                    let _ = state.recall(task, attempt, &mut uses, &"it".into(), &lookup);
                }
            }
            let key = EntryKey { name: "it".into(), n: 4 };
            let wait = Wait { key: key.clone(), operation: Operation::Condition { proof: None }, timeout: None };
            events.push(closed(task, attempt, key));
            events.push(Event::Opened { task, attempt, waits: vec![wait] });
            events.push(Event::Started { task, attempt });
        }
        Effect::Gate { task, attempt, .. } => {
            let Some(key) = graph.spec(task.ix).gate.as_ref().map(GateSpec::key) else { return };
            events.push(closed(task, attempt, key));
        }
        Effect::Timer { event, .. } => events.push(*event),
        Effect::Grace { task, attempt, .. } => {
            let (grace, limit) = (Duration::ZERO, Duration::from_secs(60));
            events.push(Event::GraceOver { task, attempt, grace, limit });
        }
        Effect::PollNow { .. }
        | Effect::Interrupted { .. }
        | Effect::Answered { .. }
        | Effect::Cleared { .. }
        | Effect::Consumed { .. }
        | Effect::Emitted => {}
        Effect::Woken { .. } | Effect::Settled { .. } | Effect::Happened(_) => {}
    }
}

fn ended(task: TaskRef, attempt: u32) -> Event {
    let outcome = if task.ix == 0 {
        let failure = Failure::new(FailureKind::Raised, "ValueError", "again");
        Outcome::Failed { failure, retry: Some(Retry { random: 0.5 }) }
    } else {
        Outcome::Completed { output: Value::NONE, changes: None }
    };
    Event::Ended { task, attempt, outcome }
}

/// A wait that is over.
fn closed(task: TaskRef, attempt: u32, key: EntryKey) -> Event {
    Event::Closed { task, attempt, key, result: Ok(Value::NONE), proved: true, polls: 0, retry: None }
}
