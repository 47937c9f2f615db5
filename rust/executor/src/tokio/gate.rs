//! Gates: waits that are satisfied before a task's body starts. A condition is polled by one small tokio task.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bide_core::attempt::polling::Polling;
use bide_core::event::Retry;
use bide_core::{DefinitionError, Event, GateSpec, GateUntil, PollPolicy, Tolerance, Value};

use super::codec::serialization_failure;
use super::context::Scope;
use super::dispatch::Stage;
use super::lane::{Caught, is_sure_of_lease};
use super::wait::{Answer, stored_time};
use super::workflow::{BoxFuture, Closures};
use crate::engine::Engine;
use crate::host::{self, Polled};
use crate::ledger::QueuedEvent;

pub(super) type GateCondition = Box<dyn Fn(Scope) -> BoxFuture<'static, Polled> + Send + Sync>;

/// A wait on the task itself, satisfied before its body starts: it costs a row and a timer, no slot.
pub struct Wait {
    until: GateUntil,
    name: Option<Arc<str>>,
    timeout: Option<Duration>,
    policy: PollPolicy,
    condition: Option<GateCondition>,
}

/// A condition, asked every second unless [`every`](Wait::every) says otherwise.
#[must_use]
pub fn until<F, R>(condition: F) -> Wait
where
    F: Fn(Scope) -> R + Send + Sync + 'static,
    R: Future<Output: Answer> + Send + 'static,
{
    let condition = Arc::new(condition);
    let condition: GateCondition = Box::new(move |scope| {
        let condition = Arc::clone(&condition);
        Box::pin(async move { condition(scope).await.polled() })
    });
    Wait::new(GateUntil::Condition, Some(condition))
}

/// A span after the task could have started.
#[must_use]
pub fn after(span: Duration) -> Wait {
    Wait::new(GateUntil::After(span), None)
}

/// A point in time.
#[must_use]
pub fn at(time: SystemTime) -> Wait {
    Wait::new(GateUntil::At(stored_time(time)), None)
}

impl Wait {
    fn new(until: GateUntil, condition: Option<GateCondition>) -> Self {
        Self { until, name: None, timeout: None, policy: PollPolicy::every(Duration::from_secs(1)), condition }
    }

    /// How often the condition is asked.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.policy.every = interval;
        self
    }

    /// How the condition is asked, in full.
    #[must_use]
    pub fn policy(mut self, policy: PollPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// What happens when the condition fails.
    #[must_use]
    pub fn on_error(mut self, tolerate: Tolerance) -> Self {
        self.policy.tolerate = tolerate;
        self
    }

    /// How long it may stay shut: then the task fails (and is retried if its policy covers that).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Its name in the journal, instead of `gate`.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    pub(super) fn validate(&self) -> Result<(), DefinitionError> {
        self.policy.validate()
    }

    pub(super) fn into_parts(self) -> (GateSpec, Option<GateCondition>, PollPolicy) {
        let name = self.name.unwrap_or_else(|| "gate".into());
        (GateSpec { name, until: self.until, timeout: self.timeout }, self.condition, self.policy)
    }
}

/// Polls an open gate until it is satisfied, has failed, or the runner closes.
pub(super) async fn watch(engine: Arc<Engine<Closures>>, gate: host::Gate<Closures>) {
    let run = Arc::clone(&gate.run);
    let body = &run.workflow.bodies[gate.task.ix as usize];
    let mut stage = engine.dispatch().stage();
    let mut polling = Polling::new(body.gate_policy, gate.deadline);
    let result = loop {
        if !is_sure_of_lease(&engine).await || !gate.is_awaited() {
            return;
        }
        let polled = match &body.gate {
            Some(condition) => {
                let scope = Scope::new(&run, gate.task);
                let asked = Caught::new(condition(scope));
                tokio::select! {
                    biased;
                    asked = asked => asked.unwrap_or_else(Polled::Raised),
                    () = Stage::left(&mut stage, Stage::Open) => return,
                }
            }
            // The workflow's newer version has no condition here any more: nothing to wait for.
            None => Polled::True(Value::NONE),
        };
        let result = polling.judge(polled, &*engine, || gate.timed_out());
        run.note_error(gate.task.ix, polling.error());
        if let Some(result) = result {
            break result;
        }
        let span = polling.next(&*engine);
        tokio::select! {
            biased;
            () = Stage::left(&mut stage, Stage::Open) => return,
            () = tokio::time::sleep(span) => {}
        }
    };
    let Some(key) = gate.spec().map(GateSpec::key) else { return };
    let retry = match &result {
        Err(failure) if body.retries(failure) => Some(Retry { random: engine.random() }),
        _ => None,
    };
    let event = Event::Closed { task: gate.task, attempt: gate.attempt, key, result, proved: true, retry };
    engine.hand_in(QueuedEvent { run, event, at: engine.clock.now(), completion: None });
}

/// What a condition's value that cannot be stored is taken for.
pub(super) fn unstorable(why: &str) -> Polled {
    Polled::Broken(serialization_failure(&format!("a condition's value cannot be stored: {why}; return a bool")))
}
