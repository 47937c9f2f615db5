//! What a case and a driver share during one process: the driver reports each event, the probe answers for the user's
//! code and writes down what was seen.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bide_core::attempt::CallError;
use bide_core::{Batch, EntryState, Failure, FailureKind, RunStatus, Time, Value, Write};
use bide_core::{Entry, EntryKey};
use bide_executor::Clock;
use bide_store::{LEASE, LeaseTime, MemoryStore, RunFilter, Store};
use bide_sync::Mutex;

use super::script::{Answer, Call, Life, Meanwhile, Says};
use crate::clock::{START, VirtualClock};
use crate::fault::FaultyStore;

/// A condition that is asked more often than this is asked by a driver that never ends.
const MOST_ASKED: usize = 20;

/// One process of a case.
pub struct Probe {
    /// Which process it is, from 0: the seed of its engine, so that no two make the same ids.
    pub seed: u64,
    /// What the body or gate does.
    pub life: Life,
    /// The only clock. A driver moves it to the next due time while nothing executes.
    pub clock: Arc<VirtualClock>,
    /// Where the run lives.
    pub store: Arc<FaultyStore>,
    /// The store of all processes of the case.
    base: Arc<MemoryStore>,
    /// What was seen in all processes of the case, in turn.
    seen: Arc<Mutex<Vec<Observation>>>,
    /// What it remembers from one call to the next.
    state: Mutex<State>,
    /// The runner is closing.
    closes: AtomicBool,
}

/// A time in milliseconds, with whether the body has a slot then, and what happens.
pub(super) type Observation = (String, String);

/// Returns whether the body has a slot now.
type HasSlot = Arc<dyn Fn() -> bool + Send + Sync>;

#[derive(Default)]
struct State {
    /// How often each call has asked its condition.
    asked: Vec<usize>,
    /// The last renewal of the lease that was written down.
    renewed: Option<LeaseTime>,
    /// A body is inside its function.
    inside: bool,
    /// Whether the body has a slot; `None` for a gate.
    has_slot: Option<HasSlot>,
    /// The open waits, with what their rows say of their errors.
    open: HashMap<EntryKey, Option<String>>,
}

impl Probe {
    pub(super) fn new(
        seed: u64,
        life: Life,
        clock: Arc<VirtualClock>,
        base: Arc<MemoryStore>,
        seen: Arc<Mutex<Vec<Observation>>>,
    ) -> Arc<Self> {
        let store = FaultyStore::new(Arc::clone(&base) as Arc<dyn Store>);
        let state = State { asked: vec![0; life.calls.len()], renewed: Some(clock.lease_time()), ..State::default() };
        let (state, closes) = (Mutex::new(state), AtomicBool::new(false));
        let probe = Arc::new(Self { seed, life, clock, store, base, seen, state, closes });
        let watcher = Arc::downgrade(&probe);
        probe.store.watch(Box::new(move |_, _, batch| {
            watcher.upgrade().into_iter().for_each(|probe| probe.committed(batch));
        }));
        probe
    }

    /// A call by its position.
    #[must_use]
    pub fn call(&self, at: usize) -> &Call {
        &self.life.calls[at]
    }

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> String {
        super::in_words(&self.seen.lock())
    }

    /// The body is entered; `has_slot` returns at any time whether it has a slot.
    pub fn enters(&self, has_slot: HasSlot) {
        let mut state = self.state.lock();
        state.inside = true;
        state.has_slot = Some(has_slot);
    }

    /// The body has returned.
    pub fn leaves(&self) {
        let mut state = self.state.lock();
        state.inside = false;
        state.has_slot = None;
    }

    /// Whether a body is inside its function.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.state.lock().inside
    }

    /// Whether the runner is closing.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.closes.load(Ordering::SeqCst)
    }

    /// The condition of a call is asked, or its step is executed. Returns what it says and what else the driver has to
    /// do before it passes that on.
    pub fn ask(&self, at: usize) -> (Says, Option<Meanwhile>) {
        let call = self.call(at);
        let asked = {
            let mut state = self.state.lock();
            state.asked[at] += 1;
            state.asked[at] - 1
        };
        self.note(&format!("ask {}", call.name));
        if asked == MOST_ASKED {
            self.note("asked for ever");
        }
        let last = call.answers.last().copied().unwrap_or(Says::Yes.at_once());
        let Answer { says, takes, meanwhile } = call.answers.get(asked).copied().unwrap_or(last);
        self.clock.advance(takes);
        match meanwhile {
            Some(Meanwhile::RunIsLost | Meanwhile::LossIsNoticed) => self.another_runner_claims(),
            Some(Meanwhile::StoreFails(fault)) => self.store.fail_next(fault),
            Some(Meanwhile::StoreFailsLater(fault)) => self.store.fail(self.store.calls() + 2, fault),
            Some(Meanwhile::RunnerCloses) => self.closes.store(true, Ordering::SeqCst),
            Some(Meanwhile::TimersRing | Meanwhile::HandleIsCalled) | None => {}
        }
        (if asked > MOST_ASKED { Says::Yes } else { says }, meanwhile)
    }

    /// The lease runs out, and another runner has the run.
    fn another_runner_claims(&self) {
        self.clock.advance(LEASE + Duration::from_secs(1));
        let now = self.clock.lease_time();
        let claimed = self.base.enroll(now).and_then(|other| {
            let versions: Vec<i64> =
                self.base.versions(0)?.iter().chain(&self.base.versions(1)?).map(|it| it.version).collect();
            self.base.claim(other, &versions, now, 9)
        });
        assert!(claimed.as_ref().is_ok_and(|runs| runs.len() == 1), "another runner claims the run: {claimed:?}");
    }

    /// A call of the body has ended. False if the body is to return now.
    pub fn ends(&self, result: &Result<Value, CallError>) -> bool {
        self.note(&in_words(result));
        matches!(result, Ok(_) | Err(CallError::Failed(_)))
    }

    /// As [`Probe::ends`], of the recorded time.
    pub fn ends_now(&self, result: &Result<Time, CallError>) -> bool {
        self.note(&match result {
            Ok(time) => format!("returns {}", milliseconds(*time)),
            Err(CallError::Failed(failure)) => format!("fails: {}", failure.message()),
            Err(error) => in_words(&Err(error.clone())),
        });
        matches!(result, Ok(_) | Err(CallError::Failed(_)))
    }

    /// Notes the result of a call within a condition or step.
    pub fn ends_within(&self, result: &Result<(), CallError>) {
        self.note(&format!("within: {}", in_words(&result.clone().map(|()| Value::NONE))));
    }

    /// A batch is committed.
    pub(crate) fn committed(&self, batch: &Batch) {
        for write in batch {
            match write {
                Write::Entry { entry, .. } if self.notes_an_error(entry) => {}
                Write::Entry { entry, .. } => self.note(&entry_in_words(entry)),
                Write::DropEntries { keys, .. } => {
                    let names: Vec<&str> = keys.iter().map(|key| &*key.name).collect();
                    self.note(&format!("drop {}", names.join(" ")));
                }
                Write::Run(update) if update.status == RunStatus::Paused => {
                    let why = update.blocked_by.as_ref().map(ToString::to_string);
                    self.note(&format!("paused: {}", why.unwrap_or_default()));
                }
                _ => {}
            }
        }
        if batch.iter().any(|write| matches!(write, Write::Entry { .. } | Write::DropEntries { .. })) {
            self.clock.advance(self.life.commit_takes);
        }
    }

    /// Whether an open wait is written again because of what its condition raises, which is of interest to people alone.
    fn notes_an_error(&self, entry: &Entry) -> bool {
        let (key, open) = (entry.key.clone(), &mut self.state.lock().open);
        if entry.state != EntryState::Open {
            open.remove(&key);
            return false;
        }
        let error = entry.failure.as_ref().map(ToString::to_string);
        open.insert(key, error.clone()).is_some_and(|before| before != error)
    }

    /// Writes down what was seen, and before it a renewal of the lease.
    fn note(&self, what: &str) {
        let has_slot = self.state.lock().has_slot.clone();
        let slot = if has_slot.is_some_and(|has_slot| has_slot()) { " slot" } else { "" };
        let now = self.clock.now();
        let renewed = self.store.renewed();
        let mut seen = self.seen.lock();
        let mut state = self.state.lock();
        if renewed != state.renewed {
            state.renewed = renewed;
            seen.extend(renewed.map(|renewed| (milliseconds(renewed.wall).to_string(), "lease".to_owned())));
        }
        drop(state);
        seen.push((format!("{}{slot}", milliseconds(now)), what.to_owned()));
    }

    pub(super) fn processes_die(&self) {
        let rows = self.base.list(&RunFilter::default()).unwrap_or_default();
        rows.iter().filter_map(|row| row.run.runner).for_each(|runner| self.base.process_died(runner));
    }
}

/// Milliseconds since the case began.
fn milliseconds(time: Time) -> i64 {
    (time.0 - START.0) / 1000
}

fn failure_in_words(failure: &Failure) -> String {
    // Hosts say in their own words what cannot be stored.
    let message = if failure.kind == FailureKind::Serialization { String::new() } else { failure.message() };
    format!("{:?} {message}", failure.kind).trim_end().to_owned()
}

fn in_words(result: &Result<Value, CallError>) -> String {
    match result {
        Ok(_) => "returns".to_owned(),
        Err(CallError::Failed(failure)) => format!("fails: {}", failure_in_words(failure)),
        Err(CallError::Suspended) => "suspended".to_owned(),
        Err(CallError::Over(refused)) => format!("over: {refused}"),
        Err(CallError::Mismatch(why)) => format!("mismatch: {why}"),
        Err(CallError::TimedOut(why)) => format!("timed out: {why}"),
        Err(CallError::Misuse(why)) => format!("misuse: {why}"),
    }
}

fn entry_in_words(entry: &Entry) -> String {
    let name = &entry.key.name;
    let proof = if entry.proof().is_none() && entry.kind() == bide_core::EntryKind::Condition && entry.key.n > 0 {
        " without a proof"
    } else {
        ""
    };
    match (entry.state, entry.failure.as_deref()) {
        (EntryState::Open, _) => format!("open {name}"),
        (EntryState::Lost, _) => format!("lost {name}"),
        (EntryState::Satisfied, _) => format!("record {name}{proof}"),
        (EntryState::Failed, failure) => {
            format!("record {name}{proof}: {}", failure.map(failure_in_words).unwrap_or_default())
        }
    }
}
