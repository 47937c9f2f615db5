//! An open gate whose condition is a coroutine, which the host polls on the loop, or whose time one computes.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::Polled;
use bide_core::attempt::polling::Polling;
use bide_core::event::Retry;
use bide_core::{Event, Failure, GateSpec, GateTime, GateUntil, Value};
use bide_sched::Alarm;
use bide_sync::Mutex;

use super::alarm::{Ring, Sleeping};
use super::dispatch::Coroutines;
use super::rest::{UnderWay, Whose};
use crate::engine::Engine;
use crate::host::{Gate, Host};
use crate::ledger::QueuedEvent;

/// A gate that is polled.
pub struct GateWatch<H: Host> {
    /// The engine.
    engine: Arc<Engine<H>>,
    /// The dispatcher.
    coroutines: Arc<Coroutines<H>>,
    /// The gate.
    gate: Gate<H>,
    /// Decides what a poll means.
    polling: Mutex<Polling>,
    /// With a clock that is moved by hand: counts it until it is closed.
    under_way: Mutex<Option<UnderWay>>,
}

impl<H: Host> GateWatch<H> {
    /// A gate that has opened.
    #[must_use]
    pub fn new(engine: &Arc<Engine<H>>, coroutines: &Arc<Coroutines<H>>, gate: Gate<H>) -> Self {
        let policy = H::gate_policy(&gate.run.workflow.bodies[gate.task.ix as usize], gate.part);
        let polling = Mutex::new(Polling::new(policy, gate.deadline));
        let under_way = Mutex::new(coroutines.book.get().map(|book| book.call(Whose::Gate)));
        Self { engine: Arc::clone(engine), coroutines: Arc::clone(coroutines), gate, polling, under_way }
    }

    /// The gate.
    #[must_use]
    pub fn gate(&self) -> &Gate<H> {
        &self.gate
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine<H>> {
        &self.engine
    }

    /// Whether it is to be polled now: its answer is still needed, and the lease holds.
    pub async fn may_poll(self: Arc<Self>) -> bool {
        self.engine.is_sure_of_lease_async().await && self.gate.is_awaited()
    }

    /// What a poll means: after how long to poll again, or `None` if the gate is closed. `retries`: whether the task's
    /// retry policy covers a failure.
    pub fn judge(&self, polled: Polled, retries: impl FnOnce(&Failure) -> bool) -> Option<Duration> {
        let (engine, gate) = (&self.engine, &self.gate);
        let mut polling = self.polling.lock();
        let result = polling.judge(polled, &**engine, || gate.timed_out());
        gate.run.note_error(gate.task, polling.error());
        let Some(result) = result else {
            let span = polling.next(&**engine);
            gate.note_polls(&polling, span, &**engine.clock()).into_iter().for_each(|event| self.queue(event));
            return Some(span);
        };
        let polls = polling.asked();
        drop(polling);
        self.close(result, polls, retries);
        None
    }

    /// Whether it waits for a time that the host computes, once.
    #[must_use]
    pub fn is_computed(&self) -> bool {
        self.gate.spec().is_some_and(|spec| spec.until == GateUntil::Computed)
    }

    /// What the host has computed for it; `retries` as for [`GateWatch::judge`].
    pub fn timed(&self, time: Result<GateTime, Failure>, retries: impl FnOnce(&Failure) -> bool) {
        let gate = &self.gate;
        match time {
            Ok(time) => {
                let Some(key) = gate.spec().map(GateSpec::key) else { return };
                self.queue(Event::Timed { task: gate.task, attempt: gate.attempt, key, time });
                self.under_way.lock().take();
            }
            Err(failure) => self.close(Err(failure), 0, retries),
        }
    }

    fn close(&self, result: Result<Value, Failure>, polls: u32, retries: impl FnOnce(&Failure) -> bool) {
        let gate = &self.gate;
        let Some(key) = gate.spec().map(GateSpec::key) else { return };
        let retry = match &result {
            Err(failure) if retries(failure) => Some(Retry { random: self.engine.random() }),
            _ => None,
        };
        let event = Event::Closed { task: gate.task, attempt: gate.attempt, key, result, proved: true, polls, retry };
        self.queue(event);
        self.under_way.lock().take();
    }

    fn queue(&self, event: Event) {
        let (run, at) = (Arc::clone(&self.gate.run), self.engine.now());
        let event = QueuedEvent { run, event, at, completion: None };
        self.coroutines.queue(&self.engine, event, self.engine.clock().machine());
    }

    /// Sleeps until the next poll.
    pub async fn sleep(self: Arc<Self>, span: Duration) {
        let ring = Ring::new(self.coroutines.book.get().map(|book| book.sleep(Whose::Gate)));
        let alarm: Arc<dyn Alarm> = Arc::clone(&ring) as Arc<dyn Alarm>;
        let timer = Some(self.engine.timers().poll_after(span, self.polling.lock().is_endless(), alarm, 0));
        let sleeping = Sleeping { engine: &self.engine, timer, ring };
        let gates = &self.coroutines.sleeping_gates;
        let _found = gates.add(self.gate.run.id.row(), self.gate.task, &sleeping.ring);
        sleeping.ring.rung().await;
    }
}
